"""What every test may ask for: foreign tools, and meshes in processes of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import tools
from tests.clients.mesh import MeshProcess


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
