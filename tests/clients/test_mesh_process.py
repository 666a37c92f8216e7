"""``MeshProcess`` against a stand-in that only obeys the flags: its promises do not depend on the mesh working."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.clients.mesh import MeshProcess
from tests.clients.processes import ChildFailed

STAND_IN = f"""#!{sys.executable}
import json, os, signal, socket, sys
flags = dict(zip(sys.argv[4::2], sys.argv[5::2]))
assert sys.argv[1:4] == ["-m", "dragoman", "serve"]
open("flags.json", "w").write(json.dumps(flags))
signal.signal(signal.SIGTERM, lambda *_: (print("drained", file=sys.stderr), sys.exit(5)))
ready = {{"pid": os.getpid()}}
listening = []
for name in ("mqtt", "kafka", "http"):
    if flags.get("--" + name, "off") != "off":
        host, port = flags["--" + name].split(":")
        listening.append(socket.create_server((host, int(port))))
        ready[name] = f"{{host}}:{{listening[-1].getsockname()[1]}}"
if not os.path.exists(os.path.dirname(flags["--ready-file"]) + "/mute"):
    open(flags["--ready-file"], "w").write(json.dumps(ready))
print("up", file=sys.stderr, flush=True)
while True: signal.pause()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    program = tmp_path / "python"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return str(program)


def test_the_flags_say_what_was_asked(stand_in: str, tmp_path: Path) -> None:
    with MeshProcess(tmp_path / "a", "[mesh]\n", python=stand_in, listeners={"mqtt": "127.0.0.1:0"}) as mesh:
        flags = json.loads((mesh.folder / "flags.json").read_text())
        assert flags.pop("--mqtt") == "127.0.0.1:0"
        assert flags.pop("--kafka") == flags.pop("--http") == "off"
        assert Path(flags.pop("--config")).read_text() == "[mesh]\n"
        assert flags.pop("--data") == str(mesh.data)
        assert flags.keys() == {"--ready-file"}
        assert mesh.port("mqtt") > 0
    with MeshProcess(tmp_path / "b", python=stand_in, memory=True, listeners={}) as mesh:
        flags = json.loads((mesh.folder / "flags.json").read_text())
        assert flags.keys() == {"--data", "--ready-file"}, "no listener flag: the configuration decides"
        assert flags["--data"] == ":memory:"


def test_it_comes_back_where_it_was(stand_in: str, tmp_path: Path) -> None:
    with MeshProcess(tmp_path / "a", python=stand_in) as mesh:
        first, ports = mesh.pid, (mesh.port("mqtt"), mesh.port("http"))
        assert mesh.url == f"http://127.0.0.1:{ports[1]}"
        assert mesh.kill().code == -9
        mesh.restart()
        assert mesh.pid != first
        assert (mesh.port("mqtt"), mesh.port("http")) == ports
        ended = mesh.terminate()
    assert ended.code == 5
    assert ended.stderr.endswith("drained\n")


def test_one_that_never_gets_ready_is_ended_and_quoted(stand_in: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mute").touch()
    with pytest.raises(ChildFailed, match=r"(?s)no ready file within 0.3 s.*running.*up"):
        MeshProcess(tmp_path / "a", python=stand_in, ready_s=0.3)
