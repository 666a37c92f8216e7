"""What a topic can be configured to do, under Kafka's names: their types, what they are unless said, what is refused.

Clients read all of a topic's options and write them back, so that every usual one is known here. Those that
would promise what the mesh does not do are refused at any value but the one that is true; those that only tune
how Kafka stores things are remembered and given back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from dragoman.broker.retention import Limits
from dragoman.routing.names import shown

if TYPE_CHECKING:
    from dragoman.adapters.kafka.settings import KafkaSettings
    from dragoman.broker.core import Core
    from dragoman.broker.topics import Topic

VALUE_MAX: Final = 4_096
"""Characters of one value."""

_FOREVER: Final = str((1 << 63) - 1)


class Type(IntEnum):
    """Of a configured value, as DescribeConfigs says it."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7


class Option(NamedTuple):
    """One thing to configure. ``broker`` is what Kafka calls the broker's default for it.

    ``only`` is the one value that is true here, if there is but one; ``why`` says why, or what the option does.
    """

    name: str
    type: Type
    default: str
    broker: str
    why: str
    only: bool = False
    low: int = -(1 << 63)


_KEPT: Final = "Kept for whoever asks; nothing here depends on it."
_NO_TIERS: Final = "There is no second storage: everything is in the mesh's own log."
_NO_COMPACTION: Final = "Compacted topics are not built: a topic forgets by age and size."

_ALL: Final = (
    Option("cleanup.policy", Type.LIST, "delete", "log.cleanup.policy", _NO_COMPACTION, only=True),
    Option(
        "compression.type",
        Type.STRING,
        "producer",
        "compression.type",
        "Batches are kept as their producers compressed them.",
        only=True,
    ),
    Option("compression.gzip.level", Type.INT, "-1", "compression.gzip.level", _KEPT),
    Option("compression.lz4.level", Type.INT, "9", "compression.lz4.level", _KEPT),
    Option("compression.zstd.level", Type.INT, "3", "compression.zstd.level", _KEPT),
    Option("delete.retention.ms", Type.LONG, "86400000", "log.cleaner.delete.retention.ms", _KEPT, low=0),
    Option("file.delete.delay.ms", Type.LONG, "60000", "log.segment.delete.delay.ms", _KEPT, low=0),
    Option("flush.messages", Type.LONG, _FOREVER, "log.flush.interval.messages", _KEPT, low=1),
    Option("flush.ms", Type.LONG, _FOREVER, "log.flush.interval.ms", _KEPT, low=0),
    Option("follower.replication.throttled.replicas", Type.LIST, "", "follower.replication.throttled.replicas", _KEPT),
    Option("index.interval.bytes", Type.INT, "4096", "log.index.interval.bytes", _KEPT, low=0),
    Option("leader.replication.throttled.replicas", Type.LIST, "", "leader.replication.throttled.replicas", _KEPT),
    Option("local.retention.bytes", Type.LONG, "-2", "log.local.retention.bytes", _KEPT, low=-2),
    Option("local.retention.ms", Type.LONG, "-2", "log.local.retention.ms", _KEPT, low=-2),
    Option("max.compaction.lag.ms", Type.LONG, _FOREVER, "log.cleaner.max.compaction.lag.ms", _KEPT, low=1),
    Option("max.message.bytes", Type.INT, "", "message.max.bytes", "The largest record batch that is taken.", low=0),
    Option("message.timestamp.after.max.ms", Type.LONG, "3600000", "log.message.timestamp.after.max.ms", _KEPT, low=0),
    Option("message.timestamp.before.max.ms", Type.LONG, _FOREVER, "log.message.timestamp.before.max.ms", _KEPT, low=0),
    Option(
        "message.timestamp.type",
        Type.STRING,
        "CreateTime",
        "log.message.timestamp.type",
        "Records keep the time their producers gave them.",
        only=True,
    ),
    Option("min.cleanable.dirty.ratio", Type.DOUBLE, "0.5", "log.cleaner.min.cleanable.ratio", _KEPT),
    Option("min.compaction.lag.ms", Type.LONG, "0", "log.cleaner.min.compaction.lag.ms", _KEPT, low=0),
    Option(
        "min.insync.replicas",
        Type.INT,
        "1",
        "min.insync.replicas",
        "Kept for whoever asks; a record is acknowledged when it is safe in the mesh's log.",
        low=1,
    ),
    Option("preallocate", Type.BOOLEAN, "false", "log.preallocate", _KEPT),
    Option("remote.log.copy.disable", Type.BOOLEAN, "false", "remote.log.copy.disable", _KEPT),
    Option("remote.log.delete.on.disable", Type.BOOLEAN, "false", "remote.log.delete.on.disable", _KEPT),
    Option("remote.storage.enable", Type.BOOLEAN, "false", "remote.storage.enable", _NO_TIERS, only=True),
    Option(
        "retention.bytes",
        Type.LONG,
        "-1",
        "log.retention.bytes",
        "What each partition keeps; -1 = as much as the mesh's log has room for.",
        low=-1,
    ),
    Option(
        "retention.ms",
        Type.LONG,
        "-1",
        "log.retention.ms",
        "How long messages are kept; -1 = for as long as the mesh's log has room.",
        low=-1,
    ),
    Option("segment.bytes", Type.INT, "1073741824", "log.segment.bytes", _KEPT, low=14),
    Option("segment.index.bytes", Type.INT, "10485760", "log.index.size.max.bytes", _KEPT, low=4),
    Option("segment.jitter.ms", Type.LONG, "0", "log.roll.jitter.ms", _KEPT, low=0),
    Option("segment.ms", Type.LONG, "604800000", "log.roll.ms", _KEPT, low=1),
    Option("unclean.leader.election.enable", Type.BOOLEAN, "false", "unclean.leader.election.enable", _KEPT),
)

OPTIONS: Final[Mapping[str, Option]] = {option.name: option for option in _ALL}


def default_of(option: Option, settings: KafkaSettings) -> str:
    """What an option is where its topic does not say."""
    return str(settings.batch_bytes_max) if option.name == "max.message.bytes" else option.default


def fault(name: str, value: str | None) -> str:
    """What is wrong with an option, in a sentence; empty if nothing is."""
    option = OPTIONS.get(name)
    if option is None:
        return f"{shown(name)} is no option of a topic"
    if value is None:
        return f"{name} has no value"
    if len(value) > VALUE_MAX:
        return f"{name} has {len(value)} characters; {VALUE_MAX} are taken"
    if option.only:
        return "" if value.strip() == option.default else f"{name} can only be {option.default}. {option.why}"
    expected = _FAULTS[option.type](value.strip(), option.low) if option.type in _FAULTS else ""
    return f"{name} is {shown(value)}; it has to be {expected}" if expected else ""


def _no_boolean(value: str, low: int) -> str:
    return "" if value.lower() in ("true", "false") else "true or false"


def _no_int(value: str, low: int, bits: int = 32) -> str:
    lowest, highest = max(low, -(1 << bits - 1)), (1 << bits - 1) - 1
    try:
        number = int(value) if value.isascii() and "_" not in value and len(value) < 30 else None
    except ValueError:
        number = None
    return "" if number is not None and lowest <= number <= highest else f"a number from {lowest} to {highest}"


def _no_long(value: str, low: int) -> str:
    return _no_int(value, low, bits=64)


def _no_share(value: str, low: int) -> str:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    return "" if 0.0 <= number <= 1.0 else "a number from 0 to 1"


_FAULTS: Final[Mapping[Type, Callable[[str, int], str]]] = {
    Type.BOOLEAN: _no_boolean,
    Type.INT: _no_int,
    Type.LONG: _no_long,
    Type.DOUBLE: _no_share,
}


def options_of(topic: Topic, core: Core) -> dict[str, str]:
    """What was said of a topic, including what was said of its retention in another protocol."""
    options = dict(topic.options)
    limits = core.retention.of(topic.channel)
    for name, limit in (("retention.ms", limits.ms), ("retention.bytes", limits.bytes)):
        if limit is not None:
            options[name] = str(limit)
    return options


def limits_in(options: Mapping[str, str], before: Limits) -> Limits:
    """What options mean for retention. Kafka has no word for a number of messages: that limit stays."""
    return Limits(_limit(options.get("retention.ms")), _limit(options.get("retention.bytes")), before.messages)


def _limit(value: str | None) -> int | None:
    number = -1 if value is None else int(value)
    return None if number < 0 else number
