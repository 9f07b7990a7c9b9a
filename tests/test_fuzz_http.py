"""Every endpoint of a node, asked for what is almost right: no crash, no change by what is refused.

`python -m tests.long requests` sends 100,000.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzz_http
from tests.nodes import Running, single


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Running]]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Running:
            it = await stack.enter_async_context(single(tmp_path_factory.mktemp("node")))
            await fuzz_http.prepare(it)
            return it

        yield runner, runner.run(start())
        runner.run(stack.aclose())


@settings(max_examples=3 * settings().max_examples)
@given(st.integers(0, 2**64))
def test_no_request_of_the_api_crashes_the_node_or_changes_what_it_may_not(
    server: tuple[asyncio.Runner, Running], seed: int
) -> None:
    runner, it = server
    runner.run(fuzz_http.send(it, fuzz_http.api_request(random.Random(seed))))


@given(st.integers(0, 2**64))
def test_no_gossip_crashes_the_node_or_changes_what_it_may_not(
    server: tuple[asyncio.Runner, Running], seed: int
) -> None:
    runner, it = server
    runner.run(fuzz_http.send(it, fuzz_http.gossip_request(random.Random(seed), it.node)))
