"""Files made to do harm, and how each is read: in a process of its own, watched, with little memory and time."""

import json
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from core.errors import InputError

MEGABYTE = 1 << 20
SECONDS = 60
"""After which a reader that does not end is killed."""
# What only a payload does. Every process with these events in it is reported.
_DEEDS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.putenv", "os.remove", "os.rename", "os.rmdir")
_DEEDS += ("os.symlink", "os.link", "os.mkdir", "os.chmod", "subprocess.Popen", "socket.connect", "socket.bind")
_DEEDS += ("shutil.rmtree", "shutil.copyfile", "shutil.move", "pickle.find_class", "urllib.Request", "ctypes.dlopen")
CANARY = "hostile_canary"
"""The module that payloads import."""


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        name: of the case.
        door: a key of :data:`tests.unit.hostile_doors.DOORS`: what reads it.
        make: writes it into an empty folder and returns what the reader is given.
        words: in its refusal (a regular expression), which must also name the file.
        read: whether it is harmless and must be read instead.
    """

    name: str
    door: str
    make: Callable[[Path], Path]
    words: str = ""
    read: bool = False


@dataclass
class Outcome:
    """What a process that read a file reported.

    Attributes:
        kind: ``read``, or the name of the exception.
        text: its message, or what the reader gave.
        deeds: events that only a payload brings about.
        signal: that ended the process, 0 if it ended by itself.
    """

    kind: str = "nothing"
    text: str = ""
    deeds: list[str] = field(default_factory=list)
    signal: int = 0


def watched(reads: Sequence[Callable[[], Any]], megabytes: int) -> list[Outcome]:
    """Do things one after the other in a fork of this process, which may take ``megabytes`` more memory than this one.

    Each may take a minute. One that ends the process is reported by its signal, and the rest goes on in another fork.
    """
    found: list[Outcome] = []
    while len(found) < len(reads):
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of forks of processes with threads; this child only reads files.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _tell(reads[len(found) :], megabytes, theirs)
        os.close(theirs)
        with open(ours, "rb") as stream:
            found += [Outcome(**json.loads(line)) for line in stream]
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            found.append(Outcome(signal=os.WTERMSIG(status)))
    return found


def _tell(reads: Sequence[Callable[[], Any]], megabytes: int, pipe: int) -> NoReturn:
    deeds: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _DEEDS or (event == "import" and arguments[0] == CANARY):
            deeds.append(f"{event} {str(arguments)[:200]}")
        if event == "open" and _writes(*arguments[1:3]) and str(arguments[0]) != os.devnull:
            deeds.append(f"wrote {str(arguments[0])[:200]}")

    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        sys.dont_write_bytecode = True
        torch.set_num_threads(1)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * MEGABYTE,) * 2)
        sys.addaudithook(note)
        for read in reads:
            signal.alarm(SECONDS)
            deeds.clear()
            outcome = _outcome(read)
            outcome.deeds = list(deeds)
            os.write(pipe, json.dumps(vars(outcome)).encode() + b"\n")
    finally:
        os._exit(0)


def _outcome(read: Callable[[], Any]) -> Outcome:
    try:
        return Outcome("read", str(read())[:2000])
    except InputError as error:
        return Outcome("InputError", str(error))
    except Exception as error:
        return Outcome(type(error).__name__, "".join(traceback.format_exception(error))[-3000:])


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return True
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
