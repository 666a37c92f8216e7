"""One mesh and one set of clients for all crossings; every cell has a channel of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragoman.adapters.serving.credentials import token_digest
from tests.clients.mesh import MeshProcess
from tests.crossings.peers import TOKEN, USER, Peers

AGENTS = [f"{role}-{protocol}" for role in ("say", "see", "ask", "serve") for protocol in ("http", "mcp")]

CONFIG = f"""
[[login.users]]
name = "{USER}"
tokens = ["{token_digest(TOKEN)}"]
agents = {AGENTS}
"""


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with MeshProcess(tmp_path_factory.mktemp("crossings"), CONFIG, memory=True) as mesh, Peers(mesh) as found:
        yield found
