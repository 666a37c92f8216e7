"""The only file of the broker that makes file calls (LMDB makes its own). Flat names in one folder.

Everything raises ``OSError`` as the system gave it; what a failure means is decided by the journal.
Writing is for one thread; reading and removing may come from any.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from dragoman.broker.log.contract import LogError

LOCK_NAME: Final = "lock"
_READERS_MAX: Final = 64


class Disk:
    """One folder's files. Tests put another of the same shape in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, int] = {}
        self._readers: OrderedDict[str, int] = OrderedDict()
        self._guard = threading.Lock()
        self._lock_fd = -1

    def lock(self) -> None:
        """Makes the folder if needed and claims it for this process. Raises ``LogError`` if another has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LogError(
                f"the data folder {self.folder} cannot be written: {error.strerror}; "
                "choose another with --data or give this user the right to write there"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LogError(
                f"the data folder {self.folder} is used by another process (pid {holder or 'unknown'}); "
                "stop it, or choose another folder with --data"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = descriptor

    def names(self) -> dict[str, int]:
        """Every file and its size; a folder inside ours shows with size -1."""
        with os.scandir(self.folder) as entries:
            return {entry.name: entry.stat().st_size if entry.is_file() else -1 for entry in entries}

    def create(self, name: str) -> None:
        """Makes a new, empty file, open for ``write``. An existing one is an error."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._writers[name] = os.open(self.folder / name, flags, 0o600)

    def write(self, name: str, offset: int, content: bytes) -> int:
        """Writes at a place and says how many bytes it took, which may be fewer."""
        return os.pwritev(self._writers[name], (content,), offset)

    def flush(self, name: str) -> None:
        """Forces a file's content to the medium (fdatasync)."""
        descriptor = self._writers.get(name)
        if descriptor is not None:
            os.fdatasync(descriptor)
            return
        with self._guard:
            os.fdatasync(self._reader(name))

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file that is open for writing."""
        os.ftruncate(self._writers[name], size)

    def finish(self, name: str) -> None:
        """Closes a file for writing; it stays readable."""
        descriptor = self._writers.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes; fewer only at the end of the file."""
        # The guard keeps ``remove`` from closing a descriptor that is being read: its number could be another file's.
        with self._guard:
            return os.pread(self._reader(name), length, offset)

    def remove(self, name: str) -> None:
        """Removes a file."""
        self.finish(name)
        with self._guard:
            descriptor = self._readers.pop(name, None)
            if descriptor is not None:
                os.close(descriptor)
        os.unlink(self.folder / name)

    def put_in_place(self, name: str, by: str) -> None:
        """Puts ``by`` in the place of ``name``, at once or not at all."""
        os.replace(self.folder / by, self.folder / name)

    def flush_folder(self) -> None:
        """Forces names made and removed to the medium."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self) -> int:
        """What the file system has left for us."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        """Closes everything and gives the folder up."""
        for descriptor in (*self._writers.values(), *self._readers.values()):
            os.close(descriptor)
        self._writers.clear()
        self._readers.clear()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _reader(self, name: str) -> int:
        descriptor = self._readers.pop(name, None)
        if descriptor is None:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        self._readers[name] = descriptor
        if len(self._readers) > _READERS_MAX:
            os.close(self._readers.popitem(last=False)[1])
        return descriptor
