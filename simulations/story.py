"""Whether the story of a scenario can be what its author meant.

A replay takes any subset of a schedule and passes over what does not apply.  A person who writes a story
wants to hear of a name that does not exist, before a run says that every promise held.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import structs

from crdtmail.crdt.names import check_keyword
from crdtmail.effects import OLDEST_PROTOCOL, PROTOCOL
from crdtmail.store.interface import Table
from simulations import actions
from simulations.config import Config, links
from simulations.disk import DISK_FAILURES
from simulations.faults import Strangers
from simulations.machine import BOUNDARIES

_NODE_FIELDS = ("node", "other", "source", "target", "sources", "targets")


def checked(config: Config) -> Config:
    """The configuration as it is.  Raises ValueError with the first thing in it that cannot be meant."""
    for event in config.story:
        _check_types(event)
    try:
        msgspec.convert(msgspec.to_builtins(config), Config, strict=True)
    except (msgspec.ValidationError, TypeError) as error:
        raise ValueError(f"the configuration cannot be read: {error}") from error
    if len(set(config.nodes)) != len(config.nodes):
        raise ValueError("two nodes have the same name")
    links(config)
    connected = {f"c{n}" for n in range(config.clients)} if config.operations else set()
    connected |= {e.action.client for e in config.story if isinstance(e.action, actions.Connect)}
    for event in config.story:
        where = f"{type(event.action).__name__} at {event.at:g} s"
        if not 0 <= event.at <= config.seconds:
            raise ValueError(f"{where} is not within the {config.seconds:g} seconds of the run")
        _check_names(where, event.action, config, connected)
        _check_amounts(where, event.action)
    return config


def _check_types(event: Any) -> None:
    """Whether it is an event, and each field of its action of the kind that it should be."""
    action = getattr(event, "action", None)
    if not isinstance(event, actions.Event) or not isinstance(action, actions.Action):
        raise ValueError(f"the story holds {event!r}, which is not an Event(seconds, action)")
    for field in structs.fields(action):
        value = getattr(action, field.name)
        try:
            msgspec.convert(msgspec.to_builtins(value), field.type, strict=True)
        except (msgspec.ValidationError, TypeError) as error:
            as_tuple = f", as in ({value!r},)" if isinstance(value, str) else ""
            kind = "a tuple" if "tuple" in str(field.type) else getattr(field.type, "__name__", field.type)
            raise ValueError(
                f"{type(action).__name__} at {event.at!r} s: {field.name} is {value!r}, "
                f"and must be {kind}{as_tuple}: {actions.signature(type(action))}"
            ) from error


CHOICES: dict[type[actions.Action], tuple[str, Collection[object]]] = {
    actions.Crash: ("when", BOUNDARIES),
    actions.FailDisk: ("how", DISK_FAILURES),
    actions.DamageRecord: ("table", Table.__members__),
    actions.Stranger: ("what", Strangers.KINDS),
    actions.Install: ("protocol", range(OLDEST_PROTOCOL, PROTOCOL + 1)),
}
"""Fields that can be one of a few things."""


LEAST = {"seconds": 0, "factor": 0.001, "rate": 0.001, "commits": 1, "lasts": 1, "back": 0, "ack": 0}
"""Fields that cannot be less than this."""


def _check_amounts(where: str, action: actions.Action) -> None:
    for field, least in LEAST.items():
        value = getattr(action, field, least)
        if not least <= value < math.inf:
            raise ValueError(f"{where}: {field} is {value:g}; it is at least {least:g}")
    begin, end = getattr(action, "part", None) or (0.0, 1.0)
    if not 0 <= begin <= end <= 1:
        raise ValueError(
            f"{where}: part is ({begin:g}, {end:g}); it is from one fraction to another, as in (0.0, 0.5)"
        )
    fraction = getattr(action, "where", 0.0)
    if not 0 <= fraction <= 1:
        raise ValueError(f"{where}: where is {fraction:g}; it is a fraction, from 0 to 1")


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
    if type(action) in CHOICES:
        field, choices = CHOICES[type(action)]
        value = getattr(action, field)
        if value not in choices:
            raise ValueError(f"{where}: {field} is {value!r}; it can be {', '.join(map(str, choices))}")
    if isinstance(action, actions.Heal) and bool(action.sources) != bool(action.targets):
        raise ValueError(f"{where} names sources or targets alone; it heals what is between the two, or all")
    for field in ("keywords", "add", "remove"):
        for keyword in getattr(action, field, ()):
            if keyword.startswith("\\"):
                raise ValueError(f"{where}: IMAP's {keyword} is written ${keyword[1:].lower()} here")
            check_keyword(keyword)
