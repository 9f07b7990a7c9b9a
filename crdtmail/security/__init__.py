"""Who may speak to a node: signatures and certificates of peers, tokens of clients.  Knows no HTTP."""
