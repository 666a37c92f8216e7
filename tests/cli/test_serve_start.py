"""How a mesh begins, as its users start it: with nothing configured, with little, and where it cannot."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragoman import running
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.log.contract import LogError
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.upkeep import compact
from dragoman.config import Config
from dragoman.mesh import CannotStartError
from tests.cli.raw_mqtt import RawMqtt
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import Child

MeshStarter = Callable[..., MeshProcess]
SERVE = [sys.executable, "-m", "dragoman", "serve"]
ANY = ["--mqtt", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0"]
MINIMAL = Path(__file__).parents[2] / "configs" / "minimal.toml"


@pytest.mark.slow
@pytest.mark.parametrize("config", [[], ["--config", str(MINIMAL)]], ids=["nothing", "minimal.toml"])
def test_it_starts_with_next_to_nothing_configured(tmp_path: Path, config: list[str]) -> None:
    """Only the ports are given, since the usual ones may be taken here."""
    with Child([*SERVE, *ANY, *config, "--kafka", "off"], cwd=tmp_path) as mesh:
        mesh.until_said("stop with Ctrl-C")
        found = {name: (host, int(port)) for name, host, port in re.findall(WHERE, mesh.stdout, re.MULTILINE)}
        assert sorted(found) == ["http", "mcp", "mqtt"]
        assert found["mcp"] == found["http"]
        with RawMqtt(found["mqtt"], "anyone") as client:
            client.subscribe("#")
        asked = http.client.HTTPConnection(*found["http"], timeout=10)
        asked.request("GET", "/healthz")
        assert asked.getresponse().status == 200
        asked.close()
        assert "kafka" not in mesh.stdout
        assert "data   ./dragoman-data: no messages yet; started in " in mesh.stdout
        ended = mesh.terminate()
    assert (ended.code, ended.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["dragoman-data"]


WHERE = r"^  (mqtt|http|mcp) +(?:http://)?([0-9.]+):([0-9]+)"


@pytest.mark.slow
def test_what_is_kept_is_for_the_meshs_user_only(mesh_process: MeshStarter) -> None:
    mesh = mesh_process(listeners=MQTT_ONLY)
    open_ = [path for path in (mesh.data, *mesh.data.iterdir()) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_ == []


@pytest.mark.slow
def test_connections_over_the_limit_are_cut_on_the_loop_that_serves(mesh_process: MeshStarter) -> None:
    """uvloop's transports are not asyncio's, so a test on asyncio's own loop would not see this."""
    mesh = mesh_process("[limits]\nconnections_max = 1\n", memory=True)
    with RawMqtt(mesh.address("mqtt"), "first"):
        for listener in ("http", "mqtt"):
            with socket.create_connection(mesh.address(listener), timeout=10) as second:
                assert second.recv(1) == b""
    ended = mesh.terminate()
    assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "this is not HTTP"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n", "longer than 8,190 bytes"),
    ],
)
def test_what_is_not_http_is_answered_and_leaves_one_line(mesh: MeshProcess, request_: bytes, part: str) -> None:
    with socket.create_connection(mesh.address("http"), timeout=10) as peer:
        host, port = peer.getsockname()
        peer.sendall(request_)
        answer = b"".join(iter(lambda: peer.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 400 ") or answer.startswith("HTTP/1.0 400 ")
    assert part in answer
    (line,) = (line for line in mesh.stderr.splitlines() if f"(peer {host}:{port})" in line)
    assert " WARNING " in line
    assert "Traceback" not in mesh.stderr


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    with MeshProcess(tmp_path_factory.mktemp("mesh"), memory=True) as process:
        yield process


BROKEN: list[tuple[str, str, str]] = [
    ("state.lmdb", "not LMDB" * 512, "cannot be opened: .*MDB_INVALID.*; restore a backup"),
    ("format", "dragoman log 9\n", "has format 9; this program knows up to 1: use a newer one"),
    ("format", "something else\n", "is not a data folder of ours"),
]


@pytest.mark.slow
def test_a_folder_that_is_no_data_of_ours_is_one_sentence(mesh_process: MeshStarter, tmp_path: Path) -> None:
    mesh = mesh_process(listeners=MQTT_ONLY)
    mesh.terminate()
    for number, (name, content, sentence) in enumerate(BROKEN):
        folder = tmp_path / f"broken{number}"
        shutil.copytree(mesh.data, folder)
        (folder / name).write_text(content)
        with pytest.raises(CannotStartError, match=sentence):
            _start(folder)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "novel.txt").write_text("Call me Ishmael.")
    with pytest.raises(CannotStartError, match=r"is not empty and not a data folder of ours \(it holds 'novel.txt'\)"):
        _start(stranger)
    assert [path.name for path in stranger.iterdir() if path.name != "lock"] == ["novel.txt"]


def test_too_little_address_space_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"Cannot allocate memory; lower log\.map_bytes or raise `ulimit -v`"):
        compact(LogSettings(tmp_path / "data", map_bytes=1 << 62))


def _start(folder: Path) -> None:
    """What `dragoman compact` and `dragoman serve` do first, here without a process for each."""
    before = os.umask(0o022)
    try:
        running.compact_folder(folder)
    finally:
        os.umask(before)


def test_a_ready_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"
    running._write_whole(ready, "first")
    assert (ready.read_text(), os.listdir(tmp_path)) == ("first\n", ["ready"])

    def broken(*_: object) -> None:
        assert ready.read_text() == "first\n"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running.os, "replace", broken)
    with pytest.raises(CannotStartError, match=r"the ready file .* cannot be written: No space left on device"):
        running._write_whole(ready, "second")
    assert (ready.read_text(), os.listdir(tmp_path)) == ("first\n", ["ready"])


def test_a_ready_file_that_cannot_be_is_told_before_anything_listens(tmp_path: Path) -> None:
    said: list[str] = []
    config = Config(data=str(tmp_path / "data"), listen=ListenSettings(mqtt="off", kafka="off", http="off"))
    with pytest.raises(CannotStartError, match=r"the ready file .* cannot be written: No such file"):
        running.run(config, tmp_path / "absent" / "ready", said.append)
    assert (said, os.listdir(tmp_path)) == ([], [])


@pytest.mark.slow
def test_a_stop_asked_for_during_the_start_is_a_graceful_one(tmp_path: Path) -> None:
    """From its first line on a mesh knows what a signal means."""
    with Child([*SERVE, *ANY, "--http", "off", "--data", str(tmp_path / "data")], cwd=tmp_path) as mesh:
        mesh.until_said("^dragoman ")
        os.kill(mesh.pid, signal.SIGTERM)
        ended = mesh.wait()
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "stopped"


def _fed(pipe: Path, text: str, child: Child, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Gives the text to who reads the pipe; before that, and while the reader waits, does something."""

    def opened() -> int | None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None  # nobody reads yet

    descriptor = child.until(opened, "reader of its configuration")
    meanwhile()
    os.write(descriptor, text.encode())
    os.close(descriptor)


@pytest.mark.slow
def test_a_reload_asked_for_during_the_start_is_done_once_started(tmp_path: Path) -> None:
    """The configuration is a pipe: who reads it is at the very beginning of its start, and waits for us."""
    pipe = tmp_path / "dragoman.toml"
    os.mkfifo(pipe)
    with Child([*SERVE, *ANY, "--config", str(pipe)], cwd=tmp_path) as mesh:

        def hang_up() -> None:
            for _ in range(3):
                os.kill(mesh.pid, signal.SIGHUP)

        _fed(pipe, "[gate]\nburst = 5\n", mesh, hang_up)
        mesh.until_said("stop with Ctrl-C")
        _fed(pipe, "[gate]\nburst = 6\n", mesh)
        mesh.until(lambda: "the configuration was reloaded: changed: gate.burst\n" in mesh.stderr or None, "reload")
        ended = mesh.terminate()
    assert ended.code == 0
    assert ended.stderr.count("the configuration was") == 1
