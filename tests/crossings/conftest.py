"""One mesh and one set of clients for all crossings; every cell has a channel of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragoman.adapters.serving.credentials import token_digest
from tests.clients.mesh import ANY_PORT, MeshProcess
from tests.crossings.calling import skills
from tests.crossings.outside import McpServer
from tests.crossings.outside_a2a import A2aServer
from tests.crossings.peers import TOKEN, USER, Peers

AGENTS = [f"{role}-{protocol}" for role in ("say", "see", "ask") for protocol in ("http", "mcp", "a2a")] + [
    "serve-http"
]
"""Of the user. ``serve-mcp`` and ``serve-a2a`` are the links'."""

CONFIG = f"""
[[links]]
name = "outside"
kind = "mcp"
agent = "serve-mcp"
address = "ADDRESS"

[[links]]
name = "outside-agent"
kind = "a2a"
agent = "serve-a2a"
address = "AGENT"

[[login.users]]
name = "{USER}"
tokens = ["{token_digest(TOKEN)}"]
agents = {AGENTS}

[[gate.rules]]
effect = "deny"
actions = ["publish"]
filters = ["closed/#"]
"""


@pytest.fixture(scope="session")
def outside() -> Iterator[McpServer]:
    server = McpServer(skills("mcp"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def outside_agent() -> Iterator[A2aServer]:
    server = A2aServer(skills("a2a"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory, outside: McpServer, outside_agent: A2aServer) -> Iterator[Peers]:
    config = CONFIG.replace("ADDRESS", outside.url).replace("AGENT", outside_agent.url)
    folder = tmp_path_factory.mktemp("crossings")
    with (
        MeshProcess(folder, config, memory=True, listeners=dict.fromkeys(("mqtt", "kafka", "http"), ANY_PORT)) as mesh,
        Peers(mesh) as found,
    ):
        yield found
