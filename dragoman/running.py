"""One mesh in a process of its own, from the first line it prints to the last flush; and its data while none runs.

Whatever belongs to a process and not to a mesh is here: the event loop, signals, the ready file, the garbage
collector, the limit on open files. An embedder keeps its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import uvloop

from dragoman import __version__
from dragoman.broker.log.contract import LogError
from dragoman.build import form
from dragoman.config import Config, ConfigError, advice
from dragoman.mesh import CannotStartError, Mesh

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Log
    from dragoman.broker.log.settings import LogSettings

Done = TypeVar("Done")
Say = Callable[[str], None]

GC_THRESHOLDS: Final = (50_000, 20, 50)
"""Python's are 700, 10, 10: a busy broker makes that many objects in a millisecond, nearly none of them in cycles."""

PRIVATE: Final = 0o077
"""The mask of whatever files we make: messages are for the mesh's user only."""

ECHO_S: Final = 0.5
"""How long a second signal may be an echo of the first."""


def run(config: Config, ready_file: Path | None, say: Say) -> int:
    """Runs a mesh until a signal ends it; the exit code. Raises CannotStartError."""
    _remove(ready_file)
    _check_place(ready_file)
    os.umask(PRIVATE)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, ready_file, say))


async def _serve(config: Config, ready_file: Path | None, say: Say) -> int:
    ended = _Signals(asyncio.get_running_loop(), say)
    if config.source is not None and config.source.file is not None:
        ended.hear_of_reloads()
    say(f"dragoman {__version__}, {form()}")
    mesh = Mesh(config)
    started = time.monotonic()
    await mesh.start()
    took_ms = round((time.monotonic() - started) * 1000)
    try:
        for line in _opening(config, mesh.addresses, mesh.broker.log, took_ms):
            say(line)
        _settle_garbage_collector()
        # Last: whoever waits for this file may go on at once, and reads all that was said before.
        if ready_file is not None:
            _write_whole(ready_file, json.dumps({"pid": os.getpid(), **mesh.addresses}))
        reloading = asyncio.create_task(_reload(mesh, ended.reload))
        code = await ended.wait()
        reloading.cancel()
        say("stopping: no new connections, everyone is told, everything is flushed")
    finally:
        _remove(ready_file)
        await mesh.stop(config.grace_s)
        ended.over()
    say("stopped")
    return code


async def _reload(mesh: Mesh, wanted: asyncio.Event) -> None:
    """Each time it is wanted; also what came while the mesh was starting, or while it was reloading."""
    while True:
        await wanted.wait()
        wanted.clear()
        # The mesh has said in its log what is wrong, and goes on as it was.
        with contextlib.suppress(ConfigError):
            await mesh.reload()


class _Signals:
    """The first SIGINT or SIGTERM asks for a graceful end; a second ends the process at once.

    Ctrl-C reaches a whole process group, and a parent such as ``timeout`` or ``uv run`` passes it on as well: so
    what comes within ``ECHO_S`` of the first is the same wish.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, say: Say) -> None:
        self._came = asyncio.Event()
        self._say = say
        self._code = 0
        self._first_s = 0.0
        self._over = False
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on, number)
        #: set by each SIGHUP, if that means to reload
        self.reload = asyncio.Event()
        self._loop = loop

    def hear_of_reloads(self) -> None:
        """There is a file to read again: SIGHUP no longer means that a terminal was closed."""
        self._loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        # Held since the command began, so that it does not end a mesh that starts.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def over(self) -> None:
        """Everything is stopped: there is nothing left to hurry."""
        self._over = True

    async def wait(self) -> int:
        """Waits for the first; the exit code it means."""
        await self._came.wait()
        return self._code

    def _on(self, number: signal.Signals) -> None:
        now_s = time.monotonic()
        if self._over or (self._came.is_set() and now_s - self._first_s < ECHO_S):
            return
        if self._came.is_set():
            self._say("stopped at once; what was acknowledged is in the log")
            os._exit(128 + number)
        # SIGTERM is how a supervisor says "well done"; SIGINT tells a shell script that its user wants it to end too.
        self._code = 0 if number == signal.SIGTERM else 128 + number
        self._first_s = now_s
        self._came.set()


def _opening(config: Config, addresses: dict[str, str], log: Log, took_ms: int) -> list[str]:
    lines: list[str] = []
    for name in ("mqtt", "mqtts", "kafka", "kafkas"):
        if name in addresses:
            lines.append(f"  {name:<6} {addresses[name]}")
    lines.extend(f"  {'mqtt':<6} {addresses[each.name]}  ({each.name}: {each.about})" for each in config.mqtt.listeners)
    for name in ("http", "https"):
        if name in addresses:
            url = f"{name}://{addresses[name]}"
            lines.append(f"  {name:<6} {url}/v1  (metrics {url}/metrics, description {url}/openapi.json)")
            lines.append(f"  {'mcp':<6} {url}{config.mcp.path}")
            lines.append(f"  {'a2a':<6} {url}{config.a2a.path}/mesh  (the mesh itself; other agents likewise)")
    if not addresses:
        lines.append("  no listener is on: nobody can connect")
    if config.durable:
        lines.append(f"  {'data':<6} {config.data}: {_found(log)}; started in {took_ms} ms")
    lines.extend(f"  note   {sentence}" for sentence in advice(config))
    lines.append("  stop with Ctrl-C or SIGTERM; a second one stops at once")
    return lines


def _found(log: Log) -> str:
    """What the log held when it was opened. It counts channels and bytes, not messages: offsets may have holes."""
    numbers = log.statistics()
    channels = sum(1 for _ in log.channels())
    if not channels and not numbers["replayed_commits"]:
        return "no messages yet"
    return (
        f"messages in {_count(channels, 'channel')}, {numbers['used_bytes'] / (1 << 20):,.1f} MiB, "
        f"{_count(numbers['replayed_commits'], 'commit')} replayed from the journal"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that is never seen half written."""
    try:
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text + "\n")
            os.chmod(beside, 0o644)
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
            raise
    except OSError as error:
        raise CannotStartError(f"the ready file {path} cannot be written: {error.strerror}") from None


def _remove(ready_file: Path | None) -> None:
    """A ready file says that a mesh runs now; one left by a process that was killed would lie."""
    try:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    except OSError as error:
        raise CannotStartError(f"the ready file {ready_file} cannot be replaced: {error.strerror}") from None


def _check_place(ready_file: Path | None) -> None:
    """Whether it can be written is known before anything listens: the file is written when everything does."""
    if ready_file is None:
        return
    try:
        descriptor, beside = tempfile.mkstemp(dir=ready_file.parent, prefix=f".{ready_file.name}.")
        os.close(descriptor)
        os.unlink(beside)
    except OSError as error:
        raise CannotStartError(f"the ready file {ready_file} cannot be written: {error.strerror}") from None


def _raise_file_limit() -> None:
    """Every connection is an open file, and shells allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            return  # macOS says "unlimited" and refuses it; what we have must do


def _settle_garbage_collector() -> None:
    """What is alive after the start stays alive: never look at it again, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


# -- the data of a mesh that does not run ------------------------------------------------------------


def compact_folder(folder: Path) -> tuple[int, int]:
    """Rewrites the index without its free pages; its bytes before and after. Raises CannotStartError."""
    from dragoman.broker.log.upkeep import compact

    return _offline(folder, compact)


def backup_folder(folder: Path, target: Path) -> None:
    """Copies it to a folder that is new or empty. Raises CannotStartError."""
    from dragoman.broker.log.upkeep import backup_folder as copy

    _offline(folder, lambda settings: copy(settings, target))


def _offline(folder: Path, work: Callable[[LogSettings], Done]) -> Done:
    # The log would make what is not there, and a wrong path is all it takes.
    if not folder.is_dir():
        raise CannotStartError(f"{folder} is no directory; name the data directory of a mesh, such as ./dragoman-data")
    if not any(folder.iterdir()):
        raise CannotStartError(f"{folder} is empty; name the data directory of a mesh, such as ./dragoman-data")
    os.umask(PRIVATE)
    try:
        return work(Config(data=str(folder)).log)
    except LogError as error:
        raise CannotStartError(str(error)) from None
    except OSError as error:
        raise CannotStartError(f"{error.filename or folder}: {error.strerror}") from None
