"""IMAP's modified UTF-7 (RFC 3501, 5.1.3), in which mailbox names are stored on disk.

Strict both ways: there is one spelling of a name, and a text that is not that spelling is not decoded.
The standard library's `utf-7` codec cannot be used, because it accepts many spellings of one name.
"""

from __future__ import annotations

import binascii
import re

SHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")
UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


def encode(name: str) -> str:
    """The one modified UTF-7 spelling of a name."""
    return UNPRINTABLE.sub(lambda run: shift(run[0]), name.replace("&", "&-"))


def decode(text: str) -> str:
    """The name that a modified UTF-7 text spells; ValueError when it is not modified UTF-7."""
    name = SHIFTED.sub(lambda run: unshift(run[1]), text)
    if encode(name) != text:
        raise ValueError(f"not modified UTF-7: {text!r}")
    return name


def shift(run: str) -> str:
    base64 = binascii.b2a_base64(run.encode("utf-16-be"), newline=False)
    return "&" + base64.decode("ascii").rstrip("=").replace("/", ",") + "-"


def unshift(base64: str) -> str:
    if not base64:
        return "&"
    padded = base64.replace(",", "/") + "=" * (-len(base64) % 4)
    return binascii.a2b_base64(padded).decode("utf-16-be")
