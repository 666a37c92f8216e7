"""The command line in this process: what it says, what it exits with, before anything is started."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dragoman import __version__, cli
from dragoman.adapters.serving.credentials import parse_password, token_digest
from dragoman.adapters.serving.scram import parse_verifier, verifier_of
from dragoman.build import form
from dragoman.config_text import full_text
from dragoman.terminal import print_agents, printable, write


def test_version_is_one_line(run) -> None:
    said = run("version")
    assert (said.code, said.out) == (0, f"dragoman {__version__}, {form()}\n")


def test_version_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['dragoman', 'version']; import dragoman.cli, atexit\n"
        "heavy = {'aiohttp', 'uvloop', 'lmdb', 'mcp', 'msgspec', 'asyncio'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)))); dragoman.cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == f"dragoman {__version__}, {form()}\n[]\n"


def test_help_names_every_command_in_a_sentence(run) -> None:
    said = run("--help")
    assert said.code == 0
    for name in ("serve", "check", "pub", "sub", "call", "agents", "backup", "compact", "version", "password", "token"):
        assert f"│ {name} " in said.out
        assert run(name, "--help").code == 0


def test_wrong_flags_and_a_wrong_file_are_explained_together(run, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[gate]\nburst = 0\nbrust = 1\n")
    said = run("serve", "--config", str(file), "--mqtt", "1883", "--http", "here:99999")
    assert said.code == 2
    lines = said.err.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("--mqtt: listen.mqtt: '1883' has no port")
    assert lines[1].startswith("--http: listen.http: '99999' is no port")
    assert lines[2].startswith(f"{file}:2: gate.burst: must be a whole number (messages), 1 or more, not 0")
    assert lines[3].endswith("did you mean gate.burst?")
    assert lines[4] == "dragoman: 4 things are wrong in the configuration; nothing was started"


def test_check_explains_or_says_what_is_set(run, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[listen]\nmqtt = '0.0.0.0:1'\n")
    said = run("check", str(file))
    assert said.code == 0
    assert said.out.splitlines()[0].startswith(f"{file} is fine; it sets 1 of ")
    assert '  listen.mqtt = "0.0.0.0:1"' in said.out
    assert "note: 0.0.0.0:1 can be reached from other machines, but nobody there can log in" in said.out
    file.write_text("x = 1")
    said = run("check", str(file))
    assert said.code == 2
    assert said.err.splitlines()[-1] == "dragoman: one thing is wrong in the configuration; nothing was started"
    assert run("check").code == 2


def test_check_full_prints_the_full_file(run) -> None:
    assert run("check", "--full").out == full_text()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["pub"], ["sub", "a", "--count", "-1"], ["call", "a"], ["serve", "x"]]
)
def test_a_wrong_command_exits_2(run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


def test_a_token_and_its_digest_belong_together(run) -> None:
    made = json.loads(run("token").out)
    assert token_digest(made["token"]) == made["digest"]
    assert json.loads(run("token").out) != made


class Typed(io.TextIOWrapper):
    """Standard input with something in it."""

    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), "utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"hunter2\nmore", b"hunter2"),
        (b"hunter2\r\n", b"hunter2"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"x" * 1024 + b"\n", b"x" * 1024),
    ],
)
def test_a_password_may_come_through_a_pipe(run, monkeypatch: pytest.MonkeyPatch, content: bytes, word: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(content))
    parsed = parse_password(run("password").out.strip())
    assert parsed is not None
    assert parsed.fits(word)


def test_a_password_for_scram(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(b"pencil\n"))
    found = parse_verifier(run("password", "--scram").out.strip())
    assert found is not None
    assert found == verifier_of(b"pencil", salt=found.salt)
    monkeypatch.setattr(sys, "stdin", Typed(b"\xff\n"))
    said = run("password", "--scram")
    assert (said.code, said.out) == (2, "")
    assert "UTF-8" in said.err


@pytest.mark.parametrize(("content", "part"), [(b"\n", "an empty password"), (b"x" * 1025, "at most 1024 bytes")])
def test_a_password_that_could_not_be_used_is_not_hashed(
    run, monkeypatch: pytest.MonkeyPatch, content: bytes, part: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(content))
    said = run("password")
    assert (said.code, said.out) == (2, "")
    assert part in said.err


def test_a_password_is_asked_for_without_echo_and_hashed(run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def hidden(prompt: str = "", *_: object, **__: object) -> str:
        asked.append(prompt)
        return "hunter2"

    monkeypatch.setattr("click.termui.hidden_prompt_func", hidden, raising=False)
    monkeypatch.setattr("getpass.getpass", hidden)
    monkeypatch.setattr(cli.typer, "prompt", lambda text, **how: hidden(text) if how["hide_input"] else "shown")
    monkeypatch.setattr(sys, "stdin", Typed(b"", terminal=True))
    said = run("password")
    parsed = parse_password(said.out.strip())
    assert parsed is not None
    assert parsed.fits(b"hunter2")
    assert "hunter2" not in said.out + said.err
    assert asked


@pytest.mark.parametrize("command", [["compact"], ["backup", "target", "--data"]])
def test_a_directory_that_holds_no_mesh_is_left_alone(run, tmp_path: Path, command: list[str]) -> None:
    said = run(*command, str(tmp_path / "absent"))
    assert said.code == 1
    assert "is no directory" in said.err
    (tmp_path / "empty").mkdir()
    said = run(*command, str(tmp_path / "empty"))
    assert said.code == 1
    assert "is empty" in said.err
    assert not any((tmp_path / "empty").iterdir())
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://127.0.0.1:1", "no mesh answers at http://127.0.0.1:1 (Connection refused); start one with"),
        ("nonsense", "'nonsense' is no address of a mesh; it looks like http://127.0.0.1:8080"),
        ("http://[::1", "is no address of a mesh"),
        ("http://x:99999", "is no address of a mesh"),
        ("mqtt://127.0.0.1:1883", "is no address of a mesh"),
    ],
)
def test_where_no_mesh_is_one_sentence_says_what_to_do(run, url: str, part: str) -> None:
    said = run("agents", "--url", url)
    assert said.code == 1
    assert part in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("arguments", ["{", "[" * 90_000, ""])
def test_arguments_that_are_not_json_never_reach_a_mesh(run, arguments: str) -> None:
    said = run("call", "pump", "start", arguments, "--url", "http://127.0.0.1:1")
    assert said.code == 2
    assert said.err.startswith("dragoman: the arguments are not JSON: ")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--token", "a\r\nX: y"], "the token has characters that cannot be sent"),
        (["--type", "text/plain\r\nX: y"], "is no content type"),
    ],
)
def test_what_no_header_can_carry_is_a_sentence(run, arguments: list[str], part: str) -> None:
    said = run("pub", "a", "x", "--url", "http://127.0.0.1:1", *arguments)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert part in said.err
    assert "X: y\n" not in said.err


def test_a_fault_of_ours_is_a_sentence_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("dragoman.config.load", broken)
    said = run("check", "x.toml")
    assert said.code == 1
    assert said.err.startswith(f"dragoman: this is a bug in dragoman {__version__} (KeyError: 'x'); please report it")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_who_asks_sees_where_a_fault_of_ours_is(
    run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("dragoman.config.load", broken)
    monkeypatch.setattr(logging.getLogger("dragoman"), "level", logging.getLogger("dragoman").level)
    if way == "environment":
        monkeypatch.setenv("DRAGOMAN_DEBUG", "1")
    run(*(["-v"] if way == "flag" else []), "check", "x.toml")
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_an_interrupt_exits_130(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dragoman.config.load", interrupted)
    assert run("check", "x.toml").code == 130


class Terminal(io.TextIOWrapper):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_payload_cannot_command_the_terminal_but_passes_a_pipe_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    content = "a\x1b[2J\tb\n\u202eé".encode() + b"\xff"
    for kind, shown in ((Terminal, "a�[2J\tb\n�é�".encode()), (io.TextIOWrapper, content)):
        raw = io.BytesIO()
        out = kind(raw, "utf-8")
        monkeypatch.setattr(sys, "stdout", out)
        write(content)
        assert raw.getvalue() == shown


def test_a_wrong_key_cannot_command_the_terminal(run, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('"\\u001b[2Jx" = 3\ndata = "\\u0000\\u001b[2J"')
    said = run("check", str(file))
    assert said.code == 2
    assert "\x1b" not in said.err
    assert "�[2Jx: there is no such key" in said.err


def test_what_a_peer_chose_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[2Jb\nc\u202e") == "a�[2Jb�c�"
    agent = {
        "agent": "[red]x\x1b[2J",
        "state": "online",
        "load": 1,
        "work_limit": 4,
        "card": {"skills": [{"id": "run"}]},
    }
    print_agents([agent])
    shown = capsys.readouterr().out
    assert "[red]x�[2J" in shown
    assert "1/4" in shown
    assert "run" in shown
    assert "\x1b" not in shown
