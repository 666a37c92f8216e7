"""What can be configured about the log on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dragoman.broker.settings_key import key

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log uses its folder, its memory and its threads.

    ``folder``   where everything lives; created if missing, used by one process at a time
    ``threads``  False runs the same steps in later turns of the loop: for tests and simulation
    """

    folder: Path
    budget_bytes: int = key(
        8 * 1024 * _MIB,
        unit="bytes",
        low=64 * _MIB,
        why="journal and LMDB together; fits any laptop and holds a busy day, appends beyond it are refused",
        peers="Kafka and JetStream: the disk",
    )
    headroom_bytes: int = key(
        32 * _MIB, unit="bytes", low=_MIB, why="of the budget, for state rows and background copies, never for messages"
    )
    reserve_free_bytes: int = key(
        256 * _MIB, unit="bytes", low=0, why="free space of the file system that messages may not touch: it still boots"
    )
    segment_bytes: int = key(
        64 * _MIB,
        unit="bytes",
        low=_MIB,
        why="size of a full journal file; removed and settled in one go within a second",
    )
    journal_bytes_max: int = key(
        256 * _MIB, unit="bytes", low=2 * _MIB, why="journal beyond which the oldest segment is settled: four segments"
    )
    settle_live_percent: int = key(
        10, unit="percent", low=0, high=100, why="a full segment with less than this still wanted is settled early"
    )
    group_bytes_max: int = key(
        _MIB, unit="bytes", low=1024, why="largest commit; larger ones took 4 to 6 ms beyond the flush"
    )
    group_messages_max: int = key(2_000, unit="messages", low=1, why="the same in messages")
    hot_bytes: int = key(
        32 * _MIB,
        unit="bytes",
        low=_MIB,
        why="newest messages kept in memory; when what is not yet in LMDB alone reaches this, commits wait",
    )
    move_interval_ms: int = key(500, unit="ms", low=1, why="LMDB is written this often: few, large transactions")
    move_bytes: int = key(16 * _MIB, unit="bytes", low=1024, why="or when so much waits, whichever comes first")
    span_bytes: int = key(
        2 * _MIB, unit="bytes", low=1024, why="how much one settled region holds, and so the most one scan step reads"
    )
    retry_ms: int = key(
        1_000, unit="ms", low=1, why="pause after a refused commit or a failed background write before the next try"
    )
    map_bytes: int = key(
        1 << 40,
        unit="bytes",
        low=64 * _MIB,
        high=1 << 46,
        why="LMDB's address space: sparse, costs nothing, never resized",
    )
    threads: bool = True
