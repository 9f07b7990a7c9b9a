"""Whom a node lets in, read from its configuration, its environment and the files that these name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crdtmail.config import Config
from crdtmail.errors import ConfigError
from crdtmail.limits import MAX_SECRET_FILE, MIN_SECRET
from crdtmail.security import tls, tokens
from crdtmail.security.files import read_private
from crdtmail.security.tls import Tls
from crdtmail.security.tokens import Tokens

SECRET = "CRDTMAIL_CLUSTER_SECRET"


@dataclass(frozen=True, slots=True)
class Access:
    """What is None is not asked for, which only a node that listens on loopback may do.

    With tokens, peers are asked too: else whoever has none would read and write as one.
    """

    secret: bytes | None = field(default=None, repr=False)
    tls: Tls | None = None
    tokens: Tokens | None = None

    @property
    def knows_peers(self) -> bool:
        return self.secret is not None or (self.tls is not None and self.tls.knows_peers)


def load(config: Config, environment: Mapping[str, str]) -> Access:
    """Raises ConfigError: something cannot be used, or the node would let in everybody who reaches it."""
    certificates = config.tls
    access = Access(
        secret=_secret(config, environment),
        tls=None
        if certificates is None
        else tls.load(certificates.certificate, certificates.key, certificates.ca),
        tokens=tokens.load(config.data),
    )
    if not config.is_loopback:
        _check_closed(config, access)
    elif config.peers and access.tokens is not None and not access.knows_peers:
        raise ConfigError(
            "clients need tokens here, so peers must show who they are too: none could come in, or take what "
            f"this node sends.\n{_know_each_other(config)}"
        )
    return access


def _secret(config: Config, environment: Mapping[str, str]) -> bytes | None:
    told, file = environment.get(SECRET), config.cluster_secret_file
    if told and file is not None:
        raise ConfigError(f"the cluster's secret is given twice: by ${SECRET} and by cluster_secret_file")
    if file is not None:
        secret = read_private(file, "the cluster's secret", MAX_SECRET_FILE).strip()
    elif told:
        secret = told.strip().encode(errors="surrogateescape")
    else:
        return None
    if len(secret) < MIN_SECRET:
        raise ConfigError(
            f"the cluster's secret has {len(secret)} characters, at least {MIN_SECRET} are needed; "
            "make one with: head -c 32 /dev/urandom | base64"
        )
    return secret


def _check_closed(config: Config, access: Access) -> None:
    """Whoever reaches the port would be let in: say what to do about it, command by command."""
    steps = []
    if not access.knows_peers:
        steps.append(_know_each_other(config))
    if access.tokens is None or not access.tokens.all:
        steps.append(
            "Make a token for the clients:\n"
            f"    crdtmail token create NAME --scope read --scope write --account '*' --data {config.data}"
        )
    if steps:
        raise ConfigError(
            f"listening on {config.host} would let everybody who reaches it read and change mailboxes.\n"
            + "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
        )


def _know_each_other(config: Config) -> str:
    return (
        "Let the nodes know each other, by certificates:\n"
        f"    crdtmail certs FOLDER {config.name} OTHER-NODE ...\n"
        "  and do what it says, or by a secret that is the same on all nodes:\n"
        "    (umask 077; head -c 32 /dev/urandom | base64 > /etc/crdtmail/secret)\n"
        '    and in the configuration: cluster_secret_file = "/etc/crdtmail/secret"'
    )
