"""The bench works: a tiny run of every workload loses nothing and doubles nothing. It says nothing about speed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.crew import Counters
from bench.load import Checking
from bench.peers import PEERS, Peer
from bench.wire import MQTT, NATS, PAYLOAD_BYTES, TOPICS, Address, Wire, payload
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


@pytest.mark.parametrize("spoken", [MQTT, NATS], ids=["mqtt", "nats"])
@pytest.mark.parametrize("cut", [1, 7, 4_096])
def test_the_receiver_that_checks_sees_each_fault(spoken: Wire, cut: int) -> None:
    """Message 21 is lost, 32 comes twice, 40 and 50 of one topic are swapped; where the stream is cut is no matter."""
    arrived = [n for n in range(100) if n != 21]
    arrived.insert(40, 32)
    forty, fifty = arrived.index(40), arrived.index(50)
    arrived[forty], arrived[fifty] = 50, 40
    stream = b"".join(_delivered(spoken, n) for n in arrived)
    counters = Counters(1)
    receiver = Checking(counters, 0, spoken)
    for at in range(0, len(stream), cut):
        receiver.data_received(stream[at : at + cut])
    assert set(range(100)) - receiver.seen == {21}
    assert receiver.duplicates == 1
    assert receiver.disorders == 2, "the second 32, and 40 after 50"
    assert counters.slowest() == len(arrived)


def _delivered(spoken: Wire, sequence: int) -> bytes:
    topic = TOPICS[sequence % len(TOPICS)]
    if spoken is MQTT:
        return MQTT.publish(topic, payload(sequence))
    subject = topic.replace("/", ".")
    return f"MSG {subject} {sequence % 10} {PAYLOAD_BYTES}\r\n".encode() + payload(sequence) + b"\r\n"


@contextlib.contextmanager
def _refuses(folder: Path, durable: bool) -> Iterator[Address]:
    raise ChildFailed("out of order")
    yield ("", 0)
