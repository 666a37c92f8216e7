"""Ad-hoc rooms: private channels with an owner, an invite list and a lease. Decides who may come in and when it ends.

A room's channel is ``room/{uuid}``; what lies below it belongs to it too. When the lease ends, or its
owner says so, the room closes: its members are told and nobody may speak or listen there again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, final

import msgspec

from dragoman.broker.gate import Action
from dragoman.broker.ids import fresh_id, is_uuid7
from dragoman.broker.log.contract import Table
from dragoman.broker.members import CHANNELS
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.names import check_agent, from_level, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.directory import Directory, Judge
    from dragoman.broker.log.contract import Log
    from dragoman.broker.principal import Principal
    from dragoman.broker.roster import Tell
    from dragoman.broker.session import Session
    from dragoman.broker.settings_agents import AgentSettings
    from dragoman.broker.timers import Timer, Timers

PREFIX: Final = "room/"
TITLE_CHARS_MAX: Final = 200

_NEWS_PREFIX: Final = CHANNELS + "room%2F"


class RoomRow(Row):
    """A room. ``invited``: agent ids, each with the principal it belonged to when it was invited, "" if nobody's."""

    name: str = ""
    owner: str = ""
    owner_agent: str = ""
    title: str = ""
    opened_ms: int = 0
    lease_due_ms: int = 0
    invited: tuple[tuple[str, str], ...] = ()


@final
class Room:
    """One open room. ``name`` is its channel; ``lease_due_ms`` is the wall clock's."""

    __slots__ = ("invited", "lease", "lease_due_ms", "name", "opened_ms", "owner", "owner_agent", "title")

    def __init__(self, name: str, owner: str, owner_agent: str, title: str, opened_ms: int) -> None:
        self.name = name
        self.owner = owner
        self.owner_agent = owner_agent
        self.title = title
        self.opened_ms = opened_ms
        self.lease_due_ms = 0
        self.lease: Timer | None = None
        self.invited: dict[str, str] = {}

    def owned_by(self, principal: Principal, agent: str) -> bool:
        """Whether this party opened it."""
        return principal.name == self.owner and agent == self.owner_agent


@final
class Rooms:
    """The open rooms. ``start`` once, after the directory's."""

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        directory: Directory,
        gate: Judge,
        log: Log,
        tell: Tell,
        later: Callable[..., object],
        closed: Callable[[str], object],
        changed: Callable[[], object],
        settings: AgentSettings,
    ) -> None:
        """``closed(name)``: end all subscriptions to the channel and below. ``changed()``: ``permits`` answers anew."""
        self._clock = clock
        self._timers = timers
        self._directory = directory
        self._gate = gate
        self._log = log
        self._tell = tell
        self._later = later
        self._closed = closed
        self._changed = changed
        self._settings = settings
        self._rooms: dict[str, Room] = {}
        self._closing: dict[str, Room] = {}
        self._per_principal: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def start(self) -> None:
        """Opens again what the log remembers. Rooms whose lease ended meanwhile close in the next turn."""
        for _, value in list(self._log.rows(Table.ROOMS)):
            row = decode_row(value, RoomRow)
            room = Room(row.name, row.owner, row.owner_agent, row.title, row.opened_ms)
            room.invited = dict(row.invited)
            room.lease_due_ms = row.lease_due_ms
            self._enter(room)

    def open(
        self, session: Session, *, title: str = "", invited: Iterable[str] = (), lease_ms: int | None = None
    ) -> Room | Refusal:
        """A fresh room, owned by who the session is: the agent it speaks as, or else its principal as a whole."""
        now = self._clock.now_ms()
        name = PREFIX + fresh_id(now)
        principal = session.principal
        settings = self._settings
        verdict = self._gate.check(principal, Action.CREATE, name, session.agent)
        if isinstance(verdict, Refusal):
            return verdict
        if len(title) > TITLE_CHARS_MAX:
            return Refusal(Reason.ARGUMENTS_INVALID, f"a room's title has at most {TITLE_CHARS_MAX} characters")
        if self._per_principal.get(principal.name, 0) >= settings.rooms_per_principal_max:
            detail = f"{principal.name} has {settings.rooms_per_principal_max} rooms open, which is the limit"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        if len(self._rooms) >= settings.rooms_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"{settings.rooms_max} rooms are open, which is the limit")
        room = Room(name, principal.name, session.agent, title, now)
        refusal = self._admit(room, invited)
        if refusal is not None:
            return refusal
        room.lease_due_ms = now + self._bounded(lease_ms)
        self._enter(room)
        self._save(room)
        self._changed()
        return room

    def invite(self, session: Session, name: str, agents: Iterable[str]) -> Refusal | None:
        """Lets more agents in. An id that is somebody's now is invited as that principal's only."""
        room = self._own(session, name)
        if isinstance(room, Refusal):
            return room
        refusal = self._admit(room, agents)
        if refusal is None:
            self._save(room)
            self._changed()
        return refusal

    def renew(self, session: Session, name: str, lease_ms: int | None = None) -> Refusal | None:
        """Starts the lease anew."""
        room = self._own(session, name)
        if isinstance(room, Refusal):
            return room
        room.lease_due_ms = self._clock.now_ms() + self._bounded(lease_ms)
        self._arm(room)
        self._save(room)
        return None

    def close(self, session: Session, name: str) -> Refusal | None:
        """Its owner (or an administrator) ends it."""
        room = self._own(session, name)
        if isinstance(room, Refusal):
            return room
        self._close(room, "closed")
        return None

    def get(self, principal: Principal, agent: str, name: str) -> Room | Refusal:
        """The room, for those who may be in it."""
        room = self._rooms.get(name)
        if room is None or not self.permits(principal, agent, name):
            return Refusal(Reason.UNKNOWN_CHANNEL, f"no room {shown(name)} is open to you")
        return room

    def permits(self, principal: Principal, agent: str, channel: str) -> bool:
        """Whether the party may publish, subscribe or read there, as far as rooms go. True for what is no room.

        Knows ``room/{uuid}``, what is below it, and the news of it below ``$mesh/v1/channels/``. A room
        that has closed, or never was, permits nobody.
        """
        if channel.startswith(PREFIX):
            name = channel
            rooms = self._rooms
        elif channel.startswith(_NEWS_PREFIX):
            decoded = from_level(channel[len(CHANNELS) :].partition("/")[0])
            if isinstance(decoded, Refusal):
                return True
            name = decoded
            rooms = self._rooms | self._closing if self._closing else self._rooms
        else:
            return True
        uuid = name[len(PREFIX) :].partition("/")[0]
        if not is_uuid7(uuid):
            return True
        room = rooms.get(PREFIX + uuid)
        if room is None:
            return False
        if room.owned_by(principal, agent) or principal.admin:
            return True
        pinned = room.invited.get(agent)
        return pinned is not None and pinned in ("", principal.name)

    def about(self, channel: str) -> dict[str, object]:
        """What ``$mesh/v1/channels/{channel}`` says of a room; {} if it is none."""
        room = self._rooms.get(channel)
        if room is None:
            return {}
        return {"title": room.title, "owner": room.owner_agent or room.owner, "until": room.lease_due_ms}

    # -- within --------------------------------------------------------------------------------------

    def _own(self, session: Session, name: str) -> Room | Refusal:
        room = self._rooms.get(name)
        if room is None:
            return Refusal(Reason.UNKNOWN_CHANNEL, f"no room {shown(name)} is open")
        if not room.owned_by(session.principal, session.agent) and not session.principal.admin:
            return Refusal(Reason.NOT_AUTHORIZED, f"the room {shown(name)} is not yours")
        return room

    def _admit(self, room: Room, agents: Iterable[str]) -> Refusal | None:
        """Adds to the invite list, all or none."""
        invited = dict(room.invited)
        for agent in agents:
            refusal = check_agent(agent)
            if refusal is not None:
                return refusal
            known = self._directory.get(agent)
            invited[agent] = known.principal_name if known is not None else ""
            if len(invited) > self._settings.room_invites_max:
                return Refusal(Reason.QUOTA_EXCEEDED, f"a room takes {self._settings.room_invites_max} invitations")
        room.invited = invited
        return None

    def _bounded(self, lease_ms: int | None) -> int:
        wanted = lease_ms if lease_ms is not None else self._settings.room_lease_ms
        return max(1, min(wanted, self._settings.lease_max_ms))

    def _enter(self, room: Room) -> None:
        self._rooms[room.name] = room
        self._per_principal[room.owner] = self._per_principal.get(room.owner, 0) + 1
        self._arm(room)

    def _arm(self, room: Room) -> None:
        if room.lease is not None:
            room.lease.cancel()
        room.lease = self._timers.after(room.lease_due_ms - self._clock.now_ms(), self._close, room, "lease-ended")

    def _close(self, room: Room, why: str) -> None:
        if room.lease is not None:
            room.lease.cancel()
        self._tell(CHANNELS + to_level(room.name), msgspec.json.encode({**self.about(room.name), "closed": why}))
        del self._rooms[room.name]
        count = self._per_principal[room.owner] - 1
        if count:
            self._per_principal[room.owner] = count
        else:
            del self._per_principal[room.owner]
        self._log.put(Table.ROOMS, _key(room), None)
        self._closed(room.name)
        self._changed()
        # News is said at the turn's end: those inside may hear of its end until then.
        self._closing[room.name] = room
        self._later(self._forget, room)

    def _forget(self, room: Room) -> None:
        del self._closing[room.name]
        self._changed()

    def _save(self, room: Room) -> None:
        row = RoomRow(
            name=room.name,
            owner=room.owner,
            owner_agent=room.owner_agent,
            title=room.title,
            opened_ms=room.opened_ms,
            lease_due_ms=room.lease_due_ms,
            invited=tuple(room.invited.items()),
        )
        self._log.put(Table.ROOMS, _key(room), encode_row(row))


def _key(room: Room) -> bytes:
    return room.name.encode()
