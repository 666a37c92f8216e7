"""A disk that forgets what was not flushed, and fails when told to.

``Medium`` outlives crashes. Each file has what programs see and what is safe; names are safe once
the folder was flushed. A failed flush poisons its file: nothing of it becomes safe any more, and
writing to it again is the mistake the journal must not make.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dragoman.broker.log.disk import Disk


class PowerCut(Exception):
    """The power went. Nothing after this call happens."""


class _File:
    def __init__(self) -> None:
        self.seen = bytearray()
        self.safe = bytearray()
        self.poisoned = False


class Medium:
    def __init__(self) -> None:
        self.seen: dict[str, _File] = {}
        self.safe: dict[str, _File] = {}

    def unsafe_tail(self) -> int:
        """Bytes of the longest unflushed end of a file whose name is safe."""
        return max((len(file.seen) - len(file.safe) for file in self.safe.values()), default=0)

    def kill(self) -> None:
        """The process died, the system lives: everything seen stays, and is as unsafe as it was."""

    def lose(self) -> None:
        """The system died: what was not flushed is gone, removed names not flushed are back."""
        self._fall_back(0)

    def tear(self, keep: int) -> None:
        """As ``lose``, but of every unflushed end the first ``keep`` bytes made it."""
        self._fall_back(keep)

    def _fall_back(self, keep: int) -> None:
        for file in self.safe.values():
            tail = file.seen[len(file.safe) :][:keep] if file.seen[: len(file.safe)] == file.safe else b""
            file.safe += tail
            file.seen = bytearray(file.safe)
            file.poisoned = False
        self.seen = dict(self.safe)


class FaultDisk(Disk):
    """Counts the calls that change something; fails or stops at the one it is told."""

    def __init__(
        self,
        folder: Path,
        medium: Medium,
        *,
        fail_at: int = 0,
        code: int = errno.EIO,
        cut_at: int = 0,
        part: float = 0,
    ) -> None:
        super().__init__(folder)
        self.medium = medium
        self.calls = 0
        self.log: list[str] = []
        self.free = 1 << 40
        self.dead = False
        self._fail_at = fail_at
        self._code = code
        self._cut_at = cut_at
        self._part = part

    def _call(self, what: str) -> bool:
        """Counts a call; whether it is to fail after part of its work."""
        if self.dead:
            raise PowerCut
        self.calls += 1
        self.log.append(what)
        if self.calls == self._cut_at:
            self.dead = True
            raise PowerCut
        if self.calls == self._fail_at:
            if what.startswith("write") and self._part:
                return True
            if what.startswith("flush journal"):
                self.medium.seen[what.removeprefix("flush ")].poisoned = True
            raise OSError(self._code, os.strerror(self._code))
        return False

    def lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> dict[str, int]:
        return {name: len(file.seen) for name, file in self.medium.seen.items()}

    def create(self, name: str) -> None:
        self._call(f"create {name}")
        assert name not in self.medium.seen, name
        self.medium.seen[name] = _File()

    def write(self, name: str, offset: int, content: bytes) -> int:
        file = self.medium.seen[name]
        assert not file.poisoned, f"{name} is written to after a failed flush"
        failing = self._call(f"write {name}")
        assert offset <= len(file.seen), "a hole"
        if failing:
            content = content[: int(len(content) * self._part)]
        file.seen[offset : offset + len(content)] = content
        if failing:
            raise OSError(self._code, os.strerror(self._code))
        return len(content)

    def flush(self, name: str) -> None:
        self._call(f"flush {name}")
        file = self.medium.seen[name]
        if not file.poisoned:
            file.safe = bytearray(file.seen)

    def truncate(self, name: str, size: int) -> None:
        file = self.medium.seen[name]
        assert not file.poisoned, f"{name} is cut after a failed flush"
        self._call(f"truncate {name}")
        del file.seen[size:]

    def finish(self, name: str) -> None:
        pass

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name not in self.medium.seen:
            raise FileNotFoundError(errno.ENOENT, name)
        return bytes(self.medium.seen[name].seen[offset : offset + length])

    def remove(self, name: str) -> None:
        self._call(f"remove {name}")
        del self.medium.seen[name]

    def flush_folder(self) -> None:
        self._call("flush_folder")
        self.medium.safe = dict(self.medium.seen)

    def free_bytes(self) -> int:
        return self.free

    def close(self) -> None:
        pass
