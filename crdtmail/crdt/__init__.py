"""The pure core: clocks, deltas, message state, UID rules, the account directory.  No I/O, time or chance."""
