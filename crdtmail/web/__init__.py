"""HTTP: the JSON API for clients, CBOR gossip between nodes.  The only package that knows aiohttp."""
