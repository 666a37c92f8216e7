"""The bench works: a tiny run of every workload loses nothing and doubles nothing. It says nothing about speed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.peers import PEERS, Peer
from bench.wire import MQTT, Address
from bench.workloads import WORKLOADS
from tests.clients import tools
from tests.clients.processes import ChildFailed, run_client
from tests.clients.tools import ROOT


@pytest.mark.slow
def test_a_tiny_run_of_every_workload_is_whole(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "bench", "--tiny", "--json", "--folder", tmp_path]
    ended = run_client(argv, cwd=ROOT, timeout_s=120, code=None)
    result = json.loads(ended.stdout or "{}")
    rows = {row["workload"]: row for row in result.get("rows", ())}
    assert set(rows) == {workload.name for workload in WORKLOADS}, ended.stderr
    for row in rows.values():
        assert "absent" not in row, row["absent"]
        assert (row["loss"], row["duplicates"], row["disorders"]) == (0, 0, 0), row
        assert row["median"] > 0
    assert ended.code == 0, ended.stderr
    assert result["flush_p99_ms"] >= result["flush_p50_ms"] > 0
    assert not list(tmp_path.iterdir()), "the bench leaves nothing behind"


def test_what_cannot_be_run_is_a_row_and_an_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broker that does not start must not look like a good result."""
    nobody = Peer("dragoman", MQTT, "", _refuses, lambda: "none")
    monkeypatch.setitem(PEERS, "dragoman", nobody)
    assert main(["--tiny", "--folder", str(tmp_path), "connect"]) == 1


def test_an_absent_peer_names_its_command_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tools.TOOLS, "mosquitto", tools.Tool("no-such-program", "make mosquitto"))
    assert main(["--tiny", "--json", "--folder", str(tmp_path), "--peers", "mosquitto", "connect"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["absent"] == "mosquitto is not installed: make mosquitto"


@contextlib.contextmanager
def _refuses(folder: Path, durable: bool) -> Iterator[Address]:
    raise ChildFailed("out of order")
    yield ("", 0)
