"""The tour is true: its shell blocks run in order against a fresh mesh, and what it shows appears."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.clients.mesh import MeshProcess
from tests.clients.processes import Child, run_client

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str]]:
    for match in BLOCK.finditer(TOUR.read_text("utf-8")):
        yield match[1], match[2]


def test_every_block_does_what_it_says(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], object], tmp_path: Path
) -> None:
    for tool in ("curl", "mosquitto_pub", "mosquitto_sub", "mosquitto_rr"):
        require(tool)
    mesh = mesh_process()
    env = {
        **os.environ,
        "URL": mesh.url,
        "DRAGOMAN_URL": mesh.url,
        "MQTT_PORT": str(mesh.port("mqtt")),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    said = ""
    ran = shown = 0
    children: list[Child] = []
    try:
        for kind, text in blocks():
            if kind == "sh":
                said = run_client(["bash", "-euo", "pipefail", "-c", text], env=env, timeout_s=30).stdout
                ran += 1
            elif kind == "text":
                for line in text.splitlines():
                    assert line in said, f"the tour shows {line!r}; what was said is\n{said}"
                    shown += 1
            elif kind == "python":
                heater = tmp_path / "heater.py"
                heater.write_text(text, "utf-8")
                child = Child([sys.executable, str(heater), str(mesh.port("mqtt"))])
                children.append(child)
                child.until_said("serving", 10)
    finally:
        for child in children:
            child.kill()
    assert ran >= 8
    assert shown >= 12
