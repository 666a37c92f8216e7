"""What the writer thread does with a group: pack it, make it safe, say where it lies."""

from __future__ import annotations

from typing import Final, final

from dragoman.broker.log.frames import Frame, StateRow, pack_frame
from dragoman.broker.log.groups import Group
from dragoman.broker.log.journal import Journal
from dragoman.routing.message import Entry
from dragoman.routing.refusals import Reason, Refusal

_SAFETY_BYTES: Final = 4096


@final
class Written:
    """A commit that is safe."""

    __slots__ = ("by_channel", "bytes", "frame", "group")

    def __init__(self, group: Group, frame: Frame, by_channel: dict[int, list[Entry]], bytes_: int) -> None:
        self.group = group
        self.frame = frame
        self.by_channel = by_channel
        self.bytes = bytes_


@final
class Writer:
    """The journal and what was last safe in it. All calls on the writer thread."""

    def __init__(self, journal: Journal, commit: int, position: int, reserve_free_bytes: int) -> None:
        self.journal = journal
        self._commit = commit
        self._position = position
        self._reserve_free_bytes = reserve_free_bytes

    def commit(self, group: Group) -> Written | Refusal:
        """Makes a group safe, or says why nothing of it is in the journal."""
        journal = self.journal
        if group.messages and (low := self._low_space(group)) is not None:
            return low
        refusal = journal.room_for(self._commit, self._position)
        if refusal is not None:
            return refusal
        by_channel = _by_channel(group.messages)
        try:
            frame, content = self._pack(group, by_channel)
        except (TypeError, ValueError) as error:
            return Refusal(Reason.PAYLOAD_INVALID, f"a message of this commit cannot be stored: {error}")
        place = journal.write(content, self._commit, self._position)
        if isinstance(place, Refusal):
            return place
        frame.lies_at(*place)
        self._commit = frame.commit
        self._position = frame.end_position
        written = len(content) + journal.rolled
        journal.rolled = 0
        return Written(group, frame, by_channel, written)

    def _pack(self, group: Group, by_channel: dict[int, list[Entry]]) -> tuple[Frame, bytes]:
        messages = group.messages
        first = messages[0].position if messages else self._position
        rows: list[StateRow] = [(int(table), key, value) for (table, key), value in group.rows.items()]
        releases = list(group.releases.items())
        return pack_frame(self.journal.salt, group.ticket, first, by_channel, rows, releases)

    def _low_space(self, group: Group) -> Refusal | None:
        try:
            free = self.journal.disk.free_bytes()
        except OSError as error:
            return Refusal(Reason.STORAGE_FAILED, f"the data folder cannot be asked for free space: {error.strerror}")
        if free - group.size_bytes - _SAFETY_BYTES >= self._reserve_free_bytes:
            return None
        return Refusal(
            Reason.STORAGE_FULL,
            f"the file system has {free} bytes free, {self._reserve_free_bytes} are kept in reserve; free some space",
            retry_after_ms=1000,
        )


def _by_channel(messages: list[Entry]) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = {}
    for message in messages:
        lane = found.get(message.number)
        if lane is None:
            found[message.number] = [message]
        else:
            lane.append(message)
    return found
