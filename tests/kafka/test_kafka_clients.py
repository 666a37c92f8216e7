"""Foreign Kafka clients on a real mesh: each does all it can, and each reads what any other said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.clients.mesh import MeshProcess
from tests.kafka.kafka_bare import stored_codec
from tests.kafka.kafka_clients import BLOB, CODECS, Administrator, Client, Record, Refused, Where, said_by, seen_by
from tests.kafka.kafka_clients_aiokafka import Aiokafka
from tests.kafka.kafka_clients_foreign import Java, KafkaJs, Kcat, Platformatic
from tests.kafka.kafka_clients_python import Confluent, KafkaPython

pytestmark = pytest.mark.slow

FOUR_PARTITIONS = "[kafka]\npartitions = 4\n"
CLIENTS: tuple[Client, ...] = (Aiokafka(), KafkaPython(), Confluent(), KafkaJs(), Platformatic(), Java())
REFERENCE = Confluent()


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest, ready: Callable[[Client], Client]) -> Client:
    """Each in turn."""
    return ready(request.param)


def at(mesh: MeshProcess) -> Where:
    host, port = mesh.address("kafka")
    return Where(f"{host}:{port}")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """One mesh for all; each test uses topics of its own. It must not have met anything it does not serve."""
    listeners = {"kafka": "127.0.0.1:0"}
    folder = tmp_path_factory.mktemp("kafka")
    with MeshProcess(folder, FOUR_PARTITIONS, memory=True, listeners=listeners, arguments=["-v"]) as process:
        yield process
        words = ("not offered", "refused", "fault", "Traceback")
        complaints = [line for line in process.stderr.splitlines() if any(word in line for word in words)]
        assert not complaints


def test_what_is_said_arrives_as_it_was_in_every_codec(mesh: MeshProcess, client: Client):
    records = said_by(client)
    for codec in client.codecs:
        topic = f"said.{client.name}.{codec}"
        assert client.produce(at(mesh), topic, records, codec) == list(range(len(records))), codec
        assert REFERENCE.read(at(mesh), topic, f"reads.{topic}", len(records)) == records, codec
        assert stored_codec(mesh, topic) == CODECS.index(codec)


def test_what_others_said_is_read_in_every_codec(mesh: MeshProcess, client: Client):
    records = said_by(REFERENCE)
    for codec in client.codecs:
        topic = f"heard.{client.name}.{codec}"
        REFERENCE.produce(at(mesh), topic, records, codec)
        assert client.read(at(mesh), topic, f"reads.{topic}", len(records)) == seen_by(client, records), codec


def test_a_group_goes_on_where_it_was(mesh: MeshProcess, client: Client):
    topic = f"goes.on.{client.name}"
    first = [Record(b"k", b"%d" % n) for n in range(5)]
    client.produce(at(mesh), topic, first)
    assert client.read(at(mesh), topic, topic, 5) == first
    more = [Record(b"k", b"more %d" % n) for n in range(3)]
    assert client.produce(at(mesh), topic, more) == [5, 6, 7]
    assert client.read(at(mesh), topic, topic, 3) == more
    assert client.read(at(mesh), topic, f"{topic}.others", 8) == first + more


def test_two_members_share_and_one_leaves(mesh: MeshProcess, client: Client):
    topic = f"shared.{client.name}"
    REFERENCE.produce(at(mesh), topic, [Record(b"k", b"v")])
    shares = client.share(at(mesh), topic, topic)
    assert sorted(shares.both[0] | shares.both[1]) == [0, 1, 2, 3]
    assert sorted(shares.alone) == [0, 1, 2, 3]


def test_who_waits_is_woken(mesh: MeshProcess, client: Client):
    assert client.woken_s(at(mesh), f"woken.{client.name}") < 2.0


def test_a_record_that_is_too_large(mesh: MeshProcess, client: Client):
    topic = f"large.{client.name}"
    with pytest.raises(Refused, match=r"(?i)large"):
        client.produce(at(mesh), topic, [Record(b"k", BLOB * 800)])
    assert client.produce(at(mesh), topic, [Record(b"k", BLOB)]) == [0]


def test_a_topic_nobody_knows_where_none_comes_to_be(mesh_process: Callable[..., MeshProcess], client: Client):
    mesh = mesh_process("[kafka]\nauto_create = false\n", memory=True, listeners={"kafka": "127.0.0.1:0"})
    with pytest.raises(Refused, match=r"(?i)unknown|metadata|not (present|host)"):
        client.produce(at(mesh), "nobody.knows", [Record(b"k", b"v")])


def test_kcat_in_every_codec_and_a_group(mesh: MeshProcess, require: Callable[[str], str]):
    require("kcat")
    kcat = Kcat()
    records = said_by(kcat)
    for codec in CODECS:
        topic = f"kcat.{codec}"
        kcat.produce(at(mesh), topic, records, codec)
        assert stored_codec(mesh, topic) == CODECS.index(codec)
        assert REFERENCE.read(at(mesh), topic, f"reads.{topic}", 3) == records, codec
        assert kcat.read(at(mesh), topic, "kcat", 3) == records, codec
    more = [Record(b"new", b"more", records[0].headers)]
    kcat.produce(at(mesh), "kcat.none", more)
    assert kcat.read(at(mesh), "kcat.none", "kcat", 1) == more


def test_kcat_sees_nulls_and_is_refused_what_is_too_large(mesh: MeshProcess, require: Callable[[str], str]):
    require("kcat")
    kcat = Kcat()
    records = [Record(b"gone", None), Record(None, b"no key"), Record(b"", b"")]
    REFERENCE.produce(at(mesh), "kcat.nulls", records)
    assert kcat.read(at(mesh), "kcat.nulls", "kcat", 3) == records
    with pytest.raises(Refused, match=r"(?i)large"):
        kcat.produce(at(mesh), "kcat.large", [Record(b"k", b"x" * 2_000_000, (("a", b"1"),))])


ADMINISTRATORS = tuple(client for client in CLIENTS if hasattr(client, "create"))


@pytest.mark.parametrize("admin", ADMINISTRATORS, ids=lambda client: client.name)
def test_topics_are_made_listed_and_removed(mesh: MeshProcess, ready: Callable[[Client], Client], admin: Administrator):
    ready(admin)
    name = f"made.by.{admin.name}"
    admin.create(at(mesh), name, 7)
    assert admin.topics(at(mesh))[name] == 7
    with pytest.raises(Refused, match=r"(?i)exists"):
        admin.create(at(mesh), name, 7)
    REFERENCE.produce(at(mesh), name, [Record(b"k", b"v")])
    admin.delete(at(mesh), name)
    assert name not in admin.topics(at(mesh))
    admin.create(at(mesh), name, 2)
    assert admin.topics(at(mesh))[name] == 2
    anew = [Record(b"k", b"anew")]
    REFERENCE.produce(at(mesh), name, anew)
    assert admin.read(at(mesh), name, f"reads.{name}", 1) == anew
