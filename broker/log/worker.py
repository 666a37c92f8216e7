"""A thread that does one job after another and reports each on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Outcome(Generic[T]):
    """What a job came to: a value, or the error it raised."""

    __slots__ = ("_future", "error")

    def __init__(self, future: Future[T]) -> None:
        self._future = future
        self.error = future.exception()

    def value(self) -> T:
        """The value; raises the job's error if that is what came."""
        return self._future.result()


@final
class Worker:
    """Runs jobs in order in a thread of its own. ``threaded=False``: the loop waits for each, in a later turn."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, threaded: bool) -> None:
        self._loop = loop
        self._threaded = threaded
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def submit(self, job: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """``done`` is called on the loop, once, never from within this call."""
        loop = self._loop
        if not self._threaded:
            loop.call_soon(lambda: done(Outcome(self._thread.submit(job))))
            return
        future = self._thread.submit(job)
        future.add_done_callback(lambda future: _report(loop, done, future))

    def stop(self) -> None:
        """Ends the thread after what was submitted. Nothing should be under way: this waits for it."""
        self._thread.shutdown()


def _report(loop: asyncio.AbstractEventLoop, done: Callable[[Outcome[T]], None], future: Future[T]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: done(Outcome(future)))
