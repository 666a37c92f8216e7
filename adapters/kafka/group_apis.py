"""The requests of members of consumer groups, and of those who look after groups."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group_access import may_delete, may_use
from dragoman.adapters.kafka.group_member import Joined, Joining, Synced, Syncing
from dragoman.adapters.kafka.group_state import State
from dragoman.adapters.kafka.realm import NODE_ID
from dragoman.adapters.kafka.shapes_groups import (
    Coordinator,
    DeletableGroupResult,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinGroupResponseMember,
    LeaveGroupRequest,
    LeaveGroupResponse,
    ListedGroup,
    ListGroupsRequest,
    ListGroupsResponse,
    MemberIdentity,
    MemberResponse,
    SyncGroupRequest,
    SyncGroupResponse,
)

if TYPE_CHECKING:
    from dragoman.adapters.kafka.group import Group
    from dragoman.adapters.kafka.session import Ask, KafkaSession

CLASSIC: Final = "classic"
"""The type of these groups, as clients filter by."""

ALLOWED_OPERATIONS: Final = 1 << 3 | 1 << 6 | 1 << 8
"""Read, delete, describe: in Kafka's set of operations on a group."""

_COORDINATED: Final = (0, 1, 2)
"""Key types of FindCoordinator: groups, transactions, shares. We coordinate everything."""


def find_coordinator(ask: Ask) -> None:
    """Who coordinates a group: we do."""
    request = ask.request
    assert isinstance(request, FindCoordinatorRequest)
    keys = request.coordinator_keys if ask.version >= 4 else [request.key]
    found = [_coordinator(ask.session, key, request.key_type) for key in keys]
    if ask.version >= 4:
        ask.answer(FindCoordinatorResponse(coordinators=found))
        return
    [one] = found
    response = FindCoordinatorResponse(error_code=one.error_code, error_message=one.error_message)
    response.node_id, response.host, response.port = one.node_id, one.host, one.port
    ask.answer(response)


def _coordinator(session: KafkaSession, key: str, key_type: int) -> Coordinator:
    error = ErrorCode.NONE if key_type in _COORDINATED else ErrorCode.INVALID_REQUEST
    if key_type == 0:
        error = may_use(session, key)
    if error is not ErrorCode.NONE:
        return Coordinator(
            key=key, node_id=-1, host="", port=-1, error_code=error, error_message=error.name.replace("_", " ").lower()
        )
    host, port = session.address
    return Coordinator(key=key, node_id=NODE_ID, host=host, port=port, error_code=error, error_message=None)


# -- members ---------------------------------------------------------------------------------------


def join_group(ask: Ask) -> None:
    """A member comes, or comes again. The answer waits for the others."""
    request = ask.request
    assert isinstance(request, JoinGroupRequest)
    error = may_use(ask.session, request.group_id)
    if error is not ErrorCode.NONE:
        _joined(ask, Joined(error, request.member_id))
        return
    timeout_ms = request.rebalance_timeout_ms if request.rebalance_timeout_ms >= 0 else request.session_timeout_ms
    joining = Joining(
        request.member_id,
        request.group_instance_id,
        request.protocol_type,
        tuple((protocol.name, bytes(protocol.metadata)) for protocol in request.protocols),
        session_ms=request.session_timeout_ms,
        rebalance_ms=timeout_ms,
        client_id=ask.client,
        host=ask.session.host,
        known_only=ask.version >= 4,
        can_skip=ask.version >= 9,
    )
    then = partial(_joined, ask)
    waits = ask.session.realm.groups.join(request.group_id, joining, then, ask.session.principal.name)
    if waits is not None:
        group, member = waits
        ask.on_gone = partial(group.gone, member, then)


def _joined(ask: Ask, joined: Joined) -> None:
    # Before version 7 a protocol is a text even where there is none.
    none = None if ask.version >= 7 else ""
    ask.answer(
        JoinGroupResponse(
            error_code=joined.error,
            generation_id=joined.generation,
            protocol_type=joined.protocol_type,
            protocol_name=none if joined.protocol is None else joined.protocol,
            leader=joined.leader,
            skip_assignment=joined.skip_assignment,
            member_id=joined.member_id,
            members=[
                JoinGroupResponseMember(member_id=member_id, group_instance_id=instance_id, metadata=metadata)
                for member_id, instance_id, metadata in joined.members
            ],
        )
    )


def sync_group(ask: Ask) -> None:
    """A member asks for its assignment. The answer waits for the leader, who brings all of them."""
    request = ask.request
    assert isinstance(request, SyncGroupRequest)
    error = may_use(ask.session, request.group_id)
    group = ask.session.realm.groups.find(request.group_id)
    if error is ErrorCode.NONE and group is None:
        error = ErrorCode.UNKNOWN_MEMBER_ID
    if group is None or error is not ErrorCode.NONE:
        _synced(ask, Synced(error))
        return
    syncing = Syncing(
        request.member_id,
        request.group_instance_id,
        request.generation_id,
        {each.member_id: bytes(each.assignment) for each in request.assignments},
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
    )
    then = partial(_synced, ask)
    member = group.sync(syncing, then)
    if member is not None:
        ask.on_gone = partial(group.gone, member, then)


def _synced(ask: Ask, synced: Synced) -> None:
    ask.answer(
        SyncGroupResponse(
            error_code=synced.error,
            protocol_type=synced.protocol_type,
            protocol_name=synced.protocol,
            assignment=synced.assignment,
        )
    )


def heartbeat(ask: Ask) -> None:
    """A member shows life."""
    request = ask.request
    assert isinstance(request, HeartbeatRequest)
    error = may_use(ask.session, request.group_id)
    if error is ErrorCode.NONE:
        group = ask.session.realm.groups.find(request.group_id)
        error = (
            ErrorCode.UNKNOWN_MEMBER_ID
            if group is None
            else group.heartbeat(request.member_id, request.group_instance_id, request.generation_id)
        )
    ask.answer(HeartbeatResponse(error_code=error))


def leave_group(ask: Ask) -> None:
    """Members go: one (before version 3) or several, each with an answer of its own."""
    request = ask.request
    assert isinstance(request, LeaveGroupRequest)
    error = may_use(ask.session, request.group_id)
    if error is not ErrorCode.NONE:
        ask.answer(LeaveGroupResponse(error_code=error))
        return
    group = ask.session.realm.groups.find(request.group_id)
    leavers = request.members if ask.version >= 3 else [MemberIdentity(member_id=request.member_id)]
    errors = [
        ErrorCode.UNKNOWN_MEMBER_ID if group is None else group.leave(leaver.member_id, leaver.group_instance_id)
        for leaver in leavers
    ]
    if ask.version < 3:
        ask.answer(LeaveGroupResponse(error_code=errors[0]))
        return
    members = [
        MemberResponse(member_id=leaver.member_id, group_instance_id=leaver.group_instance_id, error_code=left)
        for leaver, left in zip(leavers, errors, strict=True)
    ]
    ask.answer(LeaveGroupResponse(error_code=ErrorCode.NONE, members=members))


# -- looking after groups --------------------------------------------------------------------------


def list_groups(ask: Ask) -> None:
    """The groups the client may use, by state and type if it asks so."""
    request = ask.request
    assert isinstance(request, ListGroupsRequest)
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    found = [
        ListedGroup(
            group_id=group.name,
            protocol_type=group.protocol_type or "",
            group_state=group.state.value,
            group_type=CLASSIC,
        )
        for group in ask.session.realm.groups.all()
        if (not states or group.state.value.lower() in states)
        and (not types or CLASSIC in types)
        and may_use(ask.session, group.name) is ErrorCode.NONE
    ]
    ask.answer(ListGroupsResponse(error_code=ErrorCode.NONE, groups=found))


def describe_groups(ask: Ask) -> None:
    """Who is in these groups."""
    request = ask.request
    assert isinstance(request, DescribeGroupsRequest)
    told = [_described(ask, name) for name in request.groups]
    if request.include_authorized_operations:
        for described in told:
            if described.error_code == ErrorCode.NONE:
                described.authorized_operations = ALLOWED_OPERATIONS
    ask.answer(DescribeGroupsResponse(groups=told))


def _described(ask: Ask, name: str) -> DescribedGroup:
    error = may_use(ask.session, name)
    if error is not ErrorCode.NONE:
        return DescribedGroup(error_code=error, group_id=name)
    group = ask.session.realm.groups.find(name)
    if group is not None:
        return _shown(group)
    if ask.version >= 6:
        return DescribedGroup(
            error_code=ErrorCode.GROUP_ID_NOT_FOUND,
            error_message=f"Group {name} not found.",
            group_id=name,
            group_state=State.DEAD.value,
        )
    return DescribedGroup(error_code=ErrorCode.NONE, group_id=name, group_state=State.DEAD.value)


def _shown(group: Group) -> DescribedGroup:
    # Between two generations neither protocol nor assignments are anybody's to rely on.
    stable = group.state is State.STABLE
    return DescribedGroup(
        error_code=ErrorCode.NONE,
        group_id=group.name,
        group_state=group.state.value,
        protocol_type=group.protocol_type or "",
        protocol_data=group.protocol or "" if stable else "",
        members=[
            DescribedGroupMember(
                member_id=member.id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=f"/{member.host}",
                member_metadata=member.metadata(group.protocol) if stable else b"",
                member_assignment=member.assignment if stable else b"",
            )
            for member in group.roster.members.values()
        ],
    )


def delete_groups(ask: Ask) -> None:
    """Ends groups without members. Answered when all of it is in the log."""
    request = ask.request
    assert isinstance(request, DeleteGroupsRequest)
    results = [DeletableGroupResult(group_id=name) for name in dict.fromkeys(request.groups_names)]
    if not results:
        ask.answer(DeleteGroupsResponse())
        return
    left = len(results)

    def deleted(result: DeletableGroupResult, error: ErrorCode) -> None:
        nonlocal left
        result.error_code = error
        left -= 1
        if not left:
            ask.answer(DeleteGroupsResponse(results=results))

    for result in results:
        error = may_delete(ask.session, result.group_id)
        if error is ErrorCode.NONE:
            ask.session.realm.groups.delete(result.group_id, partial(deleted, result))
        else:
            deleted(result, error)
