"""Child processes: foreign clients and brokers, and the mesh itself. Each is dead and collected when its block ends.

Output goes to files, so a child never blocks on a pipe nobody reads and what it said can be read at any time.
There is no sleep for luck here: every wait is a bounded poll for something the child does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

POLL_S = 0.01
SAID_CHARS_MAX = 4_000

Found = TypeVar("Found")


class ChildFailed(AssertionError):
    """A child did not do what was asked. The text holds its command, its exit code and what it printed."""


@dataclass(frozen=True)
class Ended:
    """How a child ended. ``code`` is negative if a signal ended it, as in ``subprocess``."""

    code: int
    stdout: str
    stderr: str


class Child:
    """A running program in a process group of its own, which ends with the ``with`` block.

    ``stdin`` is fed once and closed, or is empty.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = [os.fspath(part) for part in argv]
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill(), which every way out goes through
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as fed:
            undo.enter_context(self._out)
            undo.enter_context(self._err)
            fed.write(stdin)
            fed.seek(0)
            self._process = subprocess.Popen(
                self.argv,
                stdin=fed,
                stdout=self._out,
                stderr=self._err,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
            undo.pop_all()
        self._ended: Ended | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id; also the id of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._ended is None and self._process.poll() is None

    @property
    def stdout(self) -> str:
        """All it printed so far."""
        return self._ended.stdout if self._ended else _said(self._out)

    @property
    def stderr(self) -> str:
        """All it complained of so far."""
        return self._ended.stderr if self._ended else _said(self._err)

    def until(self, done: Callable[[], Found | None], what: str, timeout_s: float = 20.0) -> Found:
        """Polls until ``done()`` is not None and returns it. Fails when the child ends first or the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = not self.running
            found = done()
            if found is not None:
                return found
            if ended:
                raise ChildFailed(self.story(f"ended before {what}"))
            if time.monotonic() > deadline:
                raise ChildFailed(self.story(f"no {what} within {timeout_s:g} s"))
            time.sleep(POLL_S)

    def until_said(self, pattern: str, timeout_s: float = 20.0) -> re.Match[str]:
        """Waits for a match in its standard output, line by line."""
        return self.until(lambda: re.search(pattern, self.stdout, re.MULTILINE), f"output like {pattern!r}", timeout_s)

    def until_complained(self, pattern: str, timeout_s: float = 20.0) -> re.Match[str]:
        """Waits for a match in its standard error, line by line."""
        return self.until(lambda: re.search(pattern, self.stderr, re.MULTILINE), f"errors like {pattern!r}", timeout_s)

    def wait(self, timeout_s: float = 20.0) -> Ended:
        """Waits for it to end by itself."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            text = self.story(f"still running after {timeout_s:g} s")
            self.kill()
            raise ChildFailed(text) from None
        return self.kill()

    def terminate(self, timeout_s: float = 20.0) -> Ended:
        """Sends SIGTERM and waits for it to end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        return self.wait(timeout_s)

    def kill(self) -> Ended:
        """Ends it and its whole process group with SIGKILL, if it has not ended. Idempotent."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
            with self._out, self._err:
                self._ended = Ended(code, _said(self._out), _said(self._err))
        return self._ended

    def story(self, what: str) -> str:
        """What went wrong, for a person: the command, how it stands, the end of all it printed."""
        code = self._process.poll()
        state = "running" if code is None else f"exit code {code}"
        return (
            f"{what}\n  command: {' '.join(self.argv)}\n  {state}\n"
            f"  stdout: {self.stdout[-SAID_CHARS_MAX:]}\n  stderr: {self.stderr[-SAID_CHARS_MAX:]}"
        )


def run_client(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float = 20.0,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    code: int | None = 0,
) -> Ended:
    """Runs a program to its end. Fails with its output if time is up or the exit code is not ``code`` (None: any)."""
    with Child(argv, stdin=stdin, env=env, cwd=cwd) as child:
        ended = child.wait(timeout_s)
        if code is not None and ended.code != code:
            raise ChildFailed(child.story(f"exit code {ended.code}, not {code}"))
        return ended


def _said(file: IO[bytes]) -> str:
    """The whole file, without moving the place at which the child, who shares it, goes on writing."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")
