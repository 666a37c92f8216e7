"""The loop's side of the mover: what waits for LMDB, when to start, what to do when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import final

from dragoman.broker.log.frames import Frame
from dragoman.broker.log.hot import HotTail
from dragoman.broker.log.mover import Moved, Mover
from dragoman.broker.log.overlay import Overlay
from dragoman.broker.log.rows import Reached
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.store import StoreError
from dragoman.broker.log.worker import Outcome, Worker

logger = logging.getLogger(__name__)


@final
class Background:
    """Hands commits to the mover thread in large pieces, soon enough that memory stays bounded. Loop's thread only."""

    def __init__(
        self,
        mover: Mover,
        worker: Worker,
        loop: asyncio.AbstractEventLoop,
        settings: LogSettings,
        hot: HotTail,
        overlay: Overlay,
        reached: Reached,
        journal_bytes: int,
        progressed: Callable[[BaseException | None], None],
    ) -> None:
        self.mover = mover
        self.reached = reached
        self.journal_bytes = journal_bytes
        self.store_bytes = mover.used_bytes()
        self.failures = 0
        self.failing = False
        self.moves = 0
        self.settled_bytes = 0
        self.unmoved_bytes = 0
        self.busy = False
        self.more = True
        self._worker = worker
        self._loop = loop
        self._settings = settings
        self._hot = hot
        self._overlay = overlay
        self._progressed = progressed
        self._unmoved: list[Frame] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._early_bytes = min(settings.move_bytes, settings.hot_bytes // 2)

    @property
    def steps(self) -> int:
        """How many steps of the mover have ended."""
        return self.moves + self.failures

    @property
    def full(self) -> bool:
        """Whether so much waits that commits should too."""
        return self.unmoved_bytes > self._settings.hot_bytes

    @property
    def idle(self) -> bool:
        """Whether LMDB has everything and nothing is left to free."""
        return not (self.busy or self._unmoved or self.more)

    def add(self, frame: Frame, written_bytes: int) -> None:
        """A commit is safe; LMDB shall have it in a while."""
        self._unmoved.append(frame)
        self.unmoved_bytes += frame.length
        self.journal_bytes += written_bytes
        self.reached = (frame.segment, frame.start + frame.length, frame.commit, frame.end_position)
        if self.unmoved_bytes >= self._early_bytes:
            self.hurry()
        elif self._timer is None:
            self._later(self._settings.move_interval_ms)

    def hurry(self) -> None:
        """Starts now what would start later, unless it just failed."""
        if not self.failing:
            self._start()

    def stop(self) -> None:
        """Starts nothing any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self, delay_ms: int) -> None:
        if not self._stopped:
            self._timer = self._loop.call_later(delay_ms / 1000, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._start()

    def _start(self) -> None:
        if self.busy or self._stopped or not (self._unmoved or self.more):
            return
        self.busy = True
        frames, self._unmoved = self._unmoved, []
        taken_bytes = self.unmoved_bytes
        reached, journal_bytes = self.reached, self.journal_bytes
        self._worker.submit(
            lambda: self.mover.step(frames, reached, journal_bytes),
            lambda outcome: self._done(frames, taken_bytes, outcome),
        )

    def _done(self, frames: list[Frame], taken_bytes: int, outcome: Outcome[Moved]) -> None:
        self.busy = False
        if self._stopped:
            return
        error = outcome.error
        if isinstance(error, (StoreError, OSError)):
            # The transaction left nothing behind; what it held is in the journal and in memory.
            self._unmoved[:0] = frames
            self.failures += 1
            self.failing = True
            logger.error("writing the state file failed; it is tried again", extra={"why": str(error)})
            if self._timer is not None:
                self._timer.cancel()
            self._later(self._settings.retry_ms)
        elif error is None:
            self._took(frames, taken_bytes, outcome.value())
        self._progressed(error)

    def _took(self, frames: list[Frame], taken_bytes: int, moved: Moved) -> None:
        self.failing = False
        self.moves += 1
        self.unmoved_bytes -= taken_bytes
        self.more = moved.more
        self.journal_bytes -= moved.removed_bytes
        self.settled_bytes += moved.settled_bytes
        self.store_bytes = moved.store_bytes
        if frames:
            self._overlay.moved(frames)
            self._hot.moved(frames[-1].commit)
        if self.more or self.unmoved_bytes >= self._early_bytes:
            self._start()
