"""docs/openapi.json says exactly what a node serves.

`python -m tests.long api` makes many more requests from it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from crdtmail.crdt.names import check_keyword
from crdtmail.daemon import running
from crdtmail.errors import Refusal
from crdtmail.node import Node
from crdtmail.web import api
from crdtmail.web.status import Alarm
from tests import openapi
from tests.nodes import node_process
from tests.test_docs import Example, examples, node_config, perform

COMPONENTS = {"components": openapi.description()["components"]}


def test_every_route_is_described_and_no_other() -> None:
    assert openapi.operations() == {(route.method, route.path) for route in api.routes(cast(Node, None))}


def operation(example: Example) -> dict[str, Any]:
    """The description of what the example asks for."""
    parts = example.target.partition("?")[0].split("/")
    for path, item in openapi.description()["paths"].items():
        names = path.split("/")
        if len(names) == len(parts) and all(
            name.startswith("{") or name == part for name, part in zip(names, parts, strict=True)
        ):
            found: dict[str, Any] = item[example.method.lower()]
            return found
    raise AssertionError(f"{example.target} is not described")


def validate(schema: dict[str, Any], value: object) -> None:
    jsonschema.Draft202012Validator({**schema, **COMPONENTS}).validate(value)


def test_the_requests_of_the_api_document_and_their_answers_are_as_described(tmp_path: Path) -> None:
    async def run() -> int:
        count, known = 0, dict[str, str]()
        async with running(node_config(tmp_path)) as (_, port):
            for example in examples():
                status, answer = await perform(port, example, known)
                described = operation(example)
                if example.body and status < 300:
                    (form,) = described["requestBody"]["content"].values()
                    validate(form["schema"], json.loads(example.body))
                content = described["responses"][str(status)].get("content", {"": {"schema": {}}})
                for form in content.values():
                    validate(form["schema"], answer)
                count += 1
        return count

    assert asyncio.run(run()) > 20


def test_a_keyword_is_described_as_it_is_checked() -> None:
    """Every character, in lower case: capitals are taken and lowered."""
    schema = openapi.description()["components"]["schemas"]["Keyword"]
    validator = jsonschema.Draft202012Validator(schema)
    for code in range(256):
        text = chr(code)
        try:
            check_keyword(text.lower() if text.isascii() else text)
        except ValueError:
            assert not validator.is_valid(text), repr(text)
        else:
            assert validator.is_valid(text), repr(text)


def test_the_reasons_of_refusals_are_those_that_there_are() -> None:
    properties = openapi.description()["components"]["schemas"]["Status"]["properties"]
    assert properties["refusals"]["items"]["properties"]["reason"]["enum"] == list(Refusal)
    assert properties["alarms"]["items"]["properties"]["kind"]["enum"] == list(Alarm)


def test_every_object_that_is_answered_lists_all_its_properties() -> None:
    """So that a property that is new in the code and not in the description is noticed."""

    def walk(schema: object, where: str) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and "properties" in schema:
                assert schema["additionalProperties"] is False, where
            for key, value in schema.items():
                walk(value, f"{where}/{key}")
        elif isinstance(schema, list):
            for number, value in enumerate(schema):
                walk(value, f"{where}/{number}")

    walk(openapi.description(), "")


@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="the extra `fuzz` is not installed"
)
def test_what_schemathesis_asks_is_answered_as_described(tmp_path: Path) -> None:
    with node_process(tmp_path / "node") as node:
        openapi.run_schemathesis(node, tmp_path, examples=3, seed=1)
    assert "ERROR crdtmail" not in (tmp_path / "node.log").read_text()
