"""What the routes share: the mesh, the bounds, and which streams are open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, final

from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.http.session import RequestSession, StreamSession
    from dragoman.adapters.http.settings import HttpSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal


class Setting(NamedTuple):
    """One value in force: its key, the value, and where it came from (a file and line, a flag, the default)."""

    key: str
    value: object
    origin: str


Settings = Callable[[], Sequence[Setting]]
"""Gives every setting in force, secrets already hidden."""


Backup = Callable[[str], Awaitable[None]]
"""Copies what the log holds to a folder. Raises RefusedError."""

LinksReport = Callable[[], list[dict[str, object]]]
"""How each link to an outside stands, as JSON shows it."""


Reload = Callable[[], Awaitable[dict[str, object]]]
"""Takes a changed configuration over; what that did. Raises RefusedError where it is wrong."""


@final
class Surface:
    """One HTTP face of one mesh. ``base_url`` is set by the listener once it knows where it is."""

    __slots__ = (
        "_held",
        "_streams",
        "backup",
        "base_url",
        "broker",
        "config",
        "links",
        "reload",
        "settings",
        "version",
    )

    def __init__(
        self,
        broker: Broker,
        settings: HttpSettings,
        *,
        config: Settings,
        version: str,
        backup: Backup | None = None,
        links: LinksReport = list,
        reload: Reload | None = None,
    ) -> None:
        """``backup``: None where there is nothing on disk. ``reload``: None where there is nothing to read again."""
        self.broker = broker
        self.backup = backup
        self.links = links
        self.reload = reload
        self.settings = settings
        self.config = config
        self.version = version
        self.base_url: str | None = None
        self._streams: set[StreamSession] = set()
        self._held: Counter[str] = Counter()

    @contextmanager
    def attached(self, session: RequestSession) -> Iterator[None]:
        """Attaches a session to the broker for a ``with`` block. Raises RefusedError."""
        refusal = self.broker.attach(session)
        if refusal is not None:
            raise RefusedError(refusal)
        try:
            yield
        finally:
            self.broker.detach(session)

    @contextmanager
    def streaming(self, session: StreamSession) -> Iterator[None]:
        """Holds one of the streams there may be, attached, for a ``with`` block. Raises RefusedError."""
        name = session.principal.name
        self._admit(session.principal)
        self._streams.add(session)
        self._held[name] += 1
        try:
            with self.attached(session):
                yield
        finally:
            self._streams.discard(session)
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def _admit(self, principal: Principal) -> None:
        most, each = self.settings.streams_max, self.settings.streams_per_principal_max
        if len(self._streams) >= most:
            raise RefusedError(Refusal(Reason.BUSY, f"{most} streams are open, which is all there may be", 1_000))
        if self._held[principal.name] >= each:
            detail = f"{principal.name!r} has {each} streams open, which is all it may have"
            raise RefusedError(Refusal(Reason.QUOTA_EXCEEDED, detail, 1_000))

    def end_streams(self) -> None:
        """Tells every stream that the mesh stops; each says so to its reader and ends."""
        for session in list(self._streams):
            session.close(Refusal(Reason.SHUTTING_DOWN, "the mesh is shutting down"))
