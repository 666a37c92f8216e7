"""The demo plays to its end, and does not when an adapter is broken: it verifies what it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SABOTAGE = {
    "mqtt takes nothing in": ("adapters.mqtt.session", "MqttSession._publish", "lambda s, p: None"),
    "mqtt gives nothing out": ("adapters.mqtt.session", "MqttSession.deliver", "lambda s, f, m: True"),
    "http streams nothing": ("adapters.http.session", "StreamSession.deliver", "lambda s, f, m: True"),
    "mcp finds no skill": ("broker.directory", "Directory.skills", "lambda s, p: []"),
    "calls reach nobody": ("broker.calls", "Calls._ask", "lambda s, c: False"),
    "sleepers get no mail": ("broker.mailbox", "Mailbox.attach", "lambda s, d: None"),
    "kafka gives nothing out": ("adapters.kafka.fetch", "_Fetch._read", "lambda s: s._consider()"),
    "kafka groups forget": ("adapters.kafka.offsets", "Offsets.get", "lambda s, p: None"),
    "a2a tells nothing": ("adapters.a2a.reading", "Reading.take", "lambda s: []"),
    "the log forgets": ("broker.log.disk_log", "DiskLog.rows", "lambda s, t, p=b'': iter(())"),
    "the mesh's agent finds nobody": ("broker.directory", "Directory.find", "lambda s, p, q: []"),
    "a reading is kept twice": (
        "broker.route",
        "Route.publish",
        "(lambda was: lambda s, e, m: (b'\"n\": 4}' in m.payload and was(s, e, __import__('copy').copy(m)), "
        "was(s, e, m))[1])(it.Route.publish)",
    ),
    "a reading is acknowledged and not kept": (
        "broker.route",
        "Route.publish",
        "(lambda was: lambda s, e, m: 0 if b'\"n\": 4}' in m.payload else was(s, e, m))(it.Route.publish)",
    ),
    "a kafka group goes back by one reading": (
        "adapters.kafka.offsets",
        "Offsets.get",
        "(lambda was: lambda s, p: (lambda c: c and type(c)(c.offset - (c.offset > 0 and 'temp' in p.topic)))"
        "(was(s, p)))(it.Offsets.get)",
    ),
}
"""What is broken → module, what of it, and what is put in its place in the mesh's process."""

NOTICED = {
    "the mesh's agent finds nobody": "the thermostat is found by what it can do",
    "a reading is kept twice": "readings were lost, or came twice or late",
    "a reading is acknowledged and not kept": "readings were lost, or came twice or late",
    "a kafka group goes back by one reading": "readings were lost, or came twice or late",
}
"""By which step, where no other would."""


def play(
    folder: Path, sabotage: tuple[str, str, str] | None = None, *, patience_s: int = 15
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DEMO_PATIENCE_S": str(patience_s), "COLUMNS": "200"}
    if sabotage:
        # Python runs a module of this name at its start, in the mesh's process and, to no effect, in the actors'.
        module, what, instead = sabotage
        (folder / "sitecustomize.py").write_text(f"import dragoman.{module} as it\nit.{what} = {instead}\n")
        env["PYTHONPATH"] = str(folder)
    return subprocess.run(
        [sys.executable, "-m", "tests.demo.demo"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_story_is_told_to_its_end(tmp_path: Path) -> None:
    ended = play(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "27 steps, each seen by another process" in ended.stdout
    assert "none was lost, none came twice" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("broken", SABOTAGE)
def test_it_fails_when_something_is_broken(broken: str, tmp_path: Path) -> None:
    # Where one step has to notice it, none before it may fail for want of time.
    ended = play(tmp_path, SABOTAGE[broken], patience_s=15 if broken in NOTICED else 3)
    assert "sitecustomize" not in ended.stderr, "nothing was broken: what was to be has gone"
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"✗ {NOTICED.get(broken, '')}" in ended.stdout, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
