"""What tests with foreign Kafka clients may ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kafka.kafka_clients import Client
from tests.kafka.kafka_clients_foreign import Foreign, Java


@pytest.fixture(scope="session")
def ready(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Client], Client]:
    """``ready(client)`` is the client, able to run; else the test is skipped, under CI failed."""

    def prepared(client: Client) -> Client:
        if isinstance(client, Foreign):
            require(client.tool)
        if isinstance(client, Java):
            client.build(tmp_path_factory.mktemp("java"))
        return client

    return prepared
