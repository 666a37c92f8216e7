"""The command ``dragoman`` as its users run it: in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.mesh import MeshProcess
from tests.clients.processes import Child, Ended


class Said:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


def dragoman(
    mesh: MeshProcess | None, *arguments: str, stdin: bytes = b"", token: str = "", cwd: Path | None = None
) -> Ended:
    """Runs a command to its end, against a mesh if one is given. It never shows a traceback."""
    env = {"DRAGOMAN_URL": mesh.url if mesh is not None else "", "DRAGOMAN_TOKEN": token, "COLUMNS": "200"}
    with Child([sys.executable, "-m", "dragoman", *arguments], stdin=stdin, env=env if mesh else {}, cwd=cwd) as child:
        ended = child.wait()
    assert "Traceback" not in ended.stderr
    return ended
