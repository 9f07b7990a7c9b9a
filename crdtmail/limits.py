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

LEAST_FREE: Final = BATCH_BYTES
"""Where less is free on its disk a node may take a small write, and has no room for a batch from a peer: the
alarm of a full disk does not end with the first write that fits."""

MAX_GOSSIP_BODY: Final = MAX_DELTA + BATCH_BYTES + 64 * KIB
"""A batch that ends with one delta of the largest size."""

MAX_POSITION: Final = 64 * KIB
"""The body of an exchange: a name and MAX_REPLICAS entries of a clock, all of them retired, are 29 KB."""

MAX_QUESTION: Final = 4 * MIB
"""A question about a snapshot: 500 mailboxes of accounts with the longest names are 140 KB; the rest is room
for 350,000 ranges of UIDs in them."""

MAX_VALUES: Final = 2_000_000
"""Values in one delta, message or JSON body: 20 for each of MAX_MESSAGES_PER_OPERATION, six and its keywords.
Of megabytes of empty lists a decoder makes a hundred times as much, and nothing else runs meanwhile."""

MAX_ROWS_CLEARED: Final = 10_000
"""Rows that one transaction takes away of what is no longer needed (pruned deltas, staged messages), so that
no write waits long for it."""

MAX_NEW_IDS: Final = 8
"""How often a node takes a new id between two starts because others say that the old one is not its own any
more.  An honest cluster says so once or twice in a node's life; each id stays in every clock for ever."""

MAX_PEERS_NAMED: Final = 64
"""Peers whose refusals are counted one by one, and members that have figures of their own in the metrics.  A
cluster has a few nodes; who invents more must not fill memory, here or where the figures are collected."""

MAX_REFUSAL_TEXT: Final = 300
"""Characters kept of a refusal's text, which may quote what was sent: with every reason of every peer that is
named, some 400 KB."""

MAX_SNAPSHOTS: Final = 4
"""Snapshots that are held for peers at a time.  Each keeps the pages that it shows from being used again."""

SNAPSHOT_S: Final = 600.0
"""How long a peer may read one snapshot.  Then it begins another one, and goes on with what still differs."""

STAGED_S: Final = 3600.0
"""How long what has come of a snapshot is kept for another attempt to take it over, from the last one that
brought anything.  After that much of it will have changed, and the room may be needed."""

OFFERS_PAUSE_S: Final = 10.0
"""Where deltas of others were turned away while one that was offered came, no snapshot that is offered is
begun for as long as that took, and at most so long: twice the longest pause (`last_retry`) after which they
are sent again.  Else a member that offers again and again keeps out what all others have to say."""

SNAPSHOT_IDLE_S: Final = 30.0
"""A snapshot of which nobody has asked anything for so long is given up: whoever asked for it is gone."""

MAX_RANGES_PER_QUESTION: Final = 100_000
"""Ranges of UIDs in one question about a snapshot: at most 1.1 MB, which MAX_QUESTION has room for.  A node
that lacks more, because UIDs lie far apart, asks several questions."""

MAX_ACCOUNTS_PER_ANSWER: Final = 1000
"""Accounts in one answer about a snapshot: as many digests as are compared in some 0.1 s."""

MAX_BLOCKS_PER_ANSWER: Final = 50_000
"""Blocks of UIDs in one answer about a snapshot: some 600 KB."""

MAX_DIRECTORY: Final = 16 * MIB
"""An account's document, where it is written: what the largest directory takes, and 32 of the largest
scripts.  Two masters that fill it up at once still make one that fits the answer about a snapshot."""

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

# Who asks ---------------------------------------------------------------------------------------------

SIGNATURE_LIFE_S: Final = 10.0
"""How far a signed request's time may be from the receiver's.  The caller knows that time as of the last
answer, so what differs is one way through the network; a request that took longer is made anew."""

MAX_NONCES: Final = 100_000
"""Signed requests that are remembered until their time is over (at most twice the life), some 150 bytes each.
That is 5,000 requests a second, far more than peers that ask one thing at a time can make."""

MIN_SECRET: Final = 32
"""Characters of the cluster's secret.  Hexadecimal digits would be 128 bits; whoever records one signed
request can try words from a list on it as fast as they can hash."""

MAX_SECRET_FILE: Final = 64 * KIB
"""A key or a secret; far larger means that the wrong file was named."""

MAX_ACCESS_TOKENS: Final = 1000
"""Clients' tokens of one node.  Clients are mail servers and tools, not people."""

MAX_TOKENS_FILE: Final = 1 * MIB
"""That many tokens with a name and some patterns each; read whole, in the event loop, at SIGHUP."""

MAX_TOKEN_NAME: Final = 64
"""A token's name, shown in lists."""

MAX_PATTERNS: Final = 16
"""Account patterns of one token: all are tried on every account that is listed."""

MAX_PATTERN: Final = 255
"""As long as an account."""

# Connections ------------------------------------------------------------------------------------------

MAX_CONNECTIONS: Final = 4096
"""Open at once, each with at most one request under way.  One that is idle was measured to take 52 KiB with
TLS, 8 without: some 210 MB if all are open.  One address (of IPv6, one network of 64 bits) gets none any more
when it has as many as are free: 2,048 for a proxy that all clients come through, and a reserve for others."""

BACKLOG: Final = 512
"""Connections that the kernel keeps for us while we are busy for a moment."""

ACCEPT_PAUSE_S: Final = 0.5
"""The pause when no connection can be taken because file descriptors have run out: long enough to cost
nothing, short enough to be back at once when some are free again."""

HANDSHAKE_S: Final = 10.0
"""For a TLS handshake: two round trips and a signature."""

MAX_IDLE_S: Final = 60.0
"""A connection that has brought no whole request head for so long is closed, at its start and between
requests.  So a head that drips in holds one connection for a minute, not for ever."""

SILENCE_S: Final = 10.0
"""What a body or an answer may take on the way beside the time that its size gives it."""

MIN_RATE: Final = 64 * KIB
"""Bytes a second that a body or an answer must make all the time: a batch in 26 s at half a megabit.  Who is
slower holds memory for too long."""

MAX_PEER_BODIES: Final = 128 * MIB
"""Bodies and answers in memory at once, of all requests of peers: three of the largest, or a hundred
batches.  Clients have budgets of their own, so that neither can shut out the other."""

MAX_CLIENT_BODIES: Final = 64 * MIB
"""Bodies of clients in memory at once: two of the largest, or thousands of the usual."""

MAX_CLIENT_ANSWERS: Final = 128 * MIB
"""Answers to clients in memory at once, and those that are being made: two of the largest pages, or hundreds
of the usual.  They are not counted with the bodies: who may only read must not keep others from writing."""

ROOM_PER_ROW: Final = 600
"""What a row of a page takes while the page is made: twice what is sent of a message with a long id."""

SMALL: Final = 16 * KIB
"""A body or an answer up to here always finds room: status, an exchange, a change of a few messages.  One for
each of MAX_CONNECTIONS would be 64 MiB."""

MAX_GOSSIP_REQUESTS: Final = 64
"""Requests of peers under way.  A cluster has a few nodes, each of which asks one thing at a time."""

MAX_REQUESTS_PER_PEER: Final = 4
"""One, and some that the peer has given up already while they still wait for the writer."""

MAX_REQUESTS_PER_ADDRESS: Final = MAX_GOSSIP_REQUESTS // 2
"""Several nodes may share an address.  Whoever has one certificate, and as many names as it likes, leaves
room for those at other addresses."""

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

MAX_REPAIRS: Final = 100_000
"""Repairs of a store that are kept in memory, some 50 MB, before they are made and the rest is looked for."""

LARGEST_WRITE: Final = 2 * MAX_DELTA
"""LMDB writes up to 64 pages at once, of which one may hold a delta of the largest size.  Where less is
free, an I/O error is taken for a full disk."""

GOSSIP_TIMEOUT_S: Final = 10.0
"""A peer that is silent for this long in the middle of a request is taken to be out of reach.  Much longer
than a commit with a large batch takes, short enough that a cut which swallows packets is soon noticed."""

RECEIVE_S: Final = 0.2
"""How long a commit goes on to take a peer's changes: local writes wait for it.  Mostly a batch takes less,
but each change of an account with thousands of mailboxes takes some hundredths of a second."""

HOUSE_S: Final = 10.0
"""How often the log is looked at: it is pruned soon, and looking costs nothing."""

SILENT_S: Final = 3600.0
"""A member of which nothing was heard for so long is named in alarms and the log: longer than any reboot or
upgrade.  A busy cluster fills the log that is kept for it (`log.keep_mb`) in some hours."""

NAMESAKE_S: Final = 300.0
"""Two replicas of one name that were both heard within so long are two nodes.  Longer than the pause between
two exchanges of a large cluster, short enough that the alarm ends soon after one of them is stopped."""

ALIVE_S: Final = 60.0
"""Who was heard of within so long is not retired without force: longer than the pause between two exchanges,
short enough that a server which was just stopped can be retired soon."""

ALONE_S: Final = 30.0
"""When nothing was exchanged with any peer for so long, that is an alarm: longer than the restart of one."""

SHUTDOWN_S: Final = 5.0
"""How long a stopping node lets requests that it has taken come to their end.  Long polls are cut."""
