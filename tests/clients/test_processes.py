"""What drives foreign programs tells the truth about them: a failure is never silent, nothing is left running."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.mesh import MeshProcess
from tests.clients.processes import Child, ChildFailed, run_client

PYTHON = [sys.executable, "-c"]
FOREVER = "import signal; print('here', flush=True); signal.pause()"


def test_output_and_input_are_whole() -> None:
    echo = "import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write('e' * 300_000)"
    ended = run_client([*PYTHON, echo], stdin=b"x" * 300_000)
    assert (ended.code, len(ended.stdout), len(ended.stderr)) == (0, 300_000, 300_000)


def test_an_unexpected_exit_code_shows_what_was_said() -> None:
    with pytest.raises(ChildFailed, match=r"(?s)exit code 3, not 0.*command.*out of paper"):
        run_client([*PYTHON, "import sys; print('out of paper', file=sys.stderr); sys.exit(3)"])
    assert run_client([*PYTHON, "raise SystemExit(3)"], code=None).code == 3


def test_a_client_that_hangs_is_killed_and_named() -> None:
    with pytest.raises(ChildFailed, match=r"(?s)still running after 0.3 s.*here"):
        run_client([*PYTHON, FOREVER], timeout_s=0.3)


def test_waiting_ends_when_the_child_does() -> None:
    with Child([*PYTHON, "print('short'); raise SystemExit(4)"]) as child:
        assert child.until_said("^short$")
        with pytest.raises(ChildFailed, match=r"(?s)ended before output like 'long'.*exit code 4.*short"):
            child.until_said("long")


def test_the_block_ends_the_child_and_its_children(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held")
    hold = f"held = open({str(tmp_path / 'held')!r}, 'wb'); {FOREVER}"
    both = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}"
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    with Child([*PYTHON, both]) as child:
        child.until_said("(?s)here.*here")
    assert not child.running
    assert child.kill().code == -9
    os.set_blocking(reader, True)
    readable, _, _ = select.select([reader], [], [], 10)
    assert readable, "somebody still holds the other end"
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_terminate_reports_how_it_ended() -> None:
    polite = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {FOREVER}"
    with Child([*PYTHON, polite]) as child:
        child.until_said("here")
        assert child.terminate().code == 7


def test_a_mesh_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"(?s)ended before ready file.*no-such-flag"):
        MeshProcess(tmp_path, arguments=["--no-such-flag"])


def test_every_tool_of_the_table_can_be_looked_up() -> None:
    for name, tool in tools.TOOLS.items():
        path = tool.found()
        assert path is None or os.access(path, os.X_OK), name


def test_an_absent_tool_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.TOOLS, "npm:none", tools.Tool(sys.executable, "make none", package="none"))
    with pytest.raises(tools.ToolMissing, match=r"^npm:none is not installed: make none$"):
        tools.find("npm:none")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_under_ci_an_absent_tool_fails(
    ci: str, outcome: type[Exception], require: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setitem(tools.TOOLS, "absent", tools.Tool("no-such-program", "make absent"))
    with pytest.raises(outcome, match="make absent"):
        require("absent")
