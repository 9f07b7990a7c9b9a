"""Mailboxes kept identical on several mail servers that all accept changes."""
