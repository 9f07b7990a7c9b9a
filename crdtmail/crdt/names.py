"""What may be a name: accounts, mailboxes, message ids, keywords; and the ids made from names.

Each `check_*` returns its argument, typed, or raises ValueError with a reason fit for a person.  Who
asked (a peer, a client, a file) decides which error that becomes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.limits import MAX_ACCOUNT, MAX_KEYWORD, MAX_MAILBOX_NAME, MAX_MESSAGE_ID, MAX_SCRIPT_NAME

INBOX = "INBOX"
SEPARATOR = "/"
_NOT_IN_KEYWORDS = '(){]%*"\\'
_KEYWORD = re.compile(f"(?:(?![A-Z{re.escape(_NOT_IN_KEYWORDS)}])[!-~])+")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_GENERATION_BYTES = 2


def check_account(value: object) -> Account:
    return _text(value, "an account", MAX_ACCOUNT)


def check_message_id(value: object) -> MessageId:
    return MessageId(_text(value, "a message id", MAX_MESSAGE_ID))


def check_keyword(value: object) -> str:
    """RFC 8621 section 4.1.1: visible ASCII without `(){]%*"\\`, in lower case."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_KEYWORD:
        raise ValueError(f"a keyword is text of 1-{MAX_KEYWORD} characters")
    if _KEYWORD.fullmatch(value) is None:
        raise ValueError(
            f"keyword {value!r}: only visible ASCII in lower case, without {_NOT_IN_KEYWORDS}, is allowed"
        )
    return value


def check_script_name(value: object) -> str:
    return _text(value, "a script name", MAX_SCRIPT_NAME)


def check_mailbox_name(value: object) -> str:
    """A full path: levels separated by `/`, none of them empty; Unicode in normalisation form C."""
    name = _text(value, "a mailbox name", MAX_MAILBOX_NAME)
    if any(not level for level in name.split(SEPARATOR)):
        raise ValueError(f"mailbox name {name!r}: a level between slashes is empty")
    if name != normalised_mailbox_name(name):
        raise ValueError(f"mailbox name {name!r} is not in its normal form")
    return name


def normalised_mailbox_name(name: str) -> str:
    """Unicode form C, and the first level `INBOX` in any case as `INBOX` (RFC 9051 section 5.1)."""
    first, slash, rest = unicodedata.normalize("NFC", name).partition(SEPARATOR)
    return (INBOX if first.upper() == INBOX else first) + slash + rest


def make_mailbox_id(account: Account, name: str, generation: int) -> MailboxId:
    """The id under which every replica creates this generation of this name.

    The generation stands in front, as far as it fits, so that UIDVALIDITY can be read from the id.
    """
    digest = hashlib.blake2b(
        b"\0".join((account.encode(), name.encode(), str(generation).encode())), digest_size=16
    ).digest()
    return MailboxId(min(generation, 0xFFFF).to_bytes(_GENERATION_BYTES, "big") + digest[_GENERATION_BYTES:])


def uid_validity(mailbox: MailboxId) -> int:
    """1 to 2^32-1, the same on every replica; greater for each later generation of a name.

    RFC 9051 section 2.3.1.1 wants it to grow when a name is used anew; after 4,096 generations of one
    name it starts over.
    """
    generation = int.from_bytes(mailbox[:_GENERATION_BYTES], "big") % 0x1000
    return (generation << 20 | int.from_bytes(mailbox[-3:], "big") % 0xFFFFF) + 1


def printable(text: str) -> str:
    """Text of whoever, for a log or a screen: what would do more there than be read is spelled out."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _text(value: object, what: str, limit: int) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} is text that is not empty")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half a surrogate pair") from None
    if length > limit:
        raise ValueError(f"{what} is at most {limit} bytes long, this one has {length}")
    if _CONTROL.search(value):
        raise ValueError(f"{what} holds a control character")
    return value
