"""TLS: one context to serve with, one to call peers with."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from crdtmail.errors import ConfigError
from crdtmail.limits import MAX_SECRET_FILE
from crdtmail.security.files import read, read_private


@dataclass(frozen=True, slots=True)
class Tls:
    """What was read from the files; two of them are the same if the files were."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    knows_peers: bool
    """Whether peers must show a certificate that the cluster's CA has signed."""
    digest: bytes


def load(certificate: Path, key: Path, ca: Path | None) -> Tls:
    """Raises ConfigError with the file that is at fault."""
    hash = hashlib.sha256(read_private(key, "the key", MAX_SECRET_FILE))
    for file in (certificate, ca):
        hash.update(b"" if file is None else read(file))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = client_context(ca)
    try:
        for context in (server, client):
            # The node has nobody to ask for a passphrase.
            context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{certificate} and {key} are no certificate and its key: {error}") from error
    if ca is not None:
        # Clients without a certificate are let in, and have their token; one by another CA is not.
        server.verify_mode = ssl.CERT_OPTIONAL
        try:
            server.load_verify_locations(cafile=ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{ca} holds no certificate: {error}") from error
    return Tls(server, client, ca is not None, hash.digest())


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Believes what `ca` has signed; without one, what this machine's own authorities have."""
    if ca is not None:
        read(ca)
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{ca} holds no certificate: {error}") from error
