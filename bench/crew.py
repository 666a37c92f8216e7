"""The crew: each part of a load in a process of its own, forked, so that no two share an interpreter lock."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import traceback
from collections.abc import Callable, Coroutine
from ctypes import c_uint64
from multiprocessing.connection import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

import uvloop

P = ParamSpec("P")
T = TypeVar("T")

Figures = dict[str, list[float]]
"""What a part reports: named lists of numbers."""

PATIENCE_S = 60.0
"""No part of a load takes longer; one that does has hung."""

_FORK = multiprocessing.get_context("fork")


class CrewFailed(Exception):
    """A part of the load could not do its work. The text is its traceback or what it waited for."""


class Counters:
    """Numbers that all processes of a load see: how many were sent, whether that was all, how many each got."""

    def __init__(self, receivers: int) -> None:
        self._cells = _FORK.RawArray(c_uint64, 2 + receivers)

    @property
    def sent(self) -> int:
        """Messages given to the broker so far."""
        return int(self._cells[0])

    @sent.setter
    def sent(self, count: int) -> None:
        self._cells[0] = count

    @property
    def finished(self) -> bool:
        """Whether ``sent`` is final."""
        return bool(self._cells[1])

    def finish(self) -> None:
        """Declares ``sent`` final."""
        self._cells[1] = 1

    def got(self, receiver: int, count: int) -> None:
        """Notes how many messages a receiver has."""
        self._cells[2 + receiver] = count

    def total(self) -> int:
        """How many messages all receivers have together."""
        return int(sum(self._cells[2:]))

    def slowest(self) -> int:
        """How many messages the receiver that is furthest behind has."""
        return int(min(self._cells[2:]))


class Worker:
    """One part at work. ``ready()`` in the part lets ``wait_ready()`` here return."""

    def __init__(self, part: Callable[[Callable[[], None]], Coroutine[Any, Any, Figures]]) -> None:
        self._here, there = _FORK.Pipe()
        self._process = _FORK.Process(target=_work, args=(part, there), daemon=True)
        self._process.start()
        there.close()

    def wait_ready(self) -> None:
        """Returns once the part has said that it is ready."""
        self._receive("ready")

    def result(self) -> Figures:
        """Waits for the part's figures and its end."""
        try:
            return self._receive("done")
        finally:
            self._process.kill()
            self._process.join()
            self._here.close()

    def _receive(self, wanted: str) -> Figures:
        word, figures = "", Figures()
        while word != wanted:
            if not self._here.poll(PATIENCE_S):
                raise CrewFailed(f"not {wanted} within {PATIENCE_S:g} s")
            try:
                word, figures = self._here.recv()
            except EOFError:
                raise CrewFailed(f"died before it was {wanted}") from None
            if word == "failed":
                raise CrewFailed(str(figures))
        return figures


def start(
    part: Callable[Concatenate[Callable[[], None], P], Coroutine[Any, Any, Figures]], *args: P.args, **kwargs: P.kwargs
) -> Worker:
    """Starts ``part(ready, …)``, a coroutine function, on a loop of its own in a process of its own."""
    return Worker(lambda ready: part(ready, *args, **kwargs))


def _work(part: Callable[[Callable[[], None]], Coroutine[Any, Any, Figures]], link: Connection) -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(part(lambda: link.send(("ready", {}))))
        link.send(("done", figures))
    except Exception:  # noqa: BLE001 - the edge of a process: whatever it was, the parent is told
        link.send(("failed", traceback.format_exc()))
    # What the parent opened before the fork is the parent's to close.
    os._exit(0)
