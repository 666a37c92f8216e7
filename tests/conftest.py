"""What every test may ask for: foreign tools, and meshes in processes of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman.build import built, stale
from tests.clients import tools
from tests.clients.mesh import MeshProcess


def pytest_configure(config: pytest.Config) -> None:
    """Says which of the two is tested: compiled modules hide their sources, whatever is edited there."""
    compiled = any(built())
    if compiled and os.environ.get("COMPILED") != "1":
        pytest.exit("compiled modules hide their sources: make build ARGS=--clean, or COMPILED=1 to test them", 2)
    if compiled and stale():
        pytest.exit(f"sources are newer than what is compiled of them ({', '.join(stale())}): make build", 2)
    if not compiled and os.environ.get("COMPILED") == "1":
        pytest.exit("COMPILED=1, but nothing is compiled: make build", 2)


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """``require("curl")`` is the tool's path. Absent: the test is skipped, under CI failed, with the command to run."""

    def path_of(name: str) -> str:
        try:
            return tools.find(name)
        except tools.ToolMissing as missing:
            if os.environ.get("CI") == "true":
                pytest.fail(str(missing))
            pytest.skip(str(missing))

    return path_of


@pytest.fixture
def mesh_process(tmp_path: Path) -> Iterator[Callable[..., MeshProcess]]:
    """Starts meshes that end with the test: ``mesh_process(config, memory=…, listeners=…)`` is a ``MeshProcess``."""
    with contextlib.ExitStack() as running:
        count = 0

        def start(config: str = "", **options: Any) -> MeshProcess:
            nonlocal count
            count += 1
            return running.enter_context(MeshProcess(tmp_path / f"mesh{count}", config, **options))

        yield start
