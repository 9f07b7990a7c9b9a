"""Gossip without I/O: what to send to a peer now, and what came of it.  Time and chance are handed in."""
