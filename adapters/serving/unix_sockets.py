"""Listening sockets that are files: who may use one is a matter of its mode and of the folder it is in."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Final, final

from dragoman.adapters.serving.sockets import ListenError

PREFIX: Final = "unix:"
PATH_BYTES_MAX: Final = 107
"""Of Linux; macOS takes 103 and says so itself."""


def unix_path(address: str) -> str | None:
    """The path of ``unix:/path/to.sock``; None for any other address."""
    return address.removeprefix(PREFIX) if address.startswith(PREFIX) else None


def path_problem(path: str) -> str | None:
    """What is wrong with a socket's path, in a sentence; None if it is fine."""
    if not path or path.endswith("/"):
        return f"{PREFIX}{path} names no file; write {PREFIX}/path/to.sock"
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        return f"the path of a Unix socket has at most {PATH_BYTES_MAX} bytes, this one {len(os.fsencode(path))}"
    return None


@final
class UnixSocket:
    """A listening socket and its file. Made, it listens; ``close`` takes the file away. Raises ListenError."""

    def __init__(self, path: str, mode: int, backlog: int) -> None:
        """``mode``: the file's permissions; whoever may write to it may connect."""
        _make_room(path)
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file = (0, 0)
        try:
            self.socket.bind(path)
            self._file = _identity(path)
            # Nobody can connect before listen(), so the mode holds from the first moment.
            os.chmod(path, mode)
            self.socket.listen(backlog)
            self.socket.setblocking(False)
        except OSError as error:
            self.close()
            raise ListenError(_sentence(path, error)) from None

    def close(self) -> None:
        """Stops listening; the file goes too, unless somebody else's is in its place. Idempotent."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._file:
                os.unlink(self.path)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _make_room(path: str) -> None:
    """Takes away what a mesh that was killed has left. Only a socket that nobody listens on is such a thing."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(_sentence(path, error)) from None
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path} exists and is no socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except OSError as error:
            if error.errno != errno.EAGAIN:  # a full backlog is somebody's too
                raise ListenError(_sentence(path, error)) from None
            raise ListenError(_in_use(path)) from None
        else:
            raise ListenError(_in_use(path))
    try:
        os.unlink(path)
    except OSError as error:
        raise ListenError(
            f"{path} was left by a program that is gone, and cannot be replaced: {error.strerror}"
        ) from None


def _in_use(path: str) -> str:
    return f"another program listens on {path} (`ss -lxp src {path}` names it); stop it or choose another path"


def _sentence(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"the folder of {path} does not exist; make it, or choose another path"
        case errno.EACCES | errno.EPERM:
            return f"this user may not make {path}; choose a folder it can write to"
        case errno.EADDRINUSE:
            return _in_use(path)
        case _:
            return f"cannot listen on {path}: {error.strerror}"
