"""Shared subscriptions with real clients: one member a message, evenly, none lost when a member is cut off."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable

import paho.mqtt.client as mqtt

from tests.clients.mesh import MeshProcess

PATIENCE_S = 10


class Worker:
    """A paho client in the group; ``acks`` False: it takes messages and never acknowledges them."""

    def __init__(
        self, mesh: MeshProcess, name: str, seen: queue.Queue[tuple[str, bytes]], *, acks: bool = True
    ) -> None:
        ready: queue.Queue[int] = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, manual_ack=not acks)
        self.client.on_connect = lambda client, *_: client.subscribe("$share/crew/jobs/#", qos=1)
        self.client.on_subscribe = lambda *_: ready.put(1)
        self.client.on_message = lambda _, __, message: seen.put((name, message.payload))
        self.client.connect(*mesh.address("mqtt"))
        self.client.loop_start()
        ready.get(timeout=PATIENCE_S)

    def cut(self) -> None:
        """The connection breaks without a goodbye."""
        self.client.loop_stop()
        sock = self.client.socket()
        assert sock is not None
        sock.close()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def publish(mesh: MeshProcess, payloads: list[bytes]) -> None:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="boss")
    client.connect(*mesh.address("mqtt"))
    client.loop_start()
    for payload in payloads:
        client.publish("jobs/x", payload, qos=1).wait_for_publish(PATIENCE_S)
    client.disconnect()
    client.loop_stop()


def test_each_message_goes_to_one_member_and_the_work_is_shared(mesh_process: Callable[..., MeshProcess]) -> None:
    mesh = mesh_process(memory=True)
    seen: queue.Queue[tuple[str, bytes]] = queue.Queue()
    workers = [Worker(mesh, name, seen) for name in ("a", "b", "c")]
    sent = [str(n).encode() for n in range(60)]
    publish(mesh, sent)
    got = [seen.get(timeout=PATIENCE_S) for _ in sent]
    assert sorted(payload for _, payload in got) == sorted(sent)
    assert seen.empty()
    assert min(Counter(name for name, _ in got).values()) >= 15, "20 each, give or take who acknowledged first"
    for worker in workers:
        worker.close()


def test_what_a_member_held_when_it_was_cut_off_goes_to_another(mesh_process: Callable[..., MeshProcess]) -> None:
    mesh = mesh_process(memory=True)
    held: queue.Queue[tuple[str, bytes]] = queue.Queue()
    seen: queue.Queue[tuple[str, bytes]] = queue.Queue()
    mute = Worker(mesh, "mute", held, acks=False)
    sent = [str(n).encode() for n in range(5)]
    publish(mesh, sent)
    assert sorted(held.get(timeout=PATIENCE_S)[1] for _ in sent) == sent
    worker = Worker(mesh, "worker", seen)
    mute.cut()
    assert sorted(seen.get(timeout=PATIENCE_S)[1] for _ in sent) == sent
    worker.close()
