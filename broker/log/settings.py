"""The settings of the disk log. Every key: unit in the name, default, reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log uses its folder, its memory and its threads.

    ``folder``  where everything lives; created if missing, used by one process at a time
    ``budget_bytes``  journal and LMDB together (8 GiB: fits any laptop, holds a busy day); appends beyond are refused
    ``headroom_bytes``  part of the budget kept for state rows and background copies, never for messages (32 MiB)
    ``reserve_free_bytes``  free space of the file system that messages may not touch (256 MiB: the system still boots)
    ``segment_bytes``  size at which a journal file is full (64 MiB: removed and settled in one go within a second)
    ``journal_bytes_max``  journal beyond which the oldest segment is settled (256 MiB: four segments)
    ``settle_live_percent``  a full segment with less than this still wanted is settled early (10)
    ``group_bytes_max``, ``group_messages_max``  largest commit (1 MiB, 2,000: larger ones took 4-6 ms beyond the flush)
    ``hot_bytes``  newest messages kept in memory, in their stored weight (32 MiB); what is not yet in
        LMDB counts too, and when it alone reaches this, commits wait for the background
    ``move_interval_ms``, ``move_bytes``  LMDB is written when either is reached (500 ms, 16 MiB: few, large ones)
    ``span_bytes``  how much one settled region holds, and so the most one scan step reads (2 MiB)
    ``retry_ms``  pause after a refused commit or a failed background write before the next try (1,000)
    ``map_bytes``  LMDB's address space (1 TiB, sparse: costs nothing and is never resized)
    ``threads``  False runs the same steps in later turns of the loop: for tests and simulation
    """

    folder: Path
    budget_bytes: int = 8 * 1024 * _MIB
    headroom_bytes: int = 32 * _MIB
    reserve_free_bytes: int = 256 * _MIB
    segment_bytes: int = 64 * _MIB
    journal_bytes_max: int = 256 * _MIB
    settle_live_percent: int = 10
    group_bytes_max: int = _MIB
    group_messages_max: int = 2000
    hot_bytes: int = 32 * _MIB
    move_interval_ms: int = 500
    move_bytes: int = 16 * _MIB
    span_bytes: int = 2 * _MIB
    retry_ms: int = 1000
    map_bytes: int = 1 << 40
    threads: bool = True
