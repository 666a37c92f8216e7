"""The only file of the broker that makes file calls (LMDB makes its own). Flat names in one folder.

Everything raises ``OSError`` as the system gave it; what a failure means is decided by the journal.
Writing is for one thread; reading and removing may come from any.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final

from dragoman.broker.log.contract import LogError

LOCK_NAME: Final = "lock"
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where there is no more room."""
_READERS_MAX: Final = 64
_NARROW_BYTES: Final = 1 << 20


def what_failed(error: Exception, free_bytes: int = 1 << 63) -> str:
    """What the system, or LMDB, said and what to do about it: the end of a sentence.

    LMDB calls a short write an input/output error, and that is what it gets from a disk with all but no room.
    """
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = any(os.strerror(number) in text for number in FULL)
    if full or (os.strerror(errno.EIO) in text and free_bytes < _NARROW_BYTES):
        return f"{text}; the disk is full: free some space there and do it again"
    return f"{text}; look at the disk, and whether this user may write there"


class Disk:
    """One folder's files. Tests put another of the same shape in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, int] = {}
        self._readers: OrderedDict[str, int] = OrderedDict()
        self._guard = threading.Lock()
        self._lock_fd = -1
        self._made: list[Path] = []

    def lock(self) -> None:
        """Makes the folder if needed and claims it for this process.

        Raises ``LogError`` if another has it or it cannot be written; what was made by then is gone again.
        """
        path = self.folder / LOCK_NAME
        try:
            self._make_folder()
            ours = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._unmake_folder()
            raise self._unwritable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that failed to begin may have removed the file we opened: then the name is somebody else's by now.
            if not os.path.samestat(os.stat(path), os.fstat(descriptor)):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LogError(
                f"the data folder {self.folder} is used by another process (pid {holder or 'unknown'}); "
                "stop it, or choose another folder with --data"
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            if ours:
                os.unlink(path)
            os.close(descriptor)
            self._unmake_folder()
            raise self._unwritable(error) from error
        self._lock_fd = descriptor

    def unmake(self) -> None:
        """Removes every file here, and the folder if ``lock`` made it: for one in which nothing became whole."""
        with suppress(OSError):
            for name in self.names():
                self.remove(name)
        self._unmake_folder()

    def _make_folder(self) -> None:
        missing = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            self._made.insert(0, place)
        if not self.folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.folder))

    def _unmake_folder(self) -> None:
        with suppress(OSError):
            while self._made:
                self._made.pop(0).rmdir()

    def _unwritable(self, error: OSError) -> LogError:
        file = next((place for place in (self.folder, *self.folder.parents) if place.exists()), self.folder)
        if not file.is_dir():
            return LogError(f"the data folder {self.folder} cannot be: {file} is a file, not a folder; name another")
        return LogError(f"the data folder {self.folder} cannot be written: {what_failed(error)}; or name another")

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
