"""Every limit on what comes from outside, each with its reason.  Sizes are in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Names and values ------------------------------------------------------------------------------------

MAX_UID: Final = 2**32 - 1
"""IMAP's UIDs are 32 bits wide and not zero (RFC 9051 section 9, `nz-number`)."""

MAX_UID_JUMP: Final = 2**27
"""How far above all UIDs that a replica knows in a mailbox a delta of a peer may number.  Without it, one
delta would use up a mailbox for ever.  An honest replica stays below: MAX_MESSAGES_PER_OPERATION in a stripe
of MAX_REPLICAS are 10^8 wide, and healing begins at most MAX_HEALING_JUMP higher."""

MAX_HEALING_JUMP: Final = 2**24
"""How far up healing begins, so that masters which heal at once do not chase each other: 100,000 messages
on nine masters.  Beyond it they may, for some rounds."""

MAX_SEQ: Final = 2**63 - 1
"""A sequence number fits the eight bytes of its key and a signed integer of any other program."""

MAX_MESSAGE_ID: Final = 255
"""JMAP's ids end at 255 octets (RFC 8620 section 1.2); Dovecot's GUIDs are shorter.  With its
mailbox number and UID in front, an id still fits LMDB's key of 511 bytes."""

MAX_ACCOUNT: Final = 255
"""A mail address is at most 254 octets (RFC 5321 section 4.5.3.1.3 less the angle brackets)."""

MAX_MAILBOX_NAME: Final = 1024
"""The full path.  Dovecot allows 255 a level and 16 levels at most in practice; clients stop earlier."""

MAX_KEYWORD: Final = 255
"""RFC 8621 section 4.1.1: 1-255 characters."""

MAX_KEYWORDS_PER_MESSAGE: Final = 128
"""In one change or one new message.  Dovecot's Maildir knows 26; real mailboxes use a dozen."""

MAX_SIZE: Final = 2**63 - 1
"""RFC 9051's number64, for RFC822.SIZE."""

MAX_TIME: Final = 253402300799
"""9999-12-31T23:59:59Z: the last second that an IMAP or JMAP date can say."""

MAX_ANNOTATION: Final = 16 * KIB
"""One mailbox annotation's value (RFC 5464 leaves it to the server)."""

MAX_ANNOTATIONS: Final = 64
"""Entries a mailbox: the directory is read whole for every change of it."""

MAX_MAILBOXES_PER_ACCOUNT: Final = 20_000
"""The directory of an account is one document, read whole for every change of it: about 2 MB here."""

MAX_SCRIPT_NAME: Final = 512
"""RFC 5804 section 1.6 wants 128 characters at least; these are bytes."""

MAX_SCRIPT: Final = 256 * KIB
"""One Sieve script.  Long ones have some 10 KiB; the directory is read whole for every change of it."""

MAX_SCRIPTS: Final = 32
"""Scripts an account, for the same reason."""

MAX_REPLICAS: Final = 1000
"""Entries of a clock that we accept.  A clock entry takes some 14 bytes in every exchange."""

# Deltas and gossip ------------------------------------------------------------------------------------

MAX_DELTA: Final = 32 * MIB
"""One delta must fit memory several times over: 100,000 messages with the longest ids are 26 MB."""

MAX_OPERATIONS: Final = 64
"""Operations a delta.  Ours have at most four; a rename of a folder with its subfolders is one update."""

MAX_MESSAGES_PER_OPERATION: Final = 100_000
"""A whole large mailbox marked as read is one delta; the writer is busy for about a second with it."""

MAX_DIRECTORY_UPDATE: Final = 4 * MIB
"""One directory update: twice what the largest directory takes."""

BATCH_BYTES: Final = 1 * MIB
"""A push or an answer stops gathering deltas at this size (one larger delta still goes alone): large
enough to fill a long fat link for some milliseconds, small enough to be applied in one short commit."""

MAX_GOSSIP_BODY: Final = MAX_DELTA + BATCH_BYTES + 64 * KIB
"""A batch that ends with one delta of the largest size."""

# The JSON API -----------------------------------------------------------------------------------------

MAX_JSON_BODY: Final = 32 * MIB
"""A bulk request names at most 100,000 messages, at most some 300 bytes each."""

MAX_TOKEN: Final = 8000
"""A token is a clock in base64, some 20 bytes a replica, and travels in a header, which HTTP servers cut
off at 8 KiB."""

MAX_PAGE: Final = 100_000
"""Messages in one answer.  One answer of this size takes about a second and 15 MB."""

DEFAULT_PAGE: Final = 1000
"""What a client that asks for nothing special gets."""

MAX_UID_RANGES: Final = 100_000
"""Ranges in one UID set: as many as an operation may name messages."""

MAX_WAIT_S: Final = 60.0
"""The longest wait that a client may ask for (token, acknowledgement, long poll).  Proxies and load
balancers cut an idle request at about this age."""

DEFAULT_WAIT_S: Final = 5.0
"""How long a token or an acknowledgement is waited for when the client does not say."""

# Queues -----------------------------------------------------------------------------------------------

MAX_WRITES_WAITING: Final = 4096
"""Writes queued for the writer thread.  More would only add latency: the next one is answered 503."""

MAX_GROUP: Final = 256
"""Writes in one commit.  Beyond this one fsync costs each of them next to nothing, while the
first in the group would wait for the last."""

MAX_READERS: Final = 512
"""LMDB's reader slots: threads that read and snapshots that are being answered."""

MAX_PEER_NAME: Final = 255
"""A node's label is a host name (RFC 1035: at most 253 octets)."""

GOSSIP_TIMEOUT_S: Final = 10.0
"""A peer that is silent for this long in the middle of a request is taken to be out of reach.  Much longer
than a commit with a large batch takes, short enough that a cut which swallows packets is soon noticed."""

SHUTDOWN_S: Final = 5.0
"""How long a stopping node lets requests that it has taken come to their end.  Long polls are cut."""
