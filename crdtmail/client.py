"""A small client of the JSON API, for the command line and the demonstration.  Standard library only."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from crdtmail.errors import ConfigError, CrdtmailError
from crdtmail.limits import MAX_SECRET_FILE
from crdtmail.security.files import read_private
from crdtmail.security.tls import client_context

TIMEOUT_S = 90.0  # longer than the longest wait that a node grants


class Unreachable(CrdtmailError):
    """The node does not answer."""


class Refused(CrdtmailError):
    """The node answered with a problem; `type` is its stable name."""

    def __init__(self, status: int, type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type


class NotLetIn(Refused):
    """The node does not know who asks."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows (a token), and whose certificates it believes (`ca`; else this machine's own)."""

    token: str | None = field(default=None, repr=False)
    ca: Path | None = None

    @classmethod
    def find(
        cls, environment: Mapping[str, str], *, token_file: Path | None = None, ca: Path | None = None
    ) -> Credentials:
        """From files, before what the environment says.  Raises ConfigError."""
        given = environment.get("CRDTMAIL_TOKEN_FILE")
        file = token_file or (Path(given) if given else None)
        token = environment.get("CRDTMAIL_TOKEN") or None
        if token_file is not None or token is None:
            token = None if file is None else _token(read_private(file, "the file", MAX_SECRET_FILE), file)
        else:
            token = _token(token.encode(errors="surrogateescape"), "$CRDTMAIL_TOKEN")
        trusted = environment.get("CRDTMAIL_CA")
        return cls(token, ca or (Path(trusted) if trusted else None))


class Client:
    """One keep-alive connection to one node, at an address like http://127.0.0.1:7420."""

    def __init__(
        self, address: str, credentials: Credentials | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.address = address
        self._shown = shown = credentials or Credentials()
        parts = urlsplit(address)
        self._headers = {} if shown.token is None else {"Authorization": f"Bearer {shown.token}"}
        self._connection = (
            http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=client_context(shown.ca)
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        )

    def close(self) -> None:
        self._connection.close()

    def status(self) -> dict[str, Any]:
        status = self.request("GET", "/v1/status")
        if not {"replica", "clock", "digest"} <= status.keys():
            raise self._no_node()
        return status

    def accounts(self) -> Iterator[dict[str, Any]]:
        """Every account with its digest."""
        after = ""
        while True:
            page = self.request("GET", "/v1/accounts", query={"after": after})
            yield from page["accounts"]
            if not page["hasMore"]:
                return
            after = page["accounts"][-1]["account"]

    def digests(self, account: str) -> dict[str, Any]:
        return self.request("GET", f"/v1/accounts/{quote(account, safe='')}/digests")

    def mailboxes(self, account: str) -> list[dict[str, Any]]:
        answer = self.request("GET", f"/v1/accounts/{quote(account, safe='')}/mailboxes")
        found: list[dict[str, Any]] = answer["mailboxes"]
        return found

    def create_mailbox(self, account: str, name: str, **properties: Any) -> dict[str, Any]:
        path = f"/v1/accounts/{quote(account, safe='')}/mailboxes"
        return self.request("POST", path, {"name": name, **properties})

    def mailbox(self, account: str, name: str, *, limit: int = 1000) -> dict[str, Any]:
        """The merged state of the mailbox with this name, whole, read in pages of `limit`.

        `state` is that of the first page, so changes since then include whatever moved in between.
        """
        document = self.at(account, name, "GET", query={"limit": str(limit)})
        page = document
        while page["hasMore"]:
            last = str(page["messages"][-1]["uid"])
            page = self.at(account, name, "GET", query={"limit": str(limit), "after": last})
            document["messages"] += page["messages"]
        document["hasMore"] = False
        return document

    def at(
        self,
        account: str,
        mailbox: str,
        method: str,
        what: str = "",
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """A request to a mailbox by its name, or to `what` below it."""
        path = f"/v1/accounts/{quote(account, safe='')}/mailboxes/{quote('name:' + mailbox, safe='')}{what}"
        return self.request(method, path, body, query=query)

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON that answers.  Raises Unreachable, or Refused with the node's reason."""
        target = path + ("?" + urlencode(query) if query else "")
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": "application/json"} if data is not None else {})
        try:
            self._connection.request(method, target, data, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(
                f"the node at {self.address} does not answer: {reason}{self._advice(error)}"
            ) from error
        try:
            document = json.loads(answer)
            if not isinstance(document, dict):
                raise ValueError
        except ValueError:
            raise self._no_node() from None
        if response.status >= 400:
            kind = str(document.get("type", "")).removeprefix("/problems/")
            if response.status == 401:
                raise NotLetIn(401, kind, self._how_to_get_in())
            raise Refused(response.status, kind, str(document.get("detail") or document.get("title")))
        return document

    def _how_to_get_in(self) -> str:
        if self._shown.token is None:
            return (
                f"a token is needed at {self.address}: --token-file FILE or $CRDTMAIL_TOKEN_FILE; "
                "`crdtmail token create` makes one"
            )
        return (
            f"the token is not known at {self.address}: one that was made while the node runs is known after "
            "a reload (SIGHUP), and one of another node only if tokens.json was copied from there"
        )

    def _advice(self, error: Exception) -> str:
        """What to do about a connection that is refused because one side speaks TLS and the other does not,
        or does not believe the other's certificate."""
        is_https = self.address.startswith("https:")
        if isinstance(error, ssl.SSLCertVerificationError):
            return "" if self._shown.ca else "; name the authority that signed it: --ca FILE or $CRDTMAIL_CA"
        if is_https and isinstance(error, ssl.SSLError):
            return "; if it has no certificate, ask it with http://"
        if not is_https and isinstance(error, ConnectionResetError | http.client.BadStatusLine):
            return "; if it has a certificate ([tls]), ask it with https://"
        return ""

    def _no_node(self) -> Unreachable:
        return Unreachable(f"what answers at {self.address} is no crdtmail node")


def _token(data: bytes, where: Path | str) -> str:
    token = data.strip()
    if not token or not token.isascii() or not token.decode("ascii").isprintable():
        raise ConfigError(f"{where} does not hold a token")
    return token.decode("ascii")
