"""Who is let into a consumer group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dragoman.adapters.kafka.codes import ErrorCode

if TYPE_CHECKING:
    from dragoman.adapters.kafka.group_member import Joining
    from dragoman.adapters.kafka.group_roster import Roster
    from dragoman.adapters.kafka.group_settings import GroupSettings

PROTOCOLS_MAX: Final = 64
"""Assignment protocols one member may offer; all members' are compared at each join."""


def join_fault(ask: Joining, roster: Roster, protocol_type: str | None, settings: GroupSettings) -> ErrorCode:
    """What is wrong with a wish to join, whoever it comes from."""
    if not settings.session_ms_min <= ask.session_ms <= settings.session_ms_max:
        return ErrorCode.INVALID_SESSION_TIMEOUT
    size = sum(len(name) + len(metadata) for name, metadata in ask.protocols)
    if size > settings.member_bytes_max or len((ask.instance_id or "").encode()) > settings.name_bytes_max:
        return ErrorCode.POLICY_VIOLATION
    if not ask.protocol_type or not 0 < len(ask.protocols) <= PROTOCOLS_MAX:
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    if roster.members:
        common = roster.common()
        if ask.protocol_type != protocol_type or not any(name in common for name, _ in ask.protocols):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    return ErrorCode.NONE


def has_room(member_id: str, roster: Roster, settings: GroupSettings, *, rebalancing: bool) -> bool:
    """Whether one more may come; ``member_id`` is "" for somebody new."""
    most = settings.members_max
    if not member_id and len(roster.expected) >= most:
        return False
    if rebalancing:
        # By who is in the new generation already: so the last to rejoin is refused where a limit was lowered.
        known = roster.members.get(member_id)
        return (known is not None and known.joined) or sum(m.joined for m in roster.members.values()) < most
    return member_id in roster.members or len(roster.members) < most
