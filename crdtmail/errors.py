"""The one error tree.

Four kinds, by who is at fault: the other replica, the client, the store below us, the operator's
configuration.  What only a bug in crdtmail can cause is asserted and is no part of this tree.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class CrdtmailError(Exception):
    """Anything that crdtmail refuses for a reason from outside."""


class Refusal(StrEnum):
    """Why something of another node, or of a caller, is refused: counted by these names, which stay.

    Other nodes are told them.  `docs/protocol.md` says of each what it means.
    """

    MALFORMED = "malformed"
    CHECKSUM = "checksum"
    VERSION = "version"
    PROTOCOL = "protocol"
    OVER_LIMIT = "over-limit"
    TOO_SLOW = "too-slow"
    IMPOSSIBLE = "impossible"
    NOT_ASKED = "not-asked"
    OWN_DELTA = "own-delta"
    OWN_ID = "own-id"
    ANOTHER_CLUSTER = "another-cluster"
    CLOCK_WENT_BACK = "clock-went-back"
    GAP = "gap"
    NOT_NOW = "not-now"
    FILLING = "filling"
    NOT_SIGNED = "not-signed"
    FALSE_SIGNATURE = "false-signature"
    OLD_SIGNATURE = "old-signature"
    REPLAY = "replay"
    NO_CERTIFICATE = "no-certificate"
    FALSE_CERTIFICATE = "false-certificate"
    NO_TOKEN = "no-token"
    FALSE_TOKEN = "false-token"


class PeerError(CrdtmailError):
    """The other replica broke the protocol; nothing of what it sent was taken.

    `reason` is None where nothing of the other's was refused: it refused what was said to it.
    """

    def __init__(self, message: str, reason: Refusal | None = Refusal.MALFORMED) -> None:
        super().__init__(message)
        self.reason = reason


class UnknownProtocol(PeerError):
    """The question was asked in a version of the protocol that the node which was asked does not speak."""


class PeerUnreachable(PeerError):
    """The other replica cannot be reached, or did not answer in time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None)


class StoreError(CrdtmailError):
    """The store is damaged, of another format, or failing: stop rather than go on."""


class DamagedStore(StoreError):
    """The file of a store is damaged below its records: nothing in it can be relied on, or written to."""


class ConfigError(CrdtmailError):
    """The configuration or the command line cannot be followed as it stands."""


class SourceError(CrdtmailError):
    """A mail store that was to be imported cannot be read."""


class RequestError(CrdtmailError):
    """The client's request cannot be carried out; nothing was changed.

    Each subclass has one HTTP status and one problem type (RFC 9457), which never changes its meaning.
    """

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid-request"
    title: ClassVar[str] = "The request is not valid"


class NotFound(RequestError):
    status = 404
    type = "not-found"
    title = "There is no such thing here"


class AlreadyExists(RequestError):
    status = 409
    type = "already-exists"
    title = "That name is taken"


class StillHeard(RequestError):
    """What is said to be gone was heard of a moment ago."""

    status = 409
    type = "still-heard"
    title = "That member is alive"


class Ambiguous(RequestError):
    status = 409
    type = "ambiguous"
    title = "That name stands for several"


class Forbidden(RequestError):
    status = 403
    type = "forbidden"
    title = "This is never allowed"


class Unauthenticated(RequestError):
    """Nothing shows who asks; `challenge` says in WWW-Authenticate how it can be shown.

    A greeting is signed, but not for this life of the node: what every peer sends once after a restart.
    """

    status = 401
    type = "unauthenticated"
    title = "It is not shown who asks"

    def __init__(self, message: str, challenge: str, reason: Refusal, *, is_greeting: bool = False) -> None:
        super().__init__(message)
        self.challenge = challenge
        self.reason = reason
        self.is_greeting = is_greeting


class NotPermitted(RequestError):
    """The token is good, but not for this."""

    status = 403
    type = "not-permitted"
    title = "The token does not permit this"

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class CannotCalculateChanges(RequestError):
    """The state is another replica's or too old (JMAP's cannotCalculateChanges, RFC 8620 section 5.2)."""

    status = 409
    type = "cannot-calculate-changes"
    title = "Changes since that state are not known here; read the mailbox anew"


class TooLarge(RequestError):
    status = 413
    type = "too-large"
    title = "The request is over a limit"


class NotYet(RequestError):
    """This node has not yet applied everything that the client has already seen, or anything at all."""

    status = 503
    type = "not-yet"
    title = "This node has not caught up yet"


class Overloaded(RequestError):
    status = 503
    type = "overloaded"
    title = "Too much is waiting already"


class UidsExhausted(RequestError):
    """The mailbox has no UID left below 2^32 (RFC 9051 section 2.3.1.1)."""

    status = 507
    type = "uids-exhausted"
    title = "The mailbox has run out of UIDs"


class StoreFull(RequestError):
    """There is no room for a write.  It has changed nothing, and may be tried again."""

    status = 507
    type = "store-full"
    title = "The node has no room left"
