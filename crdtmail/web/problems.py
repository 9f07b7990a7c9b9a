"""Errors as RFC 9457 problem JSON: a stable `type` for each kind, 4xx for the caller's fault."""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from crdtmail.errors import NotYet, Overloaded, PeerError, RequestError, StoreError

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem, and log what is not the caller's fault."""
    try:
        return await handler(request)
    except RequestError as error:
        return problem(error.status, error.type, error.title, str(error), retry=_retryable(error))
    except PeerError as error:
        return problem(400, "peer-error", "The gossip message is refused", str(error))
    except web.HTTPException as error:
        return problem(error.status, _slug(error.reason), error.reason, error.text or error.reason)
    except StoreError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return problem(500, "store-failed", "The node's store has failed", str(error))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "internal-error", "The node has a bug", "see the node's log")


def problem(status: int, type: str, title: str, detail: str, *, retry: bool = False) -> web.Response:
    body = {"type": f"/problems/{type}", "title": title, "status": status, "detail": detail}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if retry else None
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/problem+json",
        headers=headers,
    )


def _retryable(error: RequestError) -> bool:
    return isinstance(error, NotYet | Overloaded)


def _slug(reason: str) -> str:
    return reason.lower().replace(" ", "-")
