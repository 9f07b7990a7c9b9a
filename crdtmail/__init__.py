"""Mailboxes kept identical on several mail servers that all accept changes."""

__version__ = "0.1.0"
