"""Takes connections from listening sockets: who is there, is there room, is it who it may be; then a protocol has it.

Plain sockets are the event loop's own business. Where a relay introduces its clients (PROXY) or where TLS comes
first, each connection is taken here, so that both are within the connect deadline, within the limits, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.adapters.serving.proxy_protocol import ProxyError, ProxyHeader, ProxyReader
from dragoman.adapters.serving.sockets import Address
from dragoman.routing.addresses import address_of, is_loopback

if TYPE_CHECKING:
    import ssl

    from dragoman.adapters.serving.complaints import Complaints
    from dragoman.adapters.serving.limits import ConnectionLimits
    from dragoman.broker.metrics import Wire
    from dragoman.routing.refusals import Refusal

logger = logging.getLogger(__name__)

ACCEPTED_MAX: Final = 32
"""Connections taken from one socket in a turn, so that nobody starves."""

RETRY_S: Final = 1.0
"""How long nothing is accepted after the system had no descriptor left."""

Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


@final
class Arrival:
    """A connection and whose it is, as far as its address tells. Counted by the limits from ``admit`` to ``leave``.

    ``host``   "" where there is no address: a Unix socket, or a relay that does not know
    ``text``   the same for people, with the port
    ``local``  on this machine; never just because a relay on this machine passes it on
    ``certificate``  the names in the verified certificate it has shown, each with its kind: "cn:dev1", "dns:a.example"
    """

    __slots__ = ("_admitted", "certificate", "host", "local", "text")

    def __init__(self, host: str, text: str, *, local: bool, certificate: tuple[str, ...] = ()) -> None:
        self.host = host
        self.text = text
        self.local = local
        self.certificate = certificate
        self._admitted = False

    def admit(self, limits: ConnectionLimits) -> Refusal | None:
        """Counts it in, or says why there is no room. Once it is in, nothing more happens."""
        refusal = None if self._admitted else limits.admit(self.host)
        self._admitted = refusal is None
        return refusal

    def leave(self, limits: ConnectionLimits) -> None:
        """Counts it out, if it is in."""
        if self._admitted:
            self._admitted = False
            limits.leave(self.host)


def arrival_at(peer: object, *, unix: bool) -> Arrival:
    """Whoever has this address, as sockets tell it. None is one that has gone already: never local."""
    if unix:
        return Arrival("", "unix", local=True)
    if not isinstance(peer, tuple):
        return Arrival("", "", local=False)
    host = str(peer[0])
    return Arrival(host, str(Address(host, peer[1])), local=is_loopback(host))


def arrival_on(transport: asyncio.BaseTransport) -> Arrival:
    """Whoever is at the other end of a transport."""
    # The name of our own end tells the kind of socket, also once the peer has gone.
    unix = isinstance(transport.get_extra_info("sockname"), str)
    return arrival_at(transport.get_extra_info("peername"), unix=unix)


def introduced(header: ProxyHeader, relay: Arrival) -> Arrival:
    """Whom a relay speaks for. What is on the relay's machine is on ours only if the relay itself is."""
    if header.own:
        return relay
    names = (f"cn:{header.common_name}",) if header.common_name else ()
    if not header.host:
        kind = "unix" if header.unix else "unknown"
        return Arrival("", f"{kind} by {relay.text}", local=header.unix and relay.local, certificate=names)
    local = relay.local and is_loopback(header.host)
    return Arrival(header.host, str(Address(header.host, header.port)), local=local, certificate=names)


@final
class Entrance:
    """The sockets of one listener. ``start`` once, ``stop_accepting`` any number of times, then ``stop``."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[Arrival | None], asyncio.BaseProtocol],
        limits: ConnectionLimits,
        wire: Wire,
        complaints: Complaints,
        *,
        tls: ssl.SSLContext | None = None,
        relays: Networks | None = None,
    ) -> None:
        """``make`` gives a connection its protocol, which admits the arrival and lets it leave; None: as it looks.

        ``relays``: who must introduce every connection by a PROXY header; on a Unix socket, whoever may open it.
        """
        self._sockets = sockets
        self._make = make
        self._limits = limits
        self._wire = wire
        self._complaints = complaints
        self._tls = tls
        self._relays = relays
        self._servers: list[asyncio.Server] = []
        self._watched: list[socket.socket] = []
        #: connections that a relay has yet to introduce: counted here, since there is nobody yet to count
        self._unnamed = 0
        self._entering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to accept."""
        loop = asyncio.get_running_loop()
        backlog = self._limits.settings.backlog
        for sock in self._sockets:
            if self._tls is not None or self._relays is not None:
                self._watched.append(sock)
                self._watch(sock)
                continue
            unix = sock.family == socket.AF_UNIX
            create = loop.create_unix_server if unix else loop.create_server
            self._servers.append(await create(lambda: self._make(None), sock=sock, backlog=backlog))

    def renew(self, tls: ssl.SSLContext | None, relays: Networks | None = None) -> None:
        """Whoever comes from now on goes by this. What is None stays None: there are sockets of two kinds."""
        assert (tls is None, relays is None) == (self._tls is None, self._relays is None)
        self._tls = tls
        self._relays = relays

    def stop_accepting(self) -> None:
        """No new connections from now on, and nobody is let in who is only half."""
        for server in self._servers:
            server.close()
        watched, self._watched = self._watched, []
        for sock in watched:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        for task in self._entering:
            task.cancel()

    async def stop(self) -> None:
        """Waits for those that were on their way in to be closed."""
        self.stop_accepting()
        if self._entering:
            await asyncio.wait(self._entering)

    def _watch(self, sock: socket.socket) -> None:
        if sock in self._watched:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_MAX):
            try:
                taken, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("nothing is accepted for a second: %s", error.strerror)
                loop.remove_reader(sock)
                loop.call_later(RETRY_S, self._watch, sock)
                return
            taken.setblocking(False)
            task = loop.create_task(self._enter(taken, peer), name="entering")
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, taken: socket.socket, peer: object) -> None:
        arrival = arrival_at(peer, unix=taken.family == socket.AF_UNIX)
        why = ""
        try:
            async with asyncio.timeout(self._limits.settings.connect_deadline_s):
                known = await self._know(taken, arrival)
                if known is not None:
                    await self._begin(taken, known)
        except TimeoutError:
            why = "it took too long"
        except (ProxyError, OSError) as error:
            why = str(error)
        if why:
            self._wire.errors += 1
            self._complaints.say("connection closed before it began", why, peer=arrival.text)

    async def _know(self, taken: socket.socket, arrival: Arrival) -> Arrival | None:
        """Who it is, counted in; None: turned away. Whatever else happens, the socket is closed."""
        with contextlib.ExitStack() as undo:
            undo.callback(taken.close)
            if self._relays is not None and not (taken.family == socket.AF_UNIX or _among(arrival.host, self._relays)):
                self._turn_away(arrival, "no relay from there is trusted")
                return None
            if self._relays is not None:
                if self._unnamed >= self._limits.settings.backlog:
                    self._turn_away(arrival, "too many connections wait for their relay's word")
                    return None
                self._unnamed += 1
                try:
                    arrival = introduced(await _read_header(taken), arrival)
                finally:
                    self._unnamed -= 1
            refusal = arrival.admit(self._limits)
            if refusal is not None:
                self._turn_away(arrival, refusal.detail)
                return None
            undo.pop_all()
        return arrival

    async def _begin(self, taken: socket.socket, arrival: Arrival) -> None:
        """From here on the socket is the transport's, which closes it too."""
        loop = asyncio.get_running_loop()
        begun = False
        try:
            await loop.connect_accepted_socket(lambda: self._make(arrival), taken, ssl=self._tls)
            begun = True
        finally:
            if not begun:
                arrival.leave(self._limits)

    def _turn_away(self, arrival: Arrival, why: str) -> None:
        self._wire.turned_away += 1
        logger.info("a connection was turned away: %s", why, extra={"peer": arrival.text})


async def _read_header(taken: socket.socket) -> ProxyHeader:
    """Reads the header and not one byte of what follows it."""
    loop = asyncio.get_running_loop()
    reader = ProxyReader()
    while reader.header is None:
        data = await loop.sock_recv(taken, reader.wanted)
        if not data:
            raise ProxyError("the connection ended within the PROXY header")
        reader.feed(data)
    return reader.header


def _among(host: str, networks: Networks) -> bool:
    block = address_of(host)
    return block is not None and any(block in network for network in networks)
