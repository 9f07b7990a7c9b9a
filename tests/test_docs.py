"""The documents say what the code does: bytes, limits, routes, examples, settings and status fields."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import inspect
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from crdtmail import cli, config, errors, limits
from crdtmail.config import Config
from crdtmail.crdt.codec import decode_delta, encode_delta
from crdtmail.crdt.delta import Operation
from crdtmail.daemon import running
from crdtmail.effects import Kind
from crdtmail.gossip import codec
from crdtmail.gossip.session import Timing
from crdtmail.node import Node
from crdtmail.web import api, gossip_server

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
OPEN_MAPS = {"clock", "keywords", "annotations"}
"""Objects whose keys are data."""


class Block(NamedTuple):
    language: str
    info: str
    text: str


def read(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def blocks(name: str) -> list[Block]:
    return [Block(m[1], m[2].strip(), m[3]) for m in FENCE.finditer(read(name))]


def section(name: str, heading: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    level, _, _ = heading.partition(" ")
    text = read(name).split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(table: str) -> list[str]:
    """The code spans in the first column of a table's rows."""
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


# Bytes --------------------------------------------------------------------------------------------------


def hex_blocks() -> list[tuple[str, bytes]]:
    found = []
    for block in blocks("protocol.md"):
        if block.language == "hex":
            code = "".join(line.partition("#")[0] for line in block.text.splitlines())
            found.append((block.info, bytes.fromhex(code)))
    return found


ROUND_TRIPS: dict[str, Callable[[bytes], bytes]] = {
    "delta": lambda data: encode_delta(decode_delta(data)),
    "position": lambda data: codec.encode_position(codec.decode_position(data)),
    "answer": lambda data: codec.encode_answer(codec.decode_answer(data)),
    "push": lambda data: codec.encode_push(codec.decode_push(data)),
    "clock": lambda data: codec.encode_clock(codec.decode_clock(data)),
}


def test_every_message_of_the_protocol_is_shown_in_its_real_bytes() -> None:
    shown = hex_blocks()
    assert {kind for kind, _ in shown} == set(ROUND_TRIPS)
    for kind, data in shown:
        assert ROUND_TRIPS[kind](data) == data


def test_every_operation_is_shown_in_its_real_bytes() -> None:
    deltas = [decode_delta(data) for kind, data in hex_blocks() if kind == "delta"]
    shown = {type(operation) for delta in deltas for operation in delta.operations}
    assert shown == set(Operation.__args__)


def test_the_worked_example_is_one_conversation() -> None:
    by_kind = dict(hex_blocks())
    example = next(
        data
        for kind, data in hex_blocks()
        if kind == "delta" and type(decode_delta(data).operations[0]).__name__ == "Keywords"
    )
    assert codec.decode_push(by_kind["push"]) == (example,)
    answer = codec.decode_answer(by_kind["answer"])
    assert answer.deltas == (example,)
    asked = codec.decode_position(by_kind["position"])
    assert not asked.clock.covers(decode_delta(example).dot)
    assert answer.position.clock.covers(decode_delta(example).dot)


def test_the_protocols_limits_are_those_of_the_code() -> None:
    stated = re.findall(
        r"^\| `([A-Z_]+)` \| ([0-9,.]+) \|", section("protocol.md", "## Limits"), re.MULTILINE
    )
    assert len(stated) >= 15
    for name, value in stated:
        assert Decimal(value.replace(",", "")) == getattr(limits, name), name


def test_gossip_is_documented_where_it_is_served() -> None:
    text = read("protocol.md")
    for kind in Kind:
        assert f"POST {gossip_server.path(kind)}" in text
    assert gossip_server.SENDER in text


# The API ------------------------------------------------------------------------------------------------


def test_every_route_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^### ([A-Z]+ /\S*)$", read("api.md"), re.MULTILINE))
    assert documented == {f"{route.method} {route.path}" for route in api.routes(cast(Node, None))}


def test_every_problem_is_documented() -> None:
    stated = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", section("api.md", "## Problems"), re.MULTILINE)
    kinds = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.RequestError)]
    assert {(kind.type, str(kind.status)) for kind in kinds} <= set(stated)
    assert {"peer-error", "store-failed", "internal-error"} <= {name for name, _ in stated}


class Example(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: str
    status: int
    answer: str


def examples() -> Iterator[Example]:
    """Each request block with the answer block behind it."""
    request: Block | None = None
    for block in blocks("api.md"):
        if block.language == "http":
            request = block
        elif block.language == "json" and request is not None:
            first, *lines = request.text.splitlines()
            method, target = first.split(" ", 1)
            headers = dict(line.split(": ", 1) for line in lines if re.match(r"[A-Za-z-]+: ", line))
            body = "\n".join(line for line in lines if not re.match(r"[A-Za-z-]+: ", line))
            yield Example(method, target, headers, body, int(block.info), block.text)
            request = None


def shape(value: object, name: str = "") -> object:
    """Keys and kinds of values, without the values."""
    if isinstance(value, dict) and name not in OPEN_MAPS:
        return {key: shape(of, key) for key, of in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


async def perform(port: int, example: Example, known: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Send a request; `$STATE`, `$TOKEN` and `$ETAG` are the last that were answered."""

    def fill(text: str) -> str:
        return re.sub(r"\$(STATE|TOKEN|ETAG)", lambda match: known[match[1]], text)

    def call() -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = example.body.encode() if example.body else None
        headers = {name: fill(value) for name, value in example.headers.items()}
        connection.request(example.method, fill(example.target), body, headers)
        response = connection.getresponse()
        try:
            return response.status, response.getheader("ETag"), response.read()
        finally:
            connection.close()

    status, etag, data = await asyncio.to_thread(call)
    document: dict[str, Any] = json.loads(data) if data else {}
    for name, value in (("STATE", document.get("state")), ("TOKEN", document.get("token")), ("ETAG", etag)):
        if value:
            known[name] = value
    return status, document


def node_config(folder: Path) -> Config:
    return Config(name="mx1", data=folder, host="127.0.0.1", port=0, peers=(), timing=Timing())


def test_the_requests_of_the_api_document_get_the_answers_that_it_shows(tmp_path: Path) -> None:
    async def run() -> int:
        count, known = 0, {}  # type: int, dict[str, str]
        async with running(node_config(tmp_path)) as (_, port):
            for example in examples():
                status, document = await perform(port, example, known)
                what = f"{example.method} {example.target}: {document}"
                assert status == example.status, what
                shown = json.loads(example.answer) if example.answer.strip() else {}
                assert shape(document) == shape(shown), what
                if status >= 400:
                    assert document["type"] == shown["type"], what
                count += 1
        return count

    assert asyncio.run(run()) >= len(api.routes(cast(Node, None)))


def test_the_digest_is_computed_as_the_protocol_document_says(tmp_path: Path) -> None:
    async def run() -> tuple[dict[str, Any], dict[str, Any], str]:
        async with running(node_config(tmp_path)) as (node, port):
            box = "/v1/accounts/alice/mailboxes"
            ask = [
                Example("POST", box, {}, '{"name": "INBOX"}', 201, ""),
                Example("POST", f"{box}/name:INBOX/messages", {}, '{"messages": [{"id": "m1", "size": 7, '
                        '"receivedAt": "2026-01-01T00:00:00Z", "keywords": {"$seen": true}}]}', 201, ""),
                Example("GET", "/v1/accounts/alice/digests", {}, "", 200, ""),
            ]  # fmt: skip
            answers = [(await perform(port, each, {}))[1] for each in ask]
            return answers[0], answers[2], str(node.replica.id)

    made, digests, replica = asyncio.run(run())
    id, r = bytes.fromhex(made["id"]), int(replica)
    salt = hashlib.blake2b(b"alice\0" + id, digest_size=16).digest()
    instances = [[[r, 2], 1, 7, 1767225600, {"$seen": [[r, 2]]}, False]]
    alive = b"\xa1\x1b" + r.to_bytes(8, "big") + b"\x02"
    parts = [b"m1\0" + msgspec.msgpack.encode(instances), b"\0" + alive]
    expected = 0
    for part in parts:
        expected ^= int.from_bytes(hashlib.blake2b(part, digest_size=8, salt=salt).digest(), "big")
    assert digests["mailboxes"][0]["digest"] == f"{expected:016x}"


# Operating ----------------------------------------------------------------------------------------------


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_every_setting_and_every_flag_of_a_node_is_documented() -> None:
    settings = config._KEYS - {"gossip", "tls", "log"}
    settings |= {f"log.{name}" for name in config._LOG}
    settings |= {f"gossip.{name}" for name in config._TIMING} | {f"tls.{name}" for name in config._TLS}
    assert set(first_cells(section("operating.md", "### Settings"))) == settings
    flags = {flag for action in subcommands(cli._parser())["node"]._actions for flag in action.option_strings}
    stated = set(re.findall(r"`(--[a-z-]+)", section("operating.md", "## Configuration")))
    assert stated == {flag for flag in flags if flag.startswith("--")} - {"--help"}


def test_every_command_and_exit_code_is_documented() -> None:
    text = read("operating.md")
    for name, parser in subcommands(cli._parser()).items():
        for command in [f"{name} {below}" for below in subcommands(parser)] or [name]:
            assert f"`crdtmail {command}" in text, command
    codes = {"0", "1", *(str(code) for code in cli._EXIT.values())}
    assert set(first_cells(section("operating.md", "## Exit codes"))) == codes


@pytest.mark.parametrize("where", ["operating.md"])
def test_the_configuration_examples_can_be_loaded(where: str, tmp_path: Path) -> None:
    found = [block for block in blocks(where) if block.language == "toml"]
    assert found
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text)
        config.load(file, {})


def test_every_field_of_the_status_is_explained(tmp_path: Path) -> None:
    async def run() -> dict[str, Any]:
        settings = node_config(tmp_path)
        unreached = Config(settings.name, settings.data, settings.host, 0, ("http://127.0.0.1:9",), Timing())
        async with running(unreached) as (_, port):
            return (await perform(port, Example("GET", "/v1/status", {}, "", 200, ""), {}))[1]

    status = asyncio.run(run())
    explained = section("operating.md", "## Monitoring")
    assert set(first_cells(explained)) == {*status, *(f"peers[].{key}" for key in status["peers"][0])}


# All ----------------------------------------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target in LINK.findall(page.read_text("utf-8")):
            # Written by whoever measures; the page comes with its figures.
            assert (page.parent / target).exists() or target.endswith("performance.md"), f"{page}: {target}"
