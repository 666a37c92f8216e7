"""Addresses as people write them, and listening sockets with a sentence for every way they fail."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final, NamedTuple

OFF: Final = "off"


class ListenError(Exception):
    """A listener could not start. The text says what and what to do, for the person who starts the mesh."""


class Address(NamedTuple):
    """Where to listen. Port 0 = any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_problem(text: str) -> str | None:
    """What is wrong with ``HOST:PORT`` or ``off``, in a sentence; None if it is fine."""
    if text == OFF:
        return None
    host, colon, port = text.rpartition(":")
    if not colon:
        return f"{text!r} has no port; write HOST:PORT, such as 127.0.0.1:1883, or {OFF}"
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        return f"{port!r} is no port; a port is a number from 0 (any free one) to 65535"
    if not host or host == "*":
        return f"{text!r} names no host; 127.0.0.1:{port} is this machine only, 0.0.0.0:{port} or [::]:{port} everybody"
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        return f"in {text!r} the IPv6 address needs brackets, as in [::1]:{port}"
    if host.startswith("[") and not _is_ipv6(host[1:-1]):
        return f"{host!r} is no IPv6 address"
    return None


def parse_address(text: str) -> Address | None:
    """The address, or None for ``off``. The text has passed ``address_problem``."""
    problem = address_problem(text)
    assert problem is None, problem
    if text == OFF:
        return None
    host, _, port = text.rpartition(":")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def listen(address: Address, backlog: int = 1_024) -> list[socket.socket]:
    """Listening sockets, non-blocking: one for each address the host stands for, all on the same port.

    Raises ListenError. ``[::]`` takes IPv4 too, as far as the system has it.
    """
    port = address.port
    sockets: list[socket.socket] = []
    try:
        for family, host in _resolve(address):
            listener = _listen_one(family, host, port, backlog, address)
            sockets.append(listener)
            port = listener.getsockname()[1]
    except ListenError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def bound_address(listener: socket.socket) -> Address:
    """Where a listening socket really is, with the port it got."""
    name = listener.getsockname()
    return Address(name[0], name[1])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _resolve(address: Address) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise ListenError(f"the host {address.host!r} is not known here ({reason}); write an IP address") from None
    return list(dict.fromkeys((int(family), str(name[0])) for family, _, _, _, name in found))


def _listen_one(family: int, host: str, port: int, backlog: int, asked: Address) -> socket.socket:
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen on {asked}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ListenError(_sentence(error, Address(host, port))) from None
    return listener


def _sentence(error: OSError, address: Address) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{address} is in use by another program (`ss -ltnp 'sport = :{address.port}'` names it); "
                "stop it or choose another port, 0 takes any free one"
            )
        case errno.EACCES | errno.EPERM:
            return f"this user may not listen on {address}; ports below 1024 need a privilege, choose one above"
        case errno.EADDRNOTAVAIL:
            return f"no interface of this machine has the address of {address}; 127.0.0.1 and 0.0.0.0 always work"
        case _:
            return f"cannot listen on {address}: {error.strerror}"
