"""Reading that may kill whoever reads: done in a process of its own, whose end is told in a sentence.

LMDB maps its file and believes it.  Where the file is damaged it gives up by SIGABRT, and where the file
ends too early the kernel ends the process by SIGBUS; no exception tells of either.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar

from crdtmail.errors import ConfigError, CrdtmailError, DamagedStore, StoreError
from crdtmail.linux import die_with_parent

T = TypeVar("T")
_OF_DAMAGE = {signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL}


_TOLD = (DamagedStore, StoreError, ConfigError, CrdtmailError)
"""What is raised is told as the first of these that it is one of."""


class _Raised(NamedTuple):
    kind: type[Exception]
    arguments: tuple[object, ...]


def apart(what: str, work: Callable[[], T]) -> T:
    """Do `work` on `what` in another process; its answer.

    Raises what `work` raises; DamagedStore if it died of what it read.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work_as_child(what, work, parent, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        name = signal.Signals(-code).name
        if -code in _OF_DAMAGE:
            why = "its file is cut off, or its disk fails" if name == "SIGBUS" else "its pages lead astray"
            raise DamagedStore(f"{what} is damaged: {why} ({name})")
        raise StoreError(f"{what} could not be read to the end: the process was ended by {name}")
    if not told:
        sys.exit(code)
    answer = pickle.loads(told)
    if isinstance(answer, _Raised):
        raise answer.kind(*answer.arguments)
    return answer  # type: ignore[no-any-return]


def _work_as_child(what: str, work: Callable[[], T], parent: int, writer: int) -> NoReturn:
    """Answers through `writer`, and never comes back to what the parent was doing."""
    code = 1
    try:
        die_with_parent(parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _silence_libraries()
        try:
            answer: object = work()
        except MemoryError:
            answer = _Raised(DamagedStore, (f"{what} is damaged: a length in it is beyond all memory",))
        except CrdtmailError as error:
            answer = _Raised(next(kind for kind in _TOLD if isinstance(error, kind)), (str(error),))
        except OSError as error:
            answer = _Raised(OSError, (error.errno, error.strerror, error.filename))
        sys.stdout.flush()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _silence_libraries() -> None:
    """What we say still gets through; what LMDB says of its own accord before it dies does not."""
    faulthandler.disable()
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(ours, "w", buffering=1)
