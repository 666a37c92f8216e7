"""What the rooms of the broker know themselves, by the names under which the metrics show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman.broker.bans import Bans
    from dragoman.broker.calls import Calls
    from dragoman.broker.core import Core
    from dragoman.broker.delayed import Delayed
    from dragoman.broker.metrics import Metrics
    from dragoman.broker.slow import SlowReaders
    from dragoman.broker.verbs import Verbs


def add_probes(
    metrics: Metrics, core: Core, calls: Calls, verbs: Verbs, slow: SlowReaders, bans: Bans, delayed: Delayed
) -> None:
    """Has everything read from its owner when somebody collects. Once a mesh."""
    log = core.log
    gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("log_oldest_uncommitted_ms", "Age of the oldest thing waiting for a commit", log.oldest_uncommitted_ms),
        ("log_uncommitted_bytes", "Bytes waiting for a commit", log.uncommitted_bytes),
        ("log_used_bytes", "Bytes the log holds, against its budget", log.bytes_used),
        ("ring_bytes", "Bytes of recent messages in memory", lambda: core.rings.used_bytes),
        ("retained", "Channels that hold a retained value", lambda: core.commits.retained_count),
        ("slow_readers", "Readers behind for longer than broker.slow_after_s", lambda: slow.count),
        ("bans", "Clients, principals and address blocks kept out", lambda: len(bans)),
        ("delayed_waiting", "Messages published to $delayed that wait", lambda: delayed.count),
        ("delayed_bytes", "Bytes of messages that wait", lambda: delayed.bytes),
        ("calls_pending", "Calls without an answer yet", lambda: calls.pending),
    )
    counters: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("calls", "Calls asked", lambda: calls.started_total),
        ("calls_failed", "Calls that ended without an answer", lambda: calls.failed_total),
        ("slow_readers_ended", "Readers disconnected because they did not keep up", lambda: slow.ended_total),
        ("bans_refused", "Connections, logins and sessions refused by a ban", lambda: bans.refused_total),
        ("delayed", "Messages taken to go out later", lambda: delayed.taken_total),
        ("delayed_said", "Messages that went out at their time", lambda: delayed.said_total),
        ("answers_late", "Answers refused as late", lambda: calls.late_total),
        ("verbs_unheard", "Answers that reached nobody", lambda: verbs.unheard_total),
        ("verbs_dropped", "Deliveries of verbs given up on a slow session", lambda: verbs.dropped_total),
    )
    for name, help_text, read in gauges:
        metrics.probe(f"dragoman_{name}", help_text, read)
    for name, help_text, read in counters:
        metrics.probe(f"dragoman_{name}", help_text, read, "counter")
