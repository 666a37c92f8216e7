"""``make interop SUITE=path``: aims a foreign conformance suite at a mesh of ours, and says what came of it.

SUITE is a checkout of one of the suites below. With ``--write`` the results go to docs/mqtt-conformance.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.clients.mesh import ANY_PORT, MeshProcess
from tests.clients.tools import ROOT
from tests.interop.suites import SUITES, Results, Suite, SuiteError

PAGE = ROOT / "docs" / "mqtt-conformance.md"
CONFIG = ROOT / "configs" / "conformance-mqtt.toml"


def chosen(folder: Path) -> Suite:
    """The suite that is in the folder."""
    for suite in SUITES:
        if (folder / suite.marker).exists():
            return suite
    known = "\n".join(f"  {suite.url} (has {suite.marker})" for suite in SUITES)
    sys.exit(f"{folder} is none of the suites known here; clone one of these and name its folder:\n{known}")


def commit_of(folder: Path) -> str:
    """What was run, as the folder's version control knows it; empty if it does not."""
    asked = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def row(suite: Suite, commit: str, results: Results) -> str:
    """The suite's line of the page."""
    passed = sum(outcome == "passed" for outcome in results.values())
    skipped = sum(outcome == "skipped" for outcome in results.values())
    failed = ", ".join(f"`{name}`" for name, outcome in results.items() if outcome == "failed")
    counted = f"{passed} of {len(results) - skipped}" + (f", {skipped} not for us" if skipped else "")
    return (
        f"| [{suite.name}]({suite.url}) | {commit or 'unknown'} | {time.strftime('%Y-%m-%d')} | {counted} | {failed} |"
    )


def write(suite: Suite, line: str) -> None:
    """Puts the suite's line in the place of its last one."""
    before = PAGE.read_text("utf-8").splitlines()
    mine = f"| [{suite.name}]"
    assert any(each.startswith(mine) for each in before), f"{PAGE} has no line that begins with {mine}"
    after = [line if each.startswith(mine) else each for each in before]
    PAGE.write_text("\n".join(after) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make interop", description=__doc__)
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the checkout of a suite")
    parser.add_argument("--write", action="store_true", help=f"keep the results in {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    folder = given.suite.resolve()
    suite = chosen(folder)
    with tempfile.TemporaryDirectory(prefix="dragoman-interop-") as scratch:
        listeners = {"mqtt": ANY_PORT, "http": ANY_PORT}
        with MeshProcess(Path(scratch), CONFIG.read_text("utf-8"), memory=True, listeners=listeners) as mesh:
            print(f"{suite.name} at {folder}, against MQTT on {mesh.address('mqtt')[1]}", flush=True)
            try:
                results = suite.run(folder, mesh)
            except SuiteError as error:
                sys.exit(f"{suite.name} could not be run: {error}")
    line = row(suite, commit_of(folder), results)
    print(line)
    if given.write:
        write(suite, line)
    sys.exit(any(outcome == "failed" for outcome in results.values()))


main()
