"""Commands of the command line that bring their own options; `cli` adds them to the others."""
