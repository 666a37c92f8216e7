"""A thread that does one job after another and reports each on the loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Outcome(Generic[T]):
    """What a job came to: a value, or the error it raised."""

    __slots__ = ("_value", "error")

    def __init__(self, value: T | None, error: BaseException | None) -> None:
        self._value = value
        self.error = error

    def value(self) -> T:
        """The value; raises the job's error if that is what came."""
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]  # no error: T itself, which may include None


def _attempt(job: Callable[[], T]) -> Outcome[T]:
    try:
        return Outcome(job(), None)
    except BaseException as error:  # noqa: BLE001  the loop must hear of it, whatever it is
        return Outcome(None, error)


@final
class Worker:
    """Runs jobs in order, in a thread of its own or (``threaded=False``) each in a later turn of the loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, threaded: bool) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """``done`` is called on the loop, once, never from within this call."""
        loop = self._loop
        if self._thread is None:
            loop.call_soon(lambda: done(_attempt(job)))
            return

        def work() -> None:
            outcome = _attempt(job)
            loop.call_soon_threadsafe(done, outcome)

        self._jobs.put(work)

    def stop(self) -> None:
        """Ends the thread after what was submitted. Nothing should be under way: this waits for it."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            work = self._jobs.get()
            if work is None:
                return
            work()
