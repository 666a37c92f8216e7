"""Batches taken in on a real broker: what is answered when, what a producer says twice, and what is refused."""

from __future__ import annotations

import uuid

import pytest

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.broker.gate_settings import RuleSettings
from dragoman.broker.settings import BrokerSettings
from tests.broker.manual_log import FAILED
from tests.kafka.batch_forms import Record, batch, by_aiokafka, numbered
from tests.kafka.data_mesh import BOB, DataMesh, fetching, producing, records_in, values_in

BOB_IS_MUTE = RuleSettings(effect="deny", who=("bob",), actions=("publish",), filters=("closed/#",))


def said(*values: bytes | None, codec: int = 0) -> bytes:
    return by_aiokafka([Record(value=value) for value in values], codec)


def test_what_is_said_is_kept_as_it_came_behind_what_was_said_before() -> None:
    mesh = DataMesh()
    client = mesh.client()
    assert client.produce("a.b", said(b"1", b"2")).base_offset == 0
    second = said(b"3", codec=1)
    answer = client.produce("a.b", second)
    assert (answer.error_code, answer.base_offset, answer.log_append_time_ms) == (0, 2, -1)
    fetched = client.fetch("a.b", 2)
    assert bytes(fetched.records)[16:] == second[16:]
    assert values_in(client.fetch("a.b", 0)) == [(0, b"1"), (1, b"2"), (2, b"3")]
    assert mesh.broker.metrics.messages_in == 3


@pytest.mark.parametrize("version", range(3, 14))
def test_every_version_is_answered(version: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    topic = mesh.topic("a/b")
    request = producing("a.b", said(b"x"))
    if version >= 13:
        request.topic_data[0].topic_id = mesh.realm.names.id_of("a.b", topic.number)
    answer = client.answer(request, version)
    ((row,),) = [topic.partition_responses for topic in answer.responses]
    assert (row.index, row.error_code, row.base_offset) == (0, 0, 0)
    if version >= 13:
        assert answer.responses[0].topic_id == request.topic_data[0].topic_id
    else:
        assert answer.responses[0].name == "a.b"


def test_an_id_nobody_was_given_is_unknown() -> None:
    mesh = DataMesh()
    request = producing("", said(b"x"))
    request.topic_data[0].topic_id = uuid.uuid4()
    answer = mesh.client().answer(request, 13)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert answer.responses[0].topic_id == request.topic_data[0].topic_id


def test_an_id_of_a_topic_that_was_made_anew_is_unknown() -> None:
    mesh = DataMesh()
    client = mesh.client()
    topic = mesh.topic("a")
    request = producing("", said(b"x"))
    request.topic_data[0].topic_id = mesh.realm.names.id_of("a", topic.number)
    mesh.broker.topics.delete(client.session, topic)
    mesh.topic("a")
    answer = client.answer(request, 13)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


def test_verbs_go_by_id_as_well() -> None:
    mesh = DataMesh()
    client = mesh.client()
    described = client.answer(data.MetadataRequest(topics=[data.MetadataRequestTopic(name="mesh.agents")]), 12)
    request = producing("", by_aiokafka([Record(b"nobody", None)]))
    request.topic_data[0].topic_id = described.topics[0].topic_id
    (row,) = client.answer(request, 13).responses[0].partition_responses
    assert row.error_code == ErrorCode.INVALID_RECORD, "the record was read: there is no such agent to take leave"


# -- answered when it is safe ----------------------------------------------------------------------


@pytest.mark.parametrize("acks", [1, -1])
def test_nothing_is_answered_before_it_is_safe(acks: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.ask(producing("a", said(b"x"), acks=acks), 9)
    mesh.turn()
    assert client.read() == []
    mesh.commit()
    assert client.got().responses[0].partition_responses[0].base_offset == 0


def test_with_acks_0_nothing_is_answered_and_it_is_kept() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.ask(producing("a", said(b"x"), acks=0), 9)
    client.ask(producing("a", b"nonsense", acks=0), 9)
    last = client.ask(data.MetadataRequest(topics=[]), 12)
    assert [correlation for correlation, _ in client.read()] == [last]
    mesh.commit()
    assert client.read() == []
    assert values_in(client.fetch("a", 0)) == [(0, b"x")]
    assert client.session.idle


def test_who_wants_no_answers_is_not_read_faster_than_the_disk_writes() -> None:
    mesh = DataMesh(broker=BrokerSettings(uncommitted_session_bytes_max=5_000))
    client = mesh.client()
    large = said(b"x" * 4_000)
    client.ask(producing("a", large, acks=0), 9)
    assert not client.wire.held
    client.ask(producing("a", large, acks=0), 9)
    assert client.wire.held
    mesh.commit()
    assert not client.wire.held


@pytest.mark.parametrize("acks", [2, -2, 127])
def test_other_acks_are_refused_for_every_partition(acks: int) -> None:
    mesh = DataMesh()
    answer = mesh.client().answer(producing("a", said(b"x"), said(b"y"), acks=acks), 9)
    codes = [row.error_code for row in answer.responses[0].partition_responses]
    assert codes == [ErrorCode.INVALID_REQUIRED_ACKS] * 2
    assert mesh.broker.topics.find("a") is None


def test_transactions_are_refused() -> None:
    answer = DataMesh().client().answer(producing("a", said(b"x"), transactional="t"), 9)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_a_commit_that_fails_is_an_error_and_the_same_again_is_taken() -> None:
    mesh = DataMesh()
    client = mesh.client()
    mesh.topic("a")
    client.ask(producing("a", numbered(0), numbered(0)), 9)
    mesh.refuse()
    row, other = client.got().responses[0].partition_responses
    assert (row.error_code, row.base_offset) == (ErrorCode.KAFKA_STORAGE_ERROR, -1)
    assert row.error_message == "the disk said no"
    assert other.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert client.produce("a", numbered(0)).error_code == 0
    assert mesh.broker.metrics.duplicates == 0
    assert client.produce("a", numbered(1)).error_code == 0


def test_a_disk_that_is_full_is_said_for_the_partition() -> None:
    mesh = DataMesh()
    client = mesh.client()
    mesh.topic("a")
    mesh.log.full = FAILED
    assert client.produce("a", numbered(0)).error_code == ErrorCode.KAFKA_STORAGE_ERROR
    mesh.log.full = None
    answer = client.produce("a", numbered(0))
    assert (answer.error_code, answer.base_offset) == (0, 0)
    assert mesh.broker.metrics.duplicates == 0


# -- where it goes ---------------------------------------------------------------------------------


def test_a_topic_nobody_knows_comes_to_be() -> None:
    mesh = DataMesh(partitions=3)
    assert mesh.client().produce("x.y", said(b"1"), partition=2).base_offset == 0
    topic = mesh.broker.topics.find("x/y")
    assert topic is not None
    assert [channel.visible for channel in topic.partitions] == [0, 0, 1]


def test_unless_that_is_off() -> None:
    mesh = DataMesh(auto_create=False)
    client = mesh.client()
    assert client.produce("x", said(b"1")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert mesh.broker.channels.find("x") is None
    mesh.topic("x")
    assert client.produce("x", said(b"1")).error_code == 0


@pytest.mark.parametrize("partition", [-1, 1, 1 << 30])
def test_a_partition_that_is_not_there(partition: int) -> None:
    mesh = DataMesh()
    assert mesh.client().produce("x", said(b"1"), partition=partition).error_code == 3


@pytest.mark.parametrize("topic", ["", ".", "a b", "x" * 250, "a_xzz", "+", "$SYS.broker"])
def test_what_is_no_topic_is_refused(topic: str) -> None:
    mesh = DataMesh()
    answer = mesh.client().produce(topic, said(b"1"))
    assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert answer.error_message


def test_who_may_not_publish_is_told_so() -> None:
    mesh = DataMesh(BOB_IS_MUTE)
    bob = mesh.client(BOB)
    answer = bob.produce("closed.x", said(b"1"))
    assert answer.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert mesh.broker.channels.find("closed/x") is None
    assert bob.produce("open.x", said(b"1")).error_code == 0
    assert mesh.client().produce("closed.x", said(b"1")).error_code == 0


def test_the_topic_says_how_large_a_batch_may_be() -> None:
    mesh = DataMesh(batch_bytes_max=2_000)
    client = mesh.client()
    mesh.topic("small", max_message_bytes="100")
    one, other = said(b"x" * 500), said(b"x" * 2_500)
    assert client.produce("large", one).error_code == 0
    assert client.produce("small", one).error_code == ErrorCode.MESSAGE_TOO_LARGE
    assert client.produce("large", other).error_code == ErrorCode.MESSAGE_TOO_LARGE
    mesh.topic("huge", max_message_bytes="3000")
    assert client.produce("huge", other).error_code == 0


def test_no_records_at_all_and_two_batches_are_invalid() -> None:
    mesh = DataMesh(partitions=3)
    request = producing("a", None, said(b"1") * 2, said(b"1"))
    rows = mesh.client().answer(request, 9).responses[0].partition_responses
    assert [row.error_code for row in rows] == [ErrorCode.INVALID_RECORD, ErrorCode.INVALID_RECORD, 0]
    assert [row.base_offset for row in rows] == [-1, -1, 0]


def test_zstd_is_refused_before_version_7() -> None:
    mesh = DataMesh()
    client = mesh.client()
    body = said(b"1", codec=4)
    assert client.produce("a", body, version=6).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert client.produce("a", body, version=7).error_code == 0


def test_the_answer_says_where_the_log_begins() -> None:
    mesh = DataMesh()
    client = mesh.client()
    for _ in range(3):
        client.produce("a", said(b"1"))
    mesh.broker.topics.truncate(client.session, mesh.channel("a"), 2)
    mesh.commit()
    assert client.produce("a", said(b"1")).log_start_offset == 2


def test_a_topic_deleted_while_a_producer_goes_on_is_made_again() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", numbered(0))
    topic = mesh.broker.topics.find("a")
    assert topic is not None
    mesh.broker.topics.delete(client.session, topic)
    mesh.commit()
    answer = client.produce("a", numbered(1))
    assert answer.error_code == 0
    assert mesh.channel("a").visible == answer.base_offset + 1


# -- to others, and what asks to be read -----------------------------------------------------------


def test_subscribers_get_every_record_once_it_is_safe() -> None:
    mesh = DataMesh()
    party = mesh.party("a/+")
    client = mesh.client()
    client.ask(producing("a.b", by_aiokafka([Record(b"k", b"1"), Record(None, None)])), 9)
    mesh.turn()
    assert party.got == []
    mesh.commit()
    assert [(m.name, m.payload, m.offset) for m in party.got] == [("a/b", b"1", 0), ("a/b", None, 1)]
    assert party.got[0].envelope is not None
    assert party.got[0].envelope.key == b"k"


def test_a_batch_nobody_can_open_is_kept_and_its_subscribers_miss_it() -> None:
    mesh = DataMesh()
    party = mesh.party("a")
    client = mesh.client()
    odd = batch(b"\xff" * 20)
    assert client.produce("a", odd).error_code == 0
    client.produce("a", said(b"next"))
    assert [m.payload for m in party.got] == [b"next"]
    assert mesh.broker.metrics.dropped["bundle-unreadable"] == 1


@pytest.mark.parametrize("codec", range(5))
def test_a_record_that_asks_to_be_retained_is(codec: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    records = [Record(value=b"plain"), Record(value=b"on", headers=(("mesh-retain", b"true"), ("h", b"1")))]
    assert client.produce("lamp", by_aiokafka(records, codec)).base_offset == 0
    retained = mesh.broker.retained_of("lamp")
    assert retained is not None
    assert retained.payload == b"on"
    assert values_in(client.fetch("lamp", 0)) == [(0, b"plain"), (1, b"on")]
    assert client.produce("lamp", by_aiokafka([Record(value=None, headers=(("mesh-retain", b"1"),))])).base_offset == 2
    assert mesh.broker.retained_of("lamp") is None


def test_what_was_said_record_by_record_leaves_to_kafka_as_it_came() -> None:
    mesh = DataMesh()
    client = mesh.client()
    odd = Record(
        b"k", b"on", (("mesh-retain", b"true"), ("z", None), ("content-type", b"a"), ("content-type", b"b")), 5
    )
    client.produce("lamp", by_aiokafka([odd]))
    assert records_in(client.fetch("lamp", 0)) == [(0, odd)]


def test_a_header_that_only_speaks_of_retaining_changes_nothing() -> None:
    mesh = DataMesh()
    client = mesh.client()
    record = Record(value=b"on", headers=(("mesh-retain", b"false"),))
    assert client.produce("lamp", by_aiokafka([record, Record(value=b"mesh-retain")])).base_offset == 0
    assert mesh.broker.retained_of("lamp") is None
    assert values_in(client.fetch("lamp", 0)) == [(0, b"on"), (1, b"mesh-retain")]


def test_retained_records_said_twice_are_kept_once() -> None:
    mesh = DataMesh()
    client = mesh.client()
    builder = bytearray(by_aiokafka([Record(value=b"on", headers=(("mesh-retain", b"true"),))]))
    body = batch(bytes(builder[61:]), producer=(7, 0, 0), base_ms=1, newest_ms=1)
    assert client.produce("lamp", body).base_offset == 0
    assert client.produce("lamp", body).base_offset == 0
    assert mesh.channel("lamp").visible == 1
    assert client.produce("lamp", numbered(1)).base_offset == 1


def test_a_batch_that_asks_to_be_read_and_cannot_be_is_invalid() -> None:
    mesh = DataMesh()
    answer = mesh.client().produce("lamp", batch(b"mesh-retain and nothing of a record"))
    assert (answer.error_code, answer.base_offset) == (ErrorCode.INVALID_RECORD, -1)
    assert mesh.channel("lamp").visible == 0


def test_a_retained_record_whose_commit_fails_is_an_error() -> None:
    mesh = DataMesh()
    client = mesh.client()
    mesh.topic("lamp")
    client.ask(producing("lamp", by_aiokafka([Record(value=b"on", headers=(("mesh-retain", b"true"),))])), 9)
    mesh.refuse()
    row = client.got().responses[0].partition_responses[0]
    assert (row.error_code, row.base_offset) == (ErrorCode.KAFKA_STORAGE_ERROR, -1)
    mesh.commit()
    assert mesh.broker.retained_of("lamp") is None


def test_a_verb_nobody_knows_is_refused_with_a_sentence() -> None:
    mesh = DataMesh()
    answer = mesh.client().produce("mesh.dance", said(b"1"))
    assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert "is no verb" in answer.error_message
    assert mesh.client().produce("mesh.dance", b"short").error_code == ErrorCode.CORRUPT_MESSAGE
    assert mesh.broker.topics.find("mesh/dance") is None


def test_what_is_kept_is_read_by_the_process_after_a_crash() -> None:
    mesh = DataMesh()
    mesh.client().produce("a", said(b"1", b"2"))
    after = mesh.crashed()
    client = after.client()
    assert values_in(client.fetch("a", 0)) == [(0, b"1"), (1, b"2")]
    assert client.produce("a", said(b"3")).base_offset == 2
    client.ask(fetching(("a", 0, 2)), 12)
    after.commit()
    assert values_in(client.got().responses[0].partitions[0]) == [(2, b"3")]
