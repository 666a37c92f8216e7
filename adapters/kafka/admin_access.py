"""Who may do what with a topic, and how an answer about topics waits for the log. One place for all administration.

Whoever may read or write a topic may know that it is there, and who may make channels may make topics. Only who made
a topic, or an administrator, changes it, shortens it or deletes it: others may be reading what is kept there.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.errors import code_of
from dragoman.broker.gate import Action
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.routing.names import shown
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask, KafkaSession
    from dragoman.broker.channel import Channel
    from dragoman.broker.topics import Topic

REPLICAS: Final = 1
"""Of every partition, whatever was asked for: the mesh is one node."""


class Operation(IntEnum):
    """What somebody may be allowed to do. Numbers are the protocol's."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class No(NamedTuple):
    """Why not: the code, and a sentence."""

    code: ErrorCode
    why: str


class Row(Protocol):
    """What an answer says about one of the things asked for."""

    error_code: int


def no(refusal: Refusal) -> No:
    """A refusal in Kafka's words."""
    return No(code_of(refusal), refusal.detail)


def may_see(session: KafkaSession, name: str) -> bool:
    """Whether the session may know of this channel."""
    return session.realm.broker.may_read(session, name) or _may(session, Action.PUBLISH, name)


def may_make(session: KafkaSession, name: str) -> bool:
    """Whether the session may make this channel a topic."""
    return _may(session, Action.CREATE, name)


def may_change(session: KafkaSession, channel: Channel) -> bool:
    """Whether the session may change what a topic is, or end it."""
    owns = session.principal.admin or session.principal.name == channel.creator
    return owns and may_make(session, channel.name)


def _may(session: KafkaSession, action: Action, name: str) -> bool:
    realm = session.realm
    verdict = realm.gate.check(session.principal, action, name, session.agent)
    return not isinstance(verdict, Refusal) and realm.core.permits(session.principal, session.agent, name)


def topic_operations(session: KafkaSession, channel: Channel) -> int:
    """What the session may do with a topic it may know of, as Kafka's set of operations."""
    allowed = [Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS]
    if session.realm.broker.may_read(session, channel.name):
        allowed.append(Operation.READ)
    if _may(session, Action.PUBLISH, channel.name):
        allowed.append(Operation.WRITE)
    if may_change(session, channel):
        allowed += [Operation.DELETE, Operation.ALTER, Operation.ALTER_CONFIGS]
    return _set(allowed)


def cluster_operations() -> int:
    """What may be done with the cluster: see what it is, make topics, produce idempotently. Rules decide by topic."""
    return _set((Operation.CREATE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS, Operation.IDEMPOTENT_WRITE))


def _set(operations: Iterable[Operation]) -> int:
    return sum(1 << operation for operation in operations)


def topic_of(session: KafkaSession, asked: str) -> Topic | No:
    """The topic a client means, if it may know of it."""
    realm = session.realm
    name = realm.names.channel(asked)
    if isinstance(name, Refusal):
        return no(name)
    if not may_see(session, name):
        return No(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"the topic {shown(asked)} is not yours to see")
    topic = realm.topics.find(name)
    if topic is None:
        return No(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {shown(asked)}")
    return topic


def changeable(session: KafkaSession, asked: str) -> Topic | No:
    """The topic a client means, if it may change it."""
    topic = topic_of(session, asked)
    if not isinstance(topic, No) and not may_change(session, topic.channel):
        return No(
            ErrorCode.TOPIC_AUTHORIZATION_FAILED,
            f"the topic {shown(asked)} is changed by who made it, or by an administrator",
        )
    return topic


def written(session: KafkaSession, topic: Topic) -> Ticket:
    """The ticket of all that was changed about a topic up to now."""
    return session.realm.core.commits.remember(topic.channel)


def answer_when_safe(ask: Ask, response: object, rows: Iterable[Row], tickets: Iterable[Ticket]) -> None:
    """Answers once all of it is in the log; if it cannot be, whatever was done is not done for the client."""
    done = [row for row in rows if not row.error_code]

    def settled(refusal: Refusal | None) -> None:
        if refusal is not None:
            for row in done:
                row.error_code = code_of(refusal)
        ask.answer(response)

    ask.session.realm.broker.when_safe(max(tickets, default=DONE), settled)
