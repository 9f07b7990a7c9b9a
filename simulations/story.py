"""Whether the story of a scenario can be what its author meant.

A replay takes any subset of a schedule and passes over what does not apply.  A person who writes a story
wants to hear of a name that does not exist, before a run says that every promise held.
"""

from __future__ import annotations

from typing import Any

import msgspec

from crdtmail.crdt.names import check_keyword
from simulations import actions
from simulations.config import Config
from simulations.machine import BOUNDARIES

_NODE_FIELDS = ("node", "other", "source", "target", "sources", "targets")


def checked(config: Config) -> Config:
    """The configuration as it is.  Raises ValueError with the first thing in it that cannot be meant."""
    try:
        msgspec.convert(msgspec.to_builtins(config), Config, strict=True)
    except (msgspec.ValidationError, TypeError) as error:
        raise ValueError(f"the configuration cannot be read: {error}") from error
    if len(set(config.nodes)) != len(config.nodes):
        raise ValueError("two nodes have the same name")
    connected = {f"c{n}" for n in range(config.clients)} if config.operations else set()
    connected |= {e.action.client for e in config.story if isinstance(e.action, actions.Connect)}
    for event in config.story:
        where = f"{type(event.action).__name__} at {event.at:g} s"
        if not 0 <= event.at <= config.seconds:
            raise ValueError(f"{where} is not within the {config.seconds:g} seconds of the run")
        _check_names(where, event.action, config, connected)
    return config


def _check_names(where: str, action: Any, config: Config, connected: set[str]) -> None:
    for field in _NODE_FIELDS:
        value = getattr(action, field, ())
        for node in (value,) if isinstance(value, str) else value:
            if node not in config.nodes:
                raise ValueError(f"{where} names the node {node!r}; there are {', '.join(config.nodes)}")
    if getattr(action, "client", None) not in {None, *connected}:
        raise ValueError(f"{where} is of the client {action.client!r}, which never connects")
    if getattr(action, "account", config.accounts[0]) not in config.accounts:
        raise ValueError(
            f"{where} is of the account {action.account!r}; there are {', '.join(config.accounts)}"
        )
    if isinstance(action, actions.Crash) and action.when not in BOUNDARIES:
        raise ValueError(f"{where} is {action.when!r}; it can be {', '.join(BOUNDARIES)}")
    for field in ("keywords", "add", "remove"):
        for keyword in getattr(action, field, ()):
            if keyword.startswith("\\"):
                raise ValueError(f"{where}: IMAP's {keyword} is written ${keyword[1:].lower()} here")
            check_keyword(keyword)
