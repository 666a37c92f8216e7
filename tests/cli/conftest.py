"""The command line in the tests' own process: no start to wait for, the same words."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from dragoman import cli
from tests.cli.command_line import Said


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("DRAGOMAN_URL", raising=False)
    monkeypatch.delenv("DRAGOMAN_TOKEN", raising=False)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["dragoman", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return run
