"""Signatures of gossip with the cluster's secret: HMAC-SHA-256 over a request, and over its answer.

A request says when it was made in the time of whoever receives it, which that one tells in every answer:
a number that is new with each start, and seconds since then.  So no wall clock is asked, and nothing that
was recorded before a restart is ever taken again.  `docs/protocol.md` has it field by field.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from crdtmail.errors import Overloaded, PeerError, Refusal, Unauthenticated
from crdtmail.limits import MAX_NONCES, SIGNATURE_LIFE_S

_TIME = re.compile(r"([0-9a-f]{16})-([0-9]{1,12}\.[0-9]{3})", re.ASCII)
_NONCE = re.compile("[0-9a-f]{32}", re.ASCII)
_CHALLENGE = "Crdtmail-HMAC"


def digest(body: bytes) -> str:
    """A body as `Content-Digest` has it (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign_request(secret: bytes, method: str, path: str, time: str, nonce: str, sender: str, body: str) -> str:
    """`body` is its digest, so that a request is judged before its body is read."""
    return _sign(secret, "crdtmail request 1", method, path, time, nonce, sender, body)


def sign_answer(secret: bytes, nonce: str, status: int, time: str, sender: str, body: str) -> str:
    """`nonce` is the request's, so that an answer belongs to one request alone."""
    return _sign(secret, "crdtmail answer 1", nonce, str(status), time, sender, body)


def is_signed(expected: str, given: str) -> bool:
    """Whether a signature is the expected one, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="replace"))


def is_nonce(text: str) -> bool:
    return _NONCE.fullmatch(text) is not None


class Receiver:
    """The time of one life of a node, and the signed requests that it has seen in it."""

    def __init__(self, life: str, now: Callable[[], float]) -> None:
        self._life = life
        self._now = now
        self._started = now()
        self._seen: dict[str, float] = {}

    def time(self) -> str:
        return _time(self._life, self._age())

    def check(
        self, secret: bytes, method: str, path: str, time: str, nonce: str, sender: str, body: str, sign: str
    ) -> None:
        """Raises Unauthenticated with the reason, Overloaded if it cannot be remembered.

        A request is remembered for as long as its time is good: after that the time refuses it.
        """
        if not is_nonce(nonce):
            raise Unauthenticated(
                "the request is not signed with the cluster's secret", _CHALLENGE, Refusal.NOT_SIGNED
            )
        if not is_signed(sign_request(secret, method, path, time, nonce, sender, body), sign):
            raise Unauthenticated(
                "the request is signed with another secret, or was changed",
                _CHALLENGE,
                Refusal.FALSE_SIGNATURE,
            )
        told = _TIME.fullmatch(time)
        if told is None or told[1] != self._life:
            # Signed by a member that has not heard this node's time yet: no attack, so it is not counted.
            raise Unauthenticated(
                "the request does not tell this node's time",
                _CHALLENGE,
                Refusal.OLD_SIGNATURE,
                is_greeting=True,
            )
        now, at = self._age(), float(told[2])
        if abs(now - at) > SIGNATURE_LIFE_S:
            raise Unauthenticated(
                f"the request was signed {now - at:.0f} s ago", _CHALLENGE, Refusal.OLD_SIGNATURE
            )
        self._forget(now)
        if nonce in self._seen:
            raise Unauthenticated("the request was made once already", _CHALLENGE, Refusal.REPLAY)
        if len(self._seen) >= MAX_NONCES:
            raise Overloaded("too many signed requests at once")
        self._seen[nonce] = at + SIGNATURE_LIFE_S

    def check_body(self, said: str, body: bytes) -> None:
        """The body must be the one that was signed.  Raises Unauthenticated."""
        if not is_signed(digest(body), said):
            raise Unauthenticated(
                "the body is not the one that was signed", _CHALLENGE, Refusal.FALSE_SIGNATURE
            )

    def _age(self) -> float:
        return self._now() - self._started

    def _forget(self, now: float) -> None:
        """The oldest first; one of a caller whose time runs ahead keeps those behind it a little longer."""
        while self._seen and self._seen[first := next(iter(self._seen))] < now:
            del self._seen[first]


class Caller:
    """A receiver's time, as the one who calls it last heard it, and went on counting."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._heard: tuple[str, float] | None = None

    def time(self) -> str:
        """The receiver's time now; empty before it has told one."""
        if self._heard is None:
            return ""
        life, ahead = self._heard
        return _time(life, max(0.0, self._now() + ahead))

    def check(
        self, secret: bytes, nonce: str, status: int, time: str, sender: str, body: bytes, sign: str
    ) -> None:
        """Raises PeerError if the answer is not signed; else its time is believed."""
        if not is_signed(sign_answer(secret, nonce, status, time, sender, digest(body)), sign):
            raise PeerError(
                f"the answer ({status}) is not signed with this cluster's secret", Refusal.FALSE_SIGNATURE
            )
        told = _TIME.fullmatch(time)
        if told is None:
            raise PeerError("the answer does not tell the peer's time")
        self._heard = told[1], float(told[2]) - self._now()


def _time(life: str, seconds: float) -> str:
    return f"{life}-{seconds:.3f}"


def _sign(secret: bytes, *fields: str) -> str:
    """No field can hold a line's end: each comes from an HTTP header or request line."""
    return hmac.new(secret, "\n".join(fields).encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
