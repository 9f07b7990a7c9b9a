"""Inputs that are almost right: valid ones with a field flipped, inserted, deleted, doubled, or made extreme.

Everything comes from the `random.Random` that is handed in, so a seed gives its inputs again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

_BYTES = [
    0,
    1,
    0x17,
    0x18,
    0x19,
    0x1B,
    0x1F,
    0x3B,
    0x40,
    0x5F,
    0x7F,
    0x80,
    0x9F,
    0xA0,
    0xBB,
    0xBF,
    0xC2,
    0xF6,
    0xFB,
    0xFF,
]
_NUMBERS = [
    0,
    1,
    -1,
    23,
    24,
    255,
    256,
    2**16,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
]
_TEXTS = [
    "",
    "a",
    "é",
    "\0",
    "\n",
    "/",
    "INBOX",
    "$seen",
    "(undeleted)",
    "\ud800",
    "a" * 300,
    "𝒳",
    "e\u0301",
    "1:*",
    "~1",
]


def bytes_like(chance: random.Random, data: bytes) -> bytes:
    """`data` with a few changes that know nothing of what it means."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice([1, 1, 2, 4, 8, 32]))
        match chance.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice(_BYTES)
            case 2:
                changed[at:at] = bytes(chance.choices(_BYTES, k=chance.choice([1, 1, 4, 9])))
            case 3:
                del changed[at:end]
            case 4:
                changed[at:at] = changed[at:end] * chance.choice([1, 1, 2, 50])
            case 5:
                del changed[at:]
            case 6:
                other = chance.randrange(len(changed) + 1)
                changed[at:end] = changed[other : other + chance.choice([1, 2, 4, 8])]
    return bytes(changed)


def text_like(chance: random.Random, text: str) -> str:
    """`text` with a few characters changed."""
    changed = list(text)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(len(changed) + 1)
        end = at + chance.choice([1, 1, 2, 8])
        match chance.randrange(4):
            case 0:
                changed[at:at] = chance.choice(
                    [
                        *_TEXTS,
                        chr(chance.randrange(0x3000)),
                        "-",
                        ":",
                        ",",
                        "*",
                        "0",
                        "9" * 20,
                        "9" * 5000,
                        "[" * 3000,
                    ]
                )
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end] * chance.choice([1, 2, 30])
            case 3 if at < len(changed):
                changed[at] = chr(max(0, ord(changed[at]) + chance.choice([-1, 1, 32, 128])))
    return "".join(changed)


def value_like(chance: random.Random, value: Any) -> Any:
    """A plain value (of lists, maps, texts, numbers) with a few places changed; `value` stays as it is."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        value = _change(chance, value, chance.randrange(5))
    return value


def _change(chance: random.Random, value: Any, depth: int) -> Any:
    if isinstance(value, list) and value and depth:
        at = chance.randrange(len(value))
        match chance.randrange(7):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[:at], value[at], *value[at:]]
            case 2:
                return [*value[:at], _anything(chance), *value[at:]]
            case _:
                return [*value[:at], _change(chance, value[at], depth - 1), *value[at + 1 :]]
    if isinstance(value, dict) and value and depth:
        key = chance.choice(list(value))
        match chance.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                new = _key(chance, key)
                return {new if k == key else k: v for k, v in value.items()}
            case 2:
                return {**value, _key(chance, key): value[key]}
            case _:
                return {**value, key: _change(chance, value[key], depth - 1)}
    return _other(chance, value)


def _key(chance: random.Random, key: Any) -> Any:
    other = _other(chance, key)
    return other if isinstance(other, str | int | bytes | float | None) else key


def _other(chance: random.Random, value: Any) -> Any:
    if chance.randrange(6) == 0 and not isinstance(value, str | bytes):
        return _anything(chance)
    match value:
        case bool() | None:
            return chance.choice([True, False, None])
        case int():
            return chance.choice([value + 1, value - 1, *_NUMBERS])
        case str():
            return text_like(chance, value)
        case bytes():
            return bytes_like(chance, value)
        case _:
            return _anything(chance)


def _anything(chance: random.Random) -> Any:
    """Any plain value that JSON and CBOR both have."""
    kinds: list[Callable[[], Any]] = [
        lambda: chance.choice(_NUMBERS),
        lambda: chance.choice(_TEXTS),
        lambda: None,
        lambda: True,
        lambda: 1.5,
        lambda: float("inf"),
        list,
        dict,
        lambda: [[[[]]]],
        lambda: [chance.choice(_NUMBERS)] * chance.choice([2, 1001]),
        lambda: {str(n): n for n in range(chance.choice([1, 3, 70]))},
    ]
    return chance.choice(kinds)()
