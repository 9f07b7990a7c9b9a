"""The JSON API, version 1.  `docs/api.md` describes every request; spelling is JMAP's.

A handler reads the request, runs one command or query on the node, and answers; every write answers
when it is durable, with a token that any node understands.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from crdtmail import views
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.names import check_account, check_script_name
from crdtmail.errors import NotFound, NotYet, RequestError, TooLarge
from crdtmail.limits import (
    DEFAULT_PAGE,
    DEFAULT_WAIT_S,
    MAX_ANNOTATION,
    MAX_ANNOTATIONS,
    MAX_PAGE,
    MAX_REPLICAS,
    MAX_SCRIPT,
    MAX_UID,
    ROOM_PER_ROW,
)
from crdtmail.node import Node
from crdtmail.replica import Replica
from crdtmail.service import Written
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import Mailbox, Tables
from crdtmail.web import documents
from crdtmail.web.guard import BEARER
from crdtmail.web.listener import Listener
from crdtmail.web.load import BODY, SHARE
from crdtmail.web.metrics import CONTENT_TYPE, exposition
from crdtmail.web.requests import (
    as_object,
    boolean,
    checked,
    decode_token,
    encode_token,
    incoming,
    json_object,
    keyword_changes,
    label,
    mailbox_id,
    mailbox_name,
    number,
    only,
    seconds,
    selection,
    text,
)
from crdtmail.web.status import node_status

T = TypeVar("T")
TOKEN = "Crdtmail-Token"
LISTENER = web.AppKey("LISTENER", Listener)
_BY_NAME = "name:"
_ROLE = 64  # the longest role that RFC 8621 and the IANA registry know is far shorter


def routes(node: Node) -> list[web.RouteDef]:
    api = _Api(node)
    account = "/v1/accounts/{account}"
    mailbox = account + "/mailboxes/{mailbox}"
    script = account + "/scripts/{script}"
    return [
        web.get("/v1/status", api.status),
        web.get("/metrics", api.metrics),
        web.post("/v1/members/{member}/retire", api.retire),
        web.get("/v1/accounts", api.accounts),
        web.get(account + "/digests", api.digests),
        web.get(account + "/mailboxes", api.list_mailboxes),
        web.post(account + "/mailboxes", api.create_mailbox),
        web.get(account + "/scripts", api.list_scripts),
        web.get(script, api.script),
        web.put(script, api.change_script),
        web.delete(script, api.delete_script),
        web.get(mailbox, api.mailbox),
        web.patch(mailbox, api.change_mailbox),
        web.delete(mailbox, api.delete_mailbox),
        web.get(mailbox + "/changes", api.changes),
        web.post(mailbox + "/messages", api.add),
        web.patch(mailbox + "/messages", api.change_keywords),
        web.post(mailbox + "/expunge", api.expunge),
        web.post(mailbox + "/move", api.move),
        web.post(mailbox + "/copy", api.copy),
    ]


def token_middleware(node: Node) -> Any:
    """A request that carries a token is answered from a state at least as new as the token.

    One about mail is answered from a state that is whole.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        token = request.headers.get(TOKEN) or request.query.get("token")
        if token:
            await node.wait_for_clock(decode_token(token), seconds(request, "tokenWait", DEFAULT_WAIT_S))
        if node.is_taking_over_all and _is_of_mail(request):
            if request.method in ("GET", "HEAD"):
                raise NotYet("this node is new, and is taking over all mailboxes from another one")
            try:
                return await handler(request)
            except NotFound as error:
                raise NotYet(f"this node is new, and is taking over all mailboxes: {error}") from error
        return await handler(request)

    return middleware


class _Api:
    def __init__(self, node: Node) -> None:
        self._node = node

    # The node -------------------------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.Response:
        return _json(await node_status(self._node, request.app[LISTENER]))

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures of `status` as Prometheus reads them."""
        status = await node_status(self._node, request.app[LISTENER])
        return web.Response(body=exposition(status), headers={"Content-Type": CONTENT_TYPE})

    async def retire(self, request: web.Request) -> web.Response:
        """Say that a member, by name or replica, is gone for good."""
        body = json_object(request) if request[BODY] else {}
        only(body, {"force"})
        force = boolean(body.get("force", False), "force")
        found, was_already = await self._node.retire(request.match_info["member"], force=force)
        heard = self._node.gossip.peers.heard
        retired = [{"replica": f"{r:016x}", "name": heard[r].name} for r in found]
        return _json({"retired": retired, "wasAlready": was_already})

    async def accounts(self, request: web.Request) -> web.Response:
        """Accounts in order, each with the digest of all that is in it; of these, what the token sees."""
        token = request.get(BEARER)
        after = request.query.get("after", "")
        limit = _page(request, 1)

        def query(tables: Tables) -> dict[str, Any]:
            head = tables.head()
            seen = (name for name in tables.accounts(after) if token is None or token.sees(name))
            names = list(islice(seen, limit + 1))
            found = []
            for account in names[:limit]:
                directory, mailboxes = views.digests(tables, account)
                total = documents.account_digest(directory, mailboxes.values())
                found.append({"account": account, "digest": documents.digest(total)})
            return {
                "clock": documents.clock(head.clock),
                "digest": documents.digest(head.digest),
                "accounts": found,
                "hasMore": len(names) > limit,
            }

        return _json(await self._node.read(query))

    async def digests(self, request: web.Request) -> web.Response:
        account = _account(request)
        return _json(await self._node.read(lambda tables: documents.account_digests(tables, account)))

    # Mailboxes ------------------------------------------------------------------------------------------

    async def list_mailboxes(self, request: web.Request) -> web.Response:
        account = _account(request)

        def query(tables: Tables) -> dict[str, Any]:
            found = views.living_mailboxes(tables, account)
            by_name = sorted(found.items(), key=lambda pair: (pair[1].name != "INBOX", pair[1].name))
            return {
                "account": account,
                "mailboxes": [documents.mailbox(id, living) for id, living in by_name],
            }

        return _json(await self._node.read(query))

    async def create_mailbox(self, request: web.Request) -> web.Response:
        account = _account(request)
        body = json_object(request)
        only(body, {"name", "role", "isSubscribed"})
        name = mailbox_name(body.get("name"))
        role = label(body["role"], "role", _ROLE) if body.get("role") is not None else None
        subscribed = boolean(body["isSubscribed"], "isSubscribed") if "isSubscribed" in body else None

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            made = replica.create_mailbox(txn, account, name, role=role, is_subscribed=subscribed)
            return documents.mailbox(made, views.living_mailboxes(Tables(txn), account)[made])

        return await self._write(request, command, status=201)

    async def mailbox(self, request: web.Request) -> web.Response:
        """The merged state.  304 without a look at any message if it is what the client has."""
        node, (account, mailbox) = self._node, await self._mailbox(request)
        after = number(request, "after", 0, 0, MAX_UID)
        limit = _page(request, 0)
        seen = request.headers.get("If-None-Match", "")

        def query(tables: Tables, box: Mailbox) -> tuple[str, str, bytes | None]:
            token = encode_token(tables.head().clock)
            etag = documents.etag(tables, node.replica.id, account, box)
            if etag in (tag.strip().removeprefix("W/") for tag in seen.split(",")):
                return etag, token, None
            document = documents.mailbox_state(
                tables, node.replica.id, account, mailbox, box, after=after, limit=limit
            )
            return etag, token, documents.encode(document)

        etag, token, body = await node.read_mailbox(account, mailbox, query)
        headers = {"ETag": etag, TOKEN: token}
        if body is None:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def change_mailbox(self, request: web.Request) -> web.Response:
        account, mailbox = await self._mailbox(request)
        body = json_object(request)
        only(body, {"name", "role", "isSubscribed", "annotations"})
        name = mailbox_name(body["name"]) if "name" in body else None
        properties: dict[str, Any] = {}
        if "role" in body:
            properties["role"] = "" if body["role"] is None else label(body["role"], "role", _ROLE)
        if "isSubscribed" in body:
            properties["is_subscribed"] = boolean(body["isSubscribed"], "isSubscribed")
        if "annotations" in body:
            properties["annotations"] = _annotations(body["annotations"])
        if name is None and not properties:
            raise RequestError("the patch is empty")

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            if name is not None:
                replica.rename_mailbox(txn, account, mailbox, name)
            if properties:
                replica.describe_mailbox(txn, account, mailbox, **properties)
            return documents.mailbox(mailbox, views.living_mailboxes(Tables(txn), account)[mailbox])

        return await self._write(request, command)

    async def delete_mailbox(self, request: web.Request) -> web.Response:
        account, mailbox = await self._mailbox(request)

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            replica.delete_mailbox(txn, account, mailbox)
            return {"deleted": mailbox.hex()}

        return await self._write(request, command)

    # Sieve scripts --------------------------------------------------------------------------------------

    async def list_scripts(self, request: web.Request) -> web.Response:
        account = _account(request)
        found = await self._node.read(lambda tables: views.scripts(tables, account))
        return _json({"account": account, "scripts": [documents.script(script) for script in found]})

    async def script(self, request: web.Request) -> web.Response:
        account, name = _account(request), _script(request)
        found = await self._node.read(lambda tables: views.scripts(tables, account))
        for script in found:
            if script.name == name:
                return _json({**documents.script(script), "content": script.content})
        raise NotFound(f"there is no script named {name!r} in this account")

    async def change_script(self, request: web.Request) -> web.Response:
        account, name = _account(request), _script(request)
        body = json_object(request)
        only(body, {"content", "isActive"})
        content = text(body["content"], "content", MAX_SCRIPT) if "content" in body else None
        if content is not None and len(content.encode()) > MAX_SCRIPT:
            raise TooLarge(f"a script has at most {MAX_SCRIPT} bytes")
        is_active = boolean(body["isActive"], "isActive") if "isActive" in body else None

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            replica.change_script(txn, account, name, content=content, is_active=is_active)
            return {"name": name}

        return await self._write(request, command)

    async def delete_script(self, request: web.Request) -> web.Response:
        account, name = _account(request), _script(request)

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            replica.delete_script(txn, account, name)
            return {"deleted": name}

        return await self._write(request, command)

    # Messages -------------------------------------------------------------------------------------------

    async def changes(self, request: web.Request) -> web.Response:
        """What changed since a state; with `wait`, not before something has, or the time is over."""
        node, (account, mailbox) = self._node, await self._mailbox(request)
        since = request.query.get("since")
        if since is None:
            raise RequestError("since is missing: a state from the mailbox or from earlier changes")
        limit = _page(request, 1)
        until = node.now() + seconds(request, "wait", 0.0)

        def query(tables: Tables, box: Mailbox) -> tuple[bool, dict[str, Any]]:
            position = documents.decode_state(node.replica.id, box, since)
            page = views.changes(tables, box, position, limit=limit)
            return bool(page.changed or page.vanished), documents.changes(node.replica.id, box, page)

        while True:
            changed = node.watch(account)
            any_change, document = await node.read_mailbox(account, mailbox, query)
            if any_change or node.stopping or node.now() >= until:
                return _json(document)
            request[SHARE].be(0)
            try:
                async with asyncio.timeout(until - node.now()):
                    await changed.wait()
            except TimeoutError:
                return _json(document)
            _page(request, 1)

    async def add(self, request: web.Request) -> web.Response:
        account, mailbox = await self._mailbox(request)
        body = json_object(request)
        only(body, {"messages", "ifAbsent", "wantUids"})
        messages = incoming(body.get("messages"), now=int(time.time()), new_id=lambda: uuid.uuid4().hex)
        if_absent = boolean(body.get("ifAbsent", False), "ifAbsent")
        want_uids = boolean(body.get("wantUids", False), "wantUids")

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            ids = replica.add(txn, account, mailbox, messages, if_absent=if_absent)
            return {"messages": _named(replica, txn, account, mailbox, ids, want_uids)}

        return await self._write(request, command, status=201)

    async def change_keywords(self, request: web.Request) -> web.Response:
        account, mailbox = await self._mailbox(request)
        changes = keyword_changes(json_object(request))

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            return {"updated": replica.change_keywords(txn, account, mailbox, changes)}

        return await self._write(request, command)

    async def expunge(self, request: web.Request) -> web.Response:
        account, mailbox = await self._mailbox(request)
        body = json_object(request)
        only(body, {"ids", "uids", "deleted"})
        deleted = boolean(body.get("deleted", False), "deleted")
        if deleted and len(body) > 1:
            raise RequestError("name the messages by one of ids, uids and deleted")
        chosen = None if deleted else selection(body)

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            return {"expunged": replica.expunge(txn, account, mailbox, chosen)}

        return await self._write(request, command)

    async def move(self, request: web.Request) -> web.Response:
        return await self._transfer(request, Replica.move, "moved")

    async def copy(self, request: web.Request) -> web.Response:
        return await self._transfer(request, Replica.copy, "copied")

    async def _transfer(
        self, request: web.Request, transfer: Callable[..., list[MessageId]], said: str
    ) -> web.Response:
        account, source = await self._mailbox(request)
        body = json_object(request)
        only(body, {"ids", "uids", "to", "wantUids"})
        target = await self._resolve(account, body.get("to"))
        chosen = selection(body)
        want_uids = boolean(body.get("wantUids", False), "wantUids")

        def command(replica: Replica, txn: Transaction) -> dict[str, Any]:
            ids = transfer(replica, txn, account, source, target, chosen)
            return {said: _named(replica, txn, account, target, ids, want_uids)}

        return await self._write(request, command)

    # ----------------------------------------------------------------------------------------------------

    async def _mailbox(self, request: web.Request) -> tuple[Account, MailboxId]:
        account = _account(request)
        return account, await self._resolve(account, request.match_info["mailbox"])

    async def _resolve(self, account: Account, given: object) -> MailboxId:
        """The mailbox that a client names by its id, or as `name:` and the name that it shows."""
        if isinstance(given, str) and given.startswith(_BY_NAME):
            name = mailbox_name(given.removeprefix(_BY_NAME))
            return await self._node.read(lambda tables: views.find_mailbox(tables, account, name))
        return mailbox_id(given)

    async def _write(
        self,
        request: web.Request,
        command: Callable[[Replica, Transaction], dict[str, Any]],
        *,
        status: int = 200,
    ) -> web.Response:
        """Run a command; answer when it is durable, and with `ack=k` when k other replicas have it too."""
        wanted = number(request, "ack", 0, 0, MAX_REPLICAS)
        timeout_s = seconds(request, "ackWait", DEFAULT_WAIT_S)
        document, written = await self._node.write(command)
        token = encode_token(written.clock)
        if wanted:
            document["ack"] = await self._acknowledged(written, wanted, timeout_s)
        return _json({**document, "token": token}, status=status, headers={TOKEN: token})

    async def _acknowledged(self, written: Written, wanted: int, timeout_s: float) -> dict[str, Any]:
        """How many other replicas have the write, after waiting for enough of them; it stands in any case."""
        if written.dot is None:
            return {"wanted": wanted, "replicas": 0, "reached": True}
        reached = await self._node.wait_for_replicas(written.dot, wanted, timeout_s)
        return {"wanted": wanted, "replicas": reached, "reached": reached >= wanted}


def _is_of_mail(request: web.Request) -> bool:
    """Whether it is about an account's mailboxes or scripts; digests are true of what is here."""
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    return path.startswith(("/v1/accounts/{account}/mailboxes", "/v1/accounts/{account}/scripts"))


def _account(request: web.Request) -> Account:
    return checked(check_account, request.match_info["account"])


def _page(request: web.Request, least: int) -> int:
    """How many rows the answer may have; there is room for them from here on.  Raises Overloaded."""
    limit = number(request, "limit", DEFAULT_PAGE, least, MAX_PAGE)
    request[SHARE].be(limit * ROOM_PER_ROW)
    return limit


def _script(request: web.Request) -> str:
    return checked(check_script_name, request.match_info["script"])


def _annotations(value: object) -> dict[str, str | None]:
    given = as_object(value, "annotations")
    if len(given) > MAX_ANNOTATIONS:
        raise RequestError(f"a mailbox has at most {MAX_ANNOTATIONS} annotations")
    return {
        label(name, "an annotation's name", 255): None if of is None else text(of, name, MAX_ANNOTATION)
        for name, of in given.items()
    }


def _named(
    replica: Replica,
    txn: Transaction,
    account: Account,
    mailbox: MailboxId,
    ids: list[MessageId],
    want_uids: bool,
) -> list[dict[str, Any]]:
    """The messages by id; with their UIDs only if asked, for a UID that was told counts as shown."""
    if not want_uids:
        return [{"id": id} for id in ids]
    uids = replica.show_uids(txn, account, mailbox, ids)
    return [{"id": id, "uid": uids[id]} for id in ids]


def _json(
    document: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    body = documents.encode(document)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
