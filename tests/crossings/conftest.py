"""One mesh and one set of clients for all crossings; every cell has a channel of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.mesh import MeshProcess
from tests.crossings.peers import Peers


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with MeshProcess(tmp_path_factory.mktemp("crossings")) as mesh, Peers(mesh) as found:
        yield found
