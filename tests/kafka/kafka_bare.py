"""A socket that speaks Kafka by hand: to say what no client says, and to see what none shows."""

from __future__ import annotations

import socket
from typing import Any

from dragoman.adapters.kafka.apis import BY_KEY, ApiKey
from dragoman.adapters.kafka.schema import form_of
from dragoman.adapters.kafka.shapes_data import FetchPartition, FetchRequest, FetchTopic
from dragoman.adapters.kafka.wire import Cursor, Output
from tests.clients.mesh import MeshProcess

WAIT_S = 20.0
ATTRIBUTES_AT = 21
"""Where a record batch says how it is compressed: the low byte is the next one."""


def request(key: ApiKey, version: int, body: object, correlation: int = 1) -> bytes:
    """A whole request, with its length."""
    api = BY_KEY[key]
    flexible = version >= api.flexible
    output = Output()
    output.int16(key)
    output.int16(version)
    output.int32(correlation)
    output.int16(4)
    output.tail += b"bare"
    if flexible:
        output.uvarint(0)
    form_of(api.request, version, flexible).write(output, body)
    content = b"".join(output.parts())
    return len(content).to_bytes(4, "big") + content


class Bare:
    """One connection."""

    def __init__(self, mesh: MeshProcess, listener: str = "kafka") -> None:
        self.socket = socket.create_connection(mesh.address(listener), timeout=WAIT_S)
        self._correlation = 0

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self) -> bytes | None:
        """The next answer without its length; None when the mesh has closed."""
        head = self._exactly(4)
        return None if head is None else self._exactly(int.from_bytes(head, "big"))

    def ask(self, key: ApiKey, version: int, body: object) -> Any:
        """The answer to a request, read."""
        self._correlation += 1
        self.send(request(key, version, body, self._correlation))
        return self.answer(key, version, self._correlation)

    def answer(self, key: ApiKey, version: int, correlation: int) -> Any:
        """The next answer, which must be the one to this request."""
        frame = self.frame()
        assert frame is not None, "closed instead of an answer"
        assert int.from_bytes(frame[:4], "big") == correlation
        api = BY_KEY[key]
        flexible = version >= api.flexible
        tagged = flexible and key != ApiKey.API_VERSIONS
        cursor = Cursor(memoryview(frame)[5 if tagged else 4 :])
        answer = form_of(api.response, version, flexible).read(cursor)
        assert not cursor.left, f"{cursor.left} bytes nobody reads"
        return answer

    def _exactly(self, count: int) -> bytes | None:
        found = b""
        while len(found) < count:
            try:
                part = self.socket.recv(count - len(found))
            except ConnectionResetError:
                return None
            if not part:
                return None
            found += part
        return found


def fetch_request(topic: str, offset: int = 0, wait_ms: int = 0, max_bytes: int = 1 << 20) -> FetchRequest:
    """Partition 0 of a topic, by name (below version 13)."""
    place = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=max_bytes)
    return FetchRequest(
        max_wait_ms=wait_ms, min_bytes=1, max_bytes=max_bytes, topics=[FetchTopic(topic, partitions=[place])]
    )


def stored_codec(mesh: MeshProcess, topic: str) -> int:
    """How the first batch of a topic is compressed."""
    with Bare(mesh) as bare:
        answer = bare.ask(ApiKey.FETCH, 11, fetch_request(topic))
    batch = bytes(answer.responses[0].partitions[0].records)
    return batch[ATTRIBUTES_AT + 1] & 0x07
