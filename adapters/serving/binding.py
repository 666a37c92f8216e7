"""From an address as people write it, of whatever kind, to sockets that listen there."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.adapters.serving.sockets import bound_address, listen, parse_address
from dragoman.adapters.serving.unix_sockets import UnixSocket, unix_path

if TYPE_CHECKING:
    import socket


@final
class Bound:
    """Listens from when it is made until ``close``. Raises ListenError. ``address``: with the port it got."""

    def __init__(self, address: str, backlog: int, mode: int) -> None:
        """``address``: HOST:PORT or ``unix:/path``, with the file's ``mode``; it has been checked and is not off."""
        path = unix_path(address)
        self._file = None if path is None else UnixSocket(path, mode, backlog)
        self.sockets: list[socket.socket]
        self.address = address
        if self._file is not None:
            self.sockets = [self._file.socket]
            return
        parsed = parse_address(address)
        assert parsed is not None, "a listener that is off is left out"
        self.sockets = listen(parsed, backlog)
        self.address = str(bound_address(self.sockets[0]))

    def close(self) -> None:
        """Stops listening. Idempotent."""
        for sock in self.sockets:
            sock.close()
        if self._file is not None:
            self._file.close()
