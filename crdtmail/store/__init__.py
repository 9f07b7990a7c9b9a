"""Where the state lives: one interface, an LMDB and a memory store behind it, and the single writer."""
