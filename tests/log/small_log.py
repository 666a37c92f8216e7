"""A log with small bounds on a real disk, and the ways tests play on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from log_bench import Opened, said

from dragoman.broker.clock import ManualClock
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.routing.message import Message


def settings_for(folder: Path) -> LogSettings:
    return LogSettings(
        folder=folder,
        budget_bytes=1 << 26,
        headroom_bytes=0,
        reserve_free_bytes=0,
        segment_bytes=4096,
        journal_bytes_max=1 << 30,
        settle_live_percent=0,
        map_bytes=1 << 28,
        threads=False,
    )


def play(
    settings: LogSettings, scene: Callable[[Opened, DiskLog], Coroutine[Any, Any, None]], *, kill: bool = False
) -> None:
    async def main() -> None:
        log = DiskLog(settings, ManualClock())
        opened = Opened(log)
        try:
            await scene(opened, log)
        finally:
            log.halt() if kill else await log.close()

    asyncio.run(main())


async def fill(opened: Opened, numbers: range, offsets: range, size: int = 100) -> list[Message]:
    """Appends to every channel in turn, one commit for each offset."""
    given = []
    for offset in offsets:
        for number in numbers:
            message = said(number, offset, b"%d/%d " % (number, offset) + b"x" * size)
            opened.append(message)
            given.append(message)
        await opened.log.committed()  # type: ignore[attr-defined]
    return given
