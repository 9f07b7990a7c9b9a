"""Errors as RFC 9457 problem JSON: a stable `type` for each kind, 4xx for the caller's fault."""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from crdtmail.errors import (
    NotPermitted,
    NotYet,
    Overloaded,
    PeerError,
    Refusal,
    RequestError,
    StoreError,
    StoreFull,
    Unauthenticated,
    UnknownProtocol,
)
from crdtmail.store.interface import DamagedRecord

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
_TYPES = {404: "not-found", 405: "method-not-allowed", 408: "too-slow", 413: "request-entity-too-large"}
"""HTTP's own errors.  Not made from their reasons, which have changed between versions of Python."""


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem, and log what is not the caller's fault."""
    try:
        return await handler(request)
    except RequestError as error:
        answer = problem(error.status, error.type, error.title, str(error), retry=_retryable(error))
        if isinstance(error, Unauthenticated | NotPermitted):
            answer.headers["WWW-Authenticate"] = error.challenge
        return answer
    except UnknownProtocol as error:
        title = "That version of the protocol is not spoken here"
        return problem(404, "unknown-protocol", title, str(error), reason=error.reason)
    except PeerError as error:
        return problem(400, "peer-error", "The gossip message is refused", str(error), reason=error.reason)
    except web.HTTPException as error:
        answer = problem(error.status, _type(error), error.reason, _detail(request, error))
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except HttpProcessingError as error:
        return problem(400, "invalid-request", "The request is not valid", error.message)
    except StoreError as error:
        if not isinstance(error, DamagedRecord):  # of which the node tells once
            log.error("%s %s: %s", request.method, request.path, error)
        return problem(500, "store-failed", "The node's store has failed", str(error))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "internal-error", "The node has a bug", "see the node's log")


def problem(
    status: int, type: str, title: str, detail: str, *, retry: bool = False, reason: Refusal | None = None
) -> web.Response:
    body = {"type": f"/problems/{type}", "title": title, "status": status, "detail": detail}
    if reason is not None:
        body["reason"] = reason.value
    headers = {"Retry-After": str(RETRY_AFTER_S)} if retry else None
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/problem+json",
        headers=headers,
    )


def _retryable(error: RequestError) -> bool:
    return isinstance(error, NotYet | Overloaded | StoreFull)


def _type(error: web.HTTPException) -> str:
    return _TYPES.get(error.status) or error.reason.lower().replace(" ", "-")


def _detail(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        return f"nothing here answers {request.method} {request.path}"
    return error.text or error.reason
