"""What a bench found, for people (a table) and for later comparison (one JSON line)."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.peers import PEERS
from bench.workloads import OURS, Outcome, Workload

RESULTS = Path(__file__).with_name("results.jsonl")


@dataclass
class Row:
    """One workload at one peer: its runs, or why there are none."""

    workload: Workload
    peer: str
    runs: list[Outcome] = field(default_factory=list)
    absent: str = ""

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(run.value for run in self.runs)

    def total(self, name: str) -> int:
        """Loss, duplicates or disorders of all runs together."""
        return sum(int(getattr(run, name)) for run in self.runs)

    def plain(self) -> dict[str, object]:
        """The row as JSON."""
        if not self.runs:
            return {"workload": self.workload.name, "peer": self.peer, "absent": self.absent}
        return {
            "workload": self.workload.name,
            "peer": self.peer,
            "unit": self.workload.unit,
            "median": self.median,
            "values": [run.value for run in self.runs],
            "loss": self.total("loss"),
            "duplicates": self.total("duplicates"),
            "disorders": self.total("disorders"),
            "notes": self.runs[-1].notes,
        }


def machine(flush_ms: tuple[float, float]) -> dict[str, object]:
    """Where and on what this was run."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "uvloop": importlib.metadata.version("uvloop"),
        "flush_p50_ms": flush_ms[0],
        "flush_p99_ms": flush_ms[1],
    }


def show(console: Console, rows: list[Row], about: dict[str, object], versions: dict[str, str]) -> None:
    """Prints the table, and under it all that a reader must know to believe it."""
    table = Table(caption="median of the runs; ×: how many times better Dragoman was in the same run")
    table.add_column("workload", no_wrap=True)
    table.add_column("broker", no_wrap=True)
    for heading in ("median", "min–max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("faults", justify="right")
    for heading in ("× plain", "× compiled"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("also")
    last = ""
    for row in rows:
        name = row.workload.name
        table.add_row(name if name != last else "", *_cells(row, rows))
        last = name
    console.print(table)
    for name, version in versions.items():
        console.print(f"{name} {version}: {PEERS[name].settings}", highlight=False)
    console.print(
        f"{about['cpu']} × {about['cores']}, shared with the load · {about['system']} · "
        f"Python {about['python']}, uvloop {about['uvloop']} · commit {about['commit']} · 4 KB flush p50 "
        f"{about['flush_p50_ms']:.3f} ms, p99 {about['flush_p99_ms']:.3f} ms",
        highlight=False,
    )


def _cells(row: Row, rows: list[Row]) -> list[str]:
    if not row.runs:
        return [row.peer, "", "", "", "", "", "", row.absent.splitlines()[-1]]
    values = [run.value for run in row.runs]
    ratios = [_ratio(row, rows, ours) for ours in OURS]
    notes = ", ".join(f"{name} {_number(value)}" for name, value in row.runs[-1].notes.items())
    counts = {"lost": row.total("loss"), "twice": row.total("duplicates"), "disordered": row.total("disorders")}
    faults = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"
    spread = f"{_number(min(values))}–{_number(max(values))}"
    return [row.peer, _number(row.median), spread, row.workload.unit, faults, *ratios, notes]


def _ratio(row: Row, rows: list[Row], name: str) -> str:
    """How many times better that one of ours was; empty for itself."""
    ours = next((other for other in rows if other.workload is row.workload and other.peer == name), None)
    if ours is None or ours is row or not (ours.runs and row.median and ours.median):
        return ""
    return f"{(ours.median / row.median) ** (1 if row.workload.more_is_better else -1):.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _commit() -> str:
    argv = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
