"""Channels that keep all that is said in them, as somebody declared: with partitions and options of their own.

A topic is a view of such a channel. Its options are the declarer's words, kept for it unread; what they mean
for retention it says itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

from dragoman.broker.channel import Channel, Keep
from dragoman.broker.gate import Action
from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.retention import NO_LIMITS, Limits
from dragoman.broker.rows import Row, channel_key, decode_row, encode_row
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session


class TopicRow(Row):
    """What was declared beside retention."""

    options: dict[str, str] = {}


class Topic(NamedTuple):
    """One topic now. ``number`` tells a topic from another of the same name before it."""

    channel: Channel
    options: Mapping[str, str]

    @property
    def name(self) -> str:
        """The channel's name."""
        return self.channel.name

    @property
    def number(self) -> int:
        """The channel's number."""
        return self.channel.number

    @property
    def partitions(self) -> tuple[Channel, ...]:
        """Each a numbered log of its own; the first is the channel itself."""
        return self.channel.partitions or (self.channel,)


class Declare(Protocol):
    """``Broker.declare``: asks the gate, opens the channel, has it keep."""

    def __call__(
        self,
        session: Session,
        name: str,
        keep: Keep,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        retention_messages: int | None = None,
    ) -> Channel | Refusal:
        """The channel, or why not."""


@final
class Topics:
    """The topics of a mesh. ``load`` once, after the channels."""

    def __init__(
        self,
        core: Core,
        channels: Channels,
        declare: Declare,
        may: Callable[[Session, Action, str], Refusal | None],
    ) -> None:
        self._core = core
        self._channels = channels
        self._declare = declare
        self._may = may
        self._options: dict[int, dict[str, str]] = {}
        #: hear the name of each topic that was deleted
        self.on_deleted: list[Callable[[str], object]] = []

    def load(self) -> None:
        """Restores the options of topics that are still there."""
        for key, value in list(self._core.log.rows(Table.TOPICS)):
            number = int.from_bytes(key, "big")
            if number in self._channels.by_number:
                self._options[number] = decode_row(value, TopicRow).options
            else:
                self._core.log.put(Table.TOPICS, key, None)

    def find(self, name: str) -> Topic | None:
        """The topic of that name, if the channel was declared to keep all."""
        channel = self._channels.kept.get(name)
        return None if channel is None else self._topic(channel)

    def all(self) -> Iterator[Topic]:
        """Every topic, in no order. Not to be held across turns."""
        return map(self._topic, self._channels.kept.values())

    def _topic(self, channel: Channel) -> Topic:
        return Topic(channel, self._options.get(channel.number, {}))

    def create(
        self,
        session: Session,
        name: str,
        *,
        partitions: int = 1,
        limits: Limits = NO_LIMITS,
        options: Mapping[str, str] | None = None,
    ) -> Topic | Refusal:
        """Makes a topic; a channel of that name that keeps less becomes one. CONFLICT if it is one already."""
        if name in self._channels.kept:
            return Refusal(Reason.CONFLICT, f"the topic {shown(name)} exists already")
        refusal = self._too_many(partitions)
        if refusal is not None:
            return refusal
        channel = self._declare(
            session,
            name,
            Keep.ALL,
            retention_ms=limits.ms,
            retention_bytes=limits.bytes,
            retention_messages=limits.messages,
        )
        if isinstance(channel, Refusal):
            return channel
        for _ in range(partitions - 1):
            self._channels.add_partition(channel)
        if options:
            self._keep(channel, dict(options))
        return self._topic(channel)

    def ensure(self, session: Session, name: str, partitions: int = 1) -> Topic | Refusal:
        """The topic, made if need be."""
        return self.find(name) or self.create(session, name, partitions=partitions)

    def grow(self, session: Session, topic: Topic, partitions: int) -> Refusal | None:
        """Gives a topic more partitions, so many in all."""
        have = len(topic.partitions)
        if partitions <= have:
            return Refusal(Reason.ARGUMENTS_INVALID, f"{shown(topic.name)} has {have} partitions; they never get fewer")
        refusal = self._may_change(session, topic.channel) or self._too_many(partitions)
        if refusal is None:
            for _ in range(partitions - have):
                self._channels.add_partition(topic.channel)
        return refusal

    def change(self, session: Session, topic: Topic, options: Mapping[str, str], limits: Limits) -> Refusal | None:
        """Gives a topic these options and limits, instead of those it had."""
        refusal = self._may_change(session, topic.channel)
        if refusal is None:
            for partition in topic.partitions:
                self._core.retention.set(partition, limits)
                self._core.commits.remember(partition)
            self._keep(topic.channel, dict(options))
        return refusal

    def truncate(self, session: Session, partition: Channel, offset: int) -> Refusal | None:
        """Nothing below ``offset`` of a partition is wanted any more."""
        refusal = self._may_change(session, partition)
        if refusal is None:
            self._core.log.release(partition.number, offset)
            partition.free(offset)
        return refusal

    def delete(self, session: Session, topic: Topic) -> Ticket | Refusal:
        """Ends the topic with all it kept. Who subscribes goes on with a new, empty channel of the name."""
        refusal = self._may_change(session, topic.channel)
        if refusal is not None:
            return refusal
        self._options.pop(topic.number, None)
        ticket = self._core.log.put(Table.TOPICS, channel_key(topic.number), None)
        self._channels.renew(topic.channel)
        for deleted in self.on_deleted:
            deleted(topic.name)
        return ticket

    def _may_change(self, session: Session, channel: Channel) -> Refusal | None:
        """What a topic keeps is its maker's to change, and an administrator's; everybody may make one of their own."""
        refusal = self._may(session, Action.CREATE, channel.name)
        if refusal is None and not session.principal.admin and session.principal.name != channel.creator:
            detail = (
                f"the topic {shown(channel.name)} was made by somebody else: its maker or an administrator changes it"
            )
            refusal = Refusal(Reason.NOT_AUTHORIZED, detail)
        return refusal

    def _keep(self, channel: Channel, options: dict[str, str]) -> None:
        self._options[channel.number] = options
        self._core.log.put(Table.TOPICS, channel_key(channel.number), encode_row(TopicRow(options=options)))

    def _too_many(self, partitions: int) -> Refusal | None:
        limit = self._core.settings.partitions_max
        if 1 <= partitions <= limit:
            return None
        return Refusal(
            Reason.ARGUMENTS_INVALID, f"a topic has 1 to {limit} partitions (broker.partitions_max), not {partitions}"
        )
