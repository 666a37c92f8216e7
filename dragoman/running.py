"""Runs a mesh as a program, and looks after its data directory while none runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dragoman import __version__

if TYPE_CHECKING:
    from dragoman.config import Config
    from dragoman.mesh import Mesh

FAILED: Final = 1
KINDS: Final = {"mqtt": "MQTT", "mqtts": "MQTT over TLS", "http": "HTTP and MCP", "https": "HTTP and MCP over TLS"}

GC_THRESHOLDS: Final = (50_000, 50, 1_000)
"""A mesh makes many small objects that live long; Python's defaults would look at them all the time."""


class UserError(Exception):
    """It cannot be done. The text is a sentence for the person who asked."""


def run(config: Config, ready_file: Path | None, *, verbose: bool) -> int:
    """Runs a mesh until SIGTERM or SIGINT; the exit code."""
    import uvloop

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    return uvloop.run(_serve(config, ready_file))


async def _serve(config: Config, ready_file: Path | None) -> int:
    from dragoman.config import advice
    from dragoman.mesh import CannotStartError, Mesh

    began = time.monotonic()
    mesh = Mesh(config)
    asked = _signals()
    try:
        await mesh.start()
    except CannotStartError as error:
        print(f"dragoman: {error}", file=sys.stderr)
        return FAILED
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    _announce(mesh, config, (time.monotonic() - began) * 1000)
    for sentence in advice(config):
        _say(f"  note: {sentence}")
    if ready_file is not None:
        try:
            _write_ready(ready_file, mesh.addresses)
        except OSError as error:
            print(f"dragoman: the ready file {ready_file} cannot be written: {error.strerror}", file=sys.stderr)
            await mesh.stop(0)
            return FAILED
    await asked.get()
    _say("stopping: nothing new is taken in, everybody is told; a second signal stops at once")
    stopping = asyncio.get_running_loop().create_task(mesh.stop(), name="stop")
    again = asyncio.get_running_loop().create_task(asked.get(), name="second signal")
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not stopping.done():
        _say("stopped at once")
        os._exit(FAILED)
    await stopping
    if ready_file is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(ready_file)
    _say("stopped")
    return 0


def _signals() -> asyncio.Queue[int]:
    """The signals that ask us to stop, as they come."""
    asked: asyncio.Queue[int] = asyncio.Queue(maxsize=8)

    def note(number: int) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            asked.put_nowait(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note, number)
    return asked


def _announce(mesh: Mesh, config: Config, took_ms: float) -> None:
    _say(f"dragoman {__version__}, ready after {took_ms:.0f} ms (process {os.getpid()})")
    for name, kind in KINDS.items():
        if name in mesh.addresses:
            _say(f"  {kind:<22} {mesh.addresses[name]}")
    if "http" in mesh.addresses:
        _say(f"  {'for MCP clients':<22} http://{mesh.addresses['http']}{config.mcp.path}")
    if not mesh.addresses:
        _say("  nothing listens: every listener is off")
    kept = mesh.broker.log.statistics()
    recovered = kept.get("recovered_messages", kept.get("messages", 0))
    where = f"{Path(config.data).absolute()}, {recovered} messages there" if config.durable else "nowhere (:memory:)"
    _say(f"  {'kept in':<22} {where}")
    _say("  stop it with Ctrl-C or SIGTERM")


def _say(text: str) -> None:
    print(text, flush=True)


def _write_ready(file: Path, addresses: dict[str, str]) -> None:
    """Whole or not at all: whoever waits for it may read it at once."""
    draft = file.with_name(file.name + ".new")
    draft.write_text(json.dumps({"pid": os.getpid(), **addresses}) + "\n", "utf-8")
    draft.replace(file)


# -- the data directory of a mesh that is not running ------------------------------------------------


def _offline(work: Callable[[], None]) -> None:
    from dragoman.broker.log.contract import LogError

    try:
        work()
    except LogError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None


def compact_folder(data: Path) -> None:
    """Rewrites the index without its free pages. Raises UserError."""
    from dragoman.broker.log.settings import LogSettings
    from dragoman.broker.log.upkeep import compact

    def work() -> None:
        before, after = compact(LogSettings(data))
        _say(f"{data}: the index had {before:,} bytes and has {after:,}")

    _must_be_there(data)
    _offline(work)


def backup_folder(data: Path, target: Path) -> None:
    """Copies it. Raises UserError."""
    from dragoman.broker.log.settings import LogSettings
    from dragoman.broker.log.upkeep import backup_folder as copy

    def work() -> None:
        copy(LogSettings(data), target)
        _say(f"{data} is copied to {target}")

    _must_be_there(data)
    _offline(work)


def _must_be_there(data: Path) -> None:
    if not data.is_dir():
        raise UserError(f"{data} is no directory; name the data directory of a mesh, such as ./dragoman-data")


# -- credentials -------------------------------------------------------------------------------------


def password_hash(secret: str) -> str:
    """What a configuration holds instead of the password."""
    from dragoman.mesh import hash_password

    return hash_password(secret.encode())


def fresh_token() -> tuple[str, str]:
    """A token and its digest."""
    from dragoman.mesh import new_token

    return new_token()
