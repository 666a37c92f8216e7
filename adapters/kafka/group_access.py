"""Whether a connection may use a consumer group. One place for all requests that name one.

A group is no channel, so the gate is asked whether its name may be joined below ``group/``: a rule that lets somebody
join ``group/#`` lets it use every group. What the group reads is judged topic by topic, as reading. Only who made a
group, or an administrator, deletes it or what it has committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.broker.gate import Action
from dragoman.routing.names import to_level
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.group import Group
    from dragoman.adapters.kafka.session import KafkaSession


def may_use(session: KafkaSession, name: str) -> ErrorCode:
    """Whether the group of that name may be used, be it there or not."""
    realm = session.realm
    if not 0 < len(name.encode()) <= realm.groups.settings.name_bytes_max:
        return ErrorCode.INVALID_GROUP_ID
    verdict = realm.gate.check(session.principal, Action.JOIN, f"group/{to_level(name)}", session.agent)
    return ErrorCode.GROUP_AUTHORIZATION_FAILED if isinstance(verdict, Refusal) else ErrorCode.NONE


def may_delete(session: KafkaSession, name: str) -> ErrorCode:
    """Whether the group, or what it has committed, may be deleted."""
    error = may_use(session, name)
    group = session.realm.groups.find(name)
    if error is ErrorCode.NONE and group is not None and not _owns(session, group):
        return ErrorCode.GROUP_AUTHORIZATION_FAILED
    return error


def _owns(session: KafkaSession, group: Group) -> bool:
    return session.principal.admin or session.principal.name == group.owner
