"""Runs gmqtt's own tests of a broker, as they are in its source distribution, in a pytest of their own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
"""Where the plug-in is: its package has the name of theirs."""
FILE = "tests/test_mqtt5.py"
HANDS = 6
"""Processes at once: its tests sleep most of the time, and each process has topics and client ids of its own."""


class NothingRun(Exception):
    """The suite's pytest did not get as far as a test. The text ends with what it said."""


def tests(folder: Path) -> list[str]:
    """The tests there are, in their order."""
    tree = ast.parse((folder / FILE).read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.AsyncFunctionDef))
    return [node.name for node in functions if node.name.startswith("test_")]


def run(folder: Path, address: tuple[str, int], names: list[str], scratch: Path, **env: str) -> dict[str, str]:
    """Test → ``passed``, ``failed`` or ``skipped``; ``scratch`` takes the reports. Raises ``NothingRun``.

    It waits by the clock, so what fails in company is tried once more on its own.
    """
    host, port = address
    given = {"HOST": host, "PORT": str(port), "PYTHONPATH": HERE, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env}
    results = _once(folder, [names[hand::HANDS] for hand in range(HANDS)], scratch, given)
    failed = [name for name in names if results.get(name) != "passed"]
    results |= _once(folder, [failed], scratch, given)
    return {name: results.get(name, "failed") for name in names}


def _once(folder: Path, shares: list[list[str]], scratch: Path, env: dict[str, str]) -> dict[str, str]:
    """Each share in a process of its own, all at once."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider"]
    command += ["-p", "pytest_asyncio.plugin", "-p", "outcomes"]
    running = []
    for number, names in enumerate(shares):
        report = scratch / f"gmqtt-{number}.json"
        report.unlink(missing_ok=True)
        if names:
            process = subprocess.Popen(
                [*command, *(f"{FILE}::{name}" for name in names)],
                cwd=folder,
                env={**os.environ, **env, "OUTCOMES": str(report)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            running.append((process, report))
    results: dict[str, str] = {}
    for process, report in running:
        said, _ = process.communicate()
        if process.returncode:
            print(said, flush=True)
        if not report.exists():
            raise NothingRun(f"pytest in {folder} did not get as far as a test:\n{said[-2000:]}")
        results |= json.loads(report.read_text("utf-8"))
    return results
