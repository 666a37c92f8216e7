"""``python -m bench``: runs the workloads at every peer in turn and prints what came of it.

Exit code 1 if Dragoman lost, doubled or disordered anything, or did not run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import report
from bench.crew import CrewFailed
from bench.disk import flush_latency_ms
from bench.peers import PEERS
from bench.report import RESULTS, Row
from bench.workloads import FULL, OURS, TINY, WORKLOADS, Scale, Site, Workload
from tests.clients.processes import ChildFailed
from tests.clients.tools import ToolMissing

TABLE_WIDTH: Final = 150
"""Columns, where the table goes to a file or a pipe: there it has no width of its own and would be cut to 80."""


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for and returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for asked, known in ((options.names, [workload.name for workload in WORKLOADS]), (options.peers, [*PEERS])):
        if not set(asked) <= set(known):
            parser.error(f"there is no {', '.join(sorted(set(asked) - set(known)))} among {', '.join(known)}")
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console = Console(stderr=options.json, width=TABLE_WIDTH)
    if options.list:
        for workload in WORKLOADS:
            console.print(f"{workload.name:17} {workload.unit:13} {workload.says}", highlight=False)
        return 0
    scale = _scale(options)
    wanted = [workload for workload in WORKLOADS if not options.names or workload.name in options.names]
    peers = options.peers or (["dragoman"] if options.tiny else list(PEERS))
    with (
        tempfile.TemporaryDirectory(prefix="dragoman-bench-", dir=options.folder) as folder,
        Brokers(Path(folder), alone=scale.alone) as brokers,
    ):
        about = report.machine(flush_latency_ms(Path(folder), min(1.0, scale.seconds)))
        rows: list[Row] = []
        for workload in wanted:
            console.print(f"… {workload.name}: {workload.says}", highlight=False)
            rows += measure(workload, [peer for peer in workload.peers if peer in peers], scale, brokers)
    versions = {name: PEERS[name].version() for name in peers if any(row.peer == name and row.runs for row in rows)}
    report.show(console, rows, about, versions)
    line = json.dumps({**about, "versions": versions, "rows": [row.plain() for row in rows]})
    if options.json:
        sys.stdout.write(line + "\n")
    if options.record:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(line + "\n")
    return int(any(_is_broken(row) for row in rows))


class Brokers:
    """The brokers that run now. If workloads are to be ``alone``, they end with each; otherwise with the bench."""

    def __init__(self, folder: Path, *, alone: bool) -> None:
        self._folder = folder
        self._alone = alone
        self._running = contextlib.ExitStack()
        self._sites: dict[tuple[str, bool], Site] = {}
        self._started = 0

    def __enter__(self) -> Brokers:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def site(self, name: str, durable: bool) -> Site:
        """The address of a broker of this kind, started if none runs."""
        if (name, durable) not in self._sites:
            self._started += 1
            peer = PEERS[name]
            running = self._running.enter_context(peer.start(self._folder / f"{name}-{self._started}", durable))
            self._sites[name, durable] = Site(running.address, peer.wire, durable, running.pid)
        return self._sites[name, durable]

    def over(self) -> None:
        """Ends the brokers if what is measured next is to have its own."""
        if self._alone:
            self._sites.clear()
            self._running.close()


def measure(workload: Workload, peers: list[str], scale: Scale, brokers: Brokers) -> list[Row]:
    """All runs of a workload, peer by peer in turn, so that whatever disturbs the machine disturbs all of them."""
    rows = [Row(workload, peer) for peer in peers]
    for _ in range(scale.runs):
        for row in rows:
            if row.absent:
                continue
            try:
                row.runs.append(workload.run(brokers.site(row.peer, workload.durable), scale))
            except ToolMissing as missing:
                row.absent = str(missing)
            except (ChildFailed, CrewFailed, OSError) as failed:
                row.runs.clear()
                row.absent = f"failed: {str(failed).strip()}"
            if workload.fresh:
                brokers.over()
    brokers.over()
    return rows


def _is_broken(row: Row) -> bool:
    faults = sum(row.total(name) for name in ("loss", "duplicates", "disorders"))
    # What is not built is only not measured, like a peer that is not installed.
    return row.peer in OURS and (row.absent.startswith("failed: ") or faults > 0)


def _scale(options: argparse.Namespace) -> Scale:
    scale = TINY if options.tiny else FULL
    if options.runs:
        scale = dataclasses.replace(scale, runs=options.runs)
    if options.seconds:
        scale = dataclasses.replace(scale, seconds=options.seconds)
    return scale


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which workloads; all if none is named")
    parser.add_argument("--tiny", action="store_true", help="a few seconds in all, only Dragoman: does it still run?")
    parser.add_argument("--list", action="store_true", help="what the workloads are")
    parser.add_argument("--runs", type=int, metavar="N", help=f"runs of each workload (default {FULL.runs})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"length of a run (default {FULL.seconds:g})")
    parser.add_argument(
        "--peers", metavar="A,B", type=lambda text: text.split(","), default=[], help=f"only these of {list(PEERS)}"
    )
    parser.add_argument("--folder", metavar="DIR", help="where data is written for the time of the bench")
    parser.add_argument("--record", action="store_true", help=f"append the result to {RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="the result as one JSON line on standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
