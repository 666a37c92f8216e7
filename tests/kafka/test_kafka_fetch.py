"""What is fetched, from where, how much of it, and how long a fetch waits; on a real broker driven by hand."""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any

import pytest

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.broker.gate_settings import RuleSettings
from dragoman.broker.settings import BrokerSettings
from tests.kafka.batch_forms import Record, by_aiokafka, read_by_kafka_python
from tests.kafka.data_mesh import BOB, Client, DataMesh, fetching, producing, records_in, values_in


def blind(action: str = "read") -> RuleSettings:
    return RuleSettings(effect="deny", who=("bob",), actions=(action,), filters=("closed/#",))


def said(*values: bytes | None) -> bytes:
    return by_aiokafka([Record(value=value) for value in values])


def rows(answer: Any) -> list[Any]:
    return [row for topic in answer.responses for row in topic.partitions]


def parked(client: Client, *wanted: tuple[str, int, int], **how: Any) -> None:
    """Asks for what is not there yet."""
    client.ask(fetching(*wanted, **how), 12)
    client.mesh.commit()
    assert client.read() == []


# -- from where ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(4, 19))
def test_every_version_is_answered(version: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a.b", said(b"1", b"2"))
    request = fetching(("a.b", 0, 0))
    if version >= 13:
        request.topics[0].topic_id = mesh.realm.names.id_of("a.b", mesh.channel("a/b").number)
    answer = client.answer(request, version)
    (row,) = rows(answer)
    assert (row.partition_index, row.error_code, row.high_watermark, row.last_stable_offset) == (0, 0, 2, 2)
    assert values_in(row) == [(0, b"1"), (1, b"2")]
    assert answer.responses[0].topic_id == request.topics[0].topic_id or version < 13
    assert answer.responses[0].topic == "a.b" or version >= 13
    if version >= 5:
        assert row.log_start_offset == 0
    if version >= 11:
        assert row.preferred_read_replica == -1
    assert not row.aborted_transactions
    if version >= 7:
        assert (answer.error_code, answer.session_id) == (0, 0)


def test_from_inside_a_batch_the_whole_batch_comes() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", said(b"0", b"1"))
    client.produce("a", said(b"2", b"3", b"4"))
    assert values_in(client.fetch("a", 3)) == [(2, b"2"), (3, b"3"), (4, b"4")]
    assert values_in(client.fetch("a", 2)) == [(2, b"2"), (3, b"3"), (4, b"4")]
    assert values_in(client.fetch("a", 1))[0] == (0, b"0")


@pytest.mark.parametrize("offset", [-1, 0, 1, 5, 1 << 62])
def test_out_of_range_is_answered_at_once_with_the_range(offset: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    for index in range(4):
        client.produce("a", said(b"%d" % index))
    mesh.broker.topics.truncate(client.session, mesh.channel("a"), 2)
    mesh.commit()
    row = client.fetch("a", offset, wait_ms=30_000)
    assert row.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert (row.log_start_offset, row.high_watermark) == (2, 4)
    assert not row.records
    assert values_in(client.fetch("a", 2)) == [(2, b"2"), (3, b"3")]
    assert client.fetch("a", 4).error_code == 0


@pytest.mark.parametrize(("topic", "partition"), [("nowhere", 0), ("a", 1), ("a", -1), ("a b", 0), ("mesh.agents", 0)])
def test_what_is_not_there_is_said_at_once(topic: str, partition: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", said(b"x"))
    (row,) = rows(client.answer(fetching((topic, partition, 0)), 12))
    assert row.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert row.partition_index == partition


def test_an_unknown_id_has_its_own_error() -> None:
    client = DataMesh().client()
    request = fetching(("", 0, 0))
    request.topics[0].topic_id = uuid.uuid4()
    (row,) = rows(client.answer(request, 13))
    assert row.error_code == ErrorCode.UNKNOWN_TOPIC_ID


@pytest.mark.parametrize("action", ["read", "subscribe", "receive"])
def test_who_may_not_read_is_told_so_and_gets_the_rest(action: str) -> None:
    mesh = DataMesh(blind(action))
    alice, bob = mesh.client(), mesh.client(BOB)
    for topic in ("closed.a", "open.a"):
        alice.produce(topic, said(b"x"))
    closed, opened = rows(bob.answer(fetching(("closed.a", 0, 0), ("open.a", 0, 0)), 12))
    assert closed.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert not closed.records
    assert values_in(opened) == [(0, b"x")]


def test_sessions_of_fetches_are_not_kept() -> None:
    client = DataMesh().client()
    request = fetching(("a", 0, 0))
    request.session_id = 77
    answer = client.answer(request, 12)
    assert (answer.error_code, answer.session_id, answer.responses) == (ErrorCode.FETCH_SESSION_ID_NOT_FOUND, 0, [])


# -- waiting ---------------------------------------------------------------------------------------


def test_a_fetch_of_nothing_is_answered_at_once() -> None:
    assert DataMesh().client().answer(fetching(), 12).responses == []


def test_what_another_session_produces_wakes_it_once_it_is_safe() -> None:
    mesh = DataMesh()
    reader, writer = mesh.client(), mesh.client()
    mesh.topic("a")
    parked(reader, ("a", 0, 0))
    writer.ask(producing("a", said(b"x")), 9)
    mesh.turn()
    assert reader.read() == []
    mesh.commit()
    (row,) = rows(reader.got())
    assert (values_in(row), row.high_watermark) == ([(0, b"x")], 1)


def test_a_channel_that_keeps_nothing_wakes_it_as_well() -> None:
    mesh = DataMesh()
    reader = mesh.client()
    mesh.say("live/temp", b"before")
    parked(reader, ("live.temp", 0, 1))
    mesh.say("live/temp", b"21.5", key=b"k")
    mesh.commit()
    ((offset, record),) = records_in(rows(reader.got())[0])
    assert (offset, record.value, record.key) == (1, b"21.5", b"k")
    assert mesh.broker.topics.find("live/temp") is None


def test_the_end_of_the_topic_wakes_it() -> None:
    mesh = DataMesh()
    reader = mesh.client()
    topic = mesh.topic("a")
    other = mesh.topic("b")
    parked(reader, ("a", 0, 0), ("b", 0, 0))
    mesh.broker.topics.delete(reader.session, topic)
    mesh.commit()
    codes = [row.error_code for row in rows(reader.got())]
    assert codes == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0]
    assert not other.channel.watchers


def test_when_the_wait_is_over_there_may_be_nothing() -> None:
    mesh = DataMesh()
    reader = mesh.client()
    mesh.topic("a")
    parked(reader, ("a", 0, 0), wait_ms=500)
    mesh.advance(499)
    assert reader.read() == []
    mesh.advance(2)
    (row,) = rows(reader.got())
    assert (row.error_code, row.records or b"", row.high_watermark) == (0, b"", 0)


def test_nobody_waits_longer_than_is_configured() -> None:
    mesh = DataMesh(fetch_wait_ms_max=1_000)
    reader = mesh.client()
    mesh.topic("a")
    parked(reader, ("a", 0, 0), wait_ms=1 << 30)
    mesh.advance(1_001)
    assert len(reader.read()) == 1
    assert values_in(reader.fetch("a", 0, wait_ms=-5)) == [], "nor less than not at all"


def test_too_little_waits_for_more_and_comes_when_the_wait_is_over() -> None:
    mesh = DataMesh()
    reader, writer = mesh.client(), mesh.client()
    writer.produce("a", said(b"1"))
    parked(reader, ("a", 0, 0), min_bytes=1_000, wait_ms=500)
    writer.produce("b", said(b"x" * 2_000))
    assert reader.read() == [], "another topic is nobody's business"
    mesh.advance(501)
    assert values_in(rows(reader.got())[0]) == [(0, b"1")]


def test_several_partitions_make_enough_together() -> None:
    mesh = DataMesh()
    reader, writer = mesh.client(), mesh.client()
    writer.produce("a", said(b"x" * 300))
    mesh.topic("b")
    parked(reader, ("a", 0, 0), ("b", 0, 0), min_bytes=800)
    writer.produce("b", said(b"y" * 600))
    first, second = rows(reader.got())
    assert [values_in(first), values_in(second)] == [[(0, b"x" * 300)], [(0, b"y" * 600)]]
    assert (first.high_watermark, second.high_watermark) == (1, 1)


def test_enough_is_not_waited_for() -> None:
    mesh = DataMesh()
    reader = mesh.client()
    reader.produce("a", said(b"x"))
    assert values_in(reader.fetch("a", 0, wait_ms=30_000, min_bytes=1)) == [(0, b"x")]
    assert values_in(reader.fetch("a", 1, wait_ms=30_000, min_bytes=0)) == []


def test_who_is_gone_leaves_no_watcher_and_no_read_behind() -> None:
    mesh = DataMesh()
    reader, other = mesh.client(), mesh.client()
    mesh.topic("a")
    parked(reader, ("a", 0, 0))
    parked(other, ("a", 0, 0))
    assert len(mesh.channel("a").watchers or ()) == 2
    reader.session.gone()
    assert len(mesh.channel("a").watchers or ()) == 1
    mesh.log.held_reads = deque()
    mesh.client().ask(producing("a", said(b"x")), 9)
    mesh.commit()
    other.session.gone()
    assert not mesh.channel("a").watchers
    while mesh.log.answer():
        mesh.commit()
    mesh.advance(60_000, 10_000)
    assert (reader.read(), other.read()) == ([], [])


def test_a_fetch_is_answered_once_though_much_happens_at_once() -> None:
    mesh = DataMesh()
    reader, writer = mesh.client(), mesh.client()
    topic = mesh.topic("a")
    parked(reader, ("a", 0, 0), wait_ms=500)
    writer.ask(producing("a", said(b"1")), 9)
    mesh.log.commit()
    mesh.broker.topics.delete(writer.session, topic)
    mesh.clock.advance(501)
    mesh.commit()
    assert len(reader.read()) == 1


def test_what_was_taken_away_while_it_was_read_is_no_end() -> None:
    mesh = DataMesh()
    reader = mesh.client()
    for value in (b"1", b"2"):
        reader.produce("a", said(value))
    mesh.log.held_reads = deque()
    reader.ask(fetching(("a", 0, 0)), 12)
    mesh.broker.topics.truncate(reader.session, mesh.channel("a"), 2)
    mesh.commit()
    assert mesh.log.answer()
    mesh.commit()
    assert reader.read() == [], "there is nothing yet behind what is gone"
    writer = mesh.client()
    writer.ask(producing("a", said(b"3")), 9)
    mesh.commit()
    assert mesh.log.answer()
    mesh.commit()
    (row,) = rows(reader.got())
    assert (values_in(row), row.log_start_offset) == ([(2, b"3")], 2)


# -- how much --------------------------------------------------------------------------------------


def test_a_partition_gives_as_many_batches_as_fit_and_at_least_one() -> None:
    mesh = DataMesh()
    client = mesh.client()
    size = len(said(b"x" * 1_000))
    for _ in range(4):
        client.produce("a", said(b"x" * 1_000))
    for room, count in ((1, 1), (size, 1), (size + 1, 1), (2 * size, 2), (3 * size + 5, 3), (1 << 20, 4)):
        assert len(values_in(client.fetch("a", 0, partition_bytes=room))) == count, room
    assert len(values_in(client.fetch("a", 0, partition_bytes=-1))) == 1
    assert len(values_in(client.fetch("a", 0, partition_bytes=0))) == 1


def test_an_answer_keeps_to_its_bytes_but_for_the_first_batch() -> None:
    mesh = DataMesh()
    client = mesh.client()
    size = len(said(b"x" * 1_000))
    for topic in ("a", "b", "c"):
        for _ in range(2):
            client.produce(topic, said(b"x" * 1_000))

    def counts(max_bytes: int) -> list[int]:
        wanted = [(topic, 0, 0) for topic in ("a", "b", "c")]
        answer = client.answer(fetching(*wanted, max_bytes=max_bytes), 12)
        return [len(values_in(row)) for row in rows(answer)]

    assert counts(1) == [1, 0, 0]
    assert counts(size) == [1, 0, 0]
    assert counts(2 * size) == [2, 0, 0]
    assert counts(4 * size) == [2, 2, 0]
    assert counts(1 << 20) == [2, 2, 2]
    assert counts(0) == [2, 2, 2], "0 is none said"


def test_what_is_larger_than_it_may_be_still_moves_every_partition_on() -> None:
    mesh = DataMesh()
    client = mesh.client()
    for topic in ("a", "b"):
        client.produce(topic, said(b"x" * 3_000))
    request = fetching(("a", 0, 0), ("b", 0, 0), max_bytes=100)
    first = [len(values_in(row)) for row in rows(client.answer(request, 12))]
    assert first == [1, 0]
    turned = fetching(("b", 0, 0), ("a", 0, 1), max_bytes=100)
    assert [len(values_in(row)) for row in rows(client.answer(turned, 12))] == [1, 0]


def test_reads_under_way_at_once_do_not_each_bring_too_much() -> None:
    mesh = DataMesh()
    client = mesh.client()
    for topic in ("a", "b"):
        client.produce(topic, said(b"x" * 3_000))
    mesh.log.held_reads = deque()
    client.ask(fetching(("a", 0, 0), ("b", 0, 0), max_bytes=200, partition_bytes=100), 12)
    mesh.commit()
    assert [mesh.log.answer(), mesh.log.answer(), mesh.log.answer()] == [True, True, False]
    mesh.commit()
    assert [len(values_in(row)) for row in rows(client.got())] == [1, 0]


def test_no_answer_is_larger_than_is_configured() -> None:
    mesh = DataMesh(fetch_bytes_max=1 << 16)
    client = mesh.client()
    for _ in range(3):
        client.produce("a", said(b"x" * 30_000))
    row = client.fetch("a", 0, max_bytes=1 << 30, partition_bytes=1 << 30)
    assert len(values_in(row)) == 2
    assert len(row.records) <= 1 << 16


def test_many_partitions_are_answered_in_their_order() -> None:
    mesh = DataMesh(broker=BrokerSettings(partitions_max=256))
    client = mesh.client()
    mesh.topic("a", partitions=200)
    for index in (0, 77, 199):
        client.produce("a", said(b"%d" % index), partition=index)
    wanted = [data.FetchPartition(partition=i, fetch_offset=0, partition_max_bytes=1 << 20) for i in range(200)]
    request = fetching(("a", 0, 0))
    request.topics[0].partitions = wanted
    found = rows(client.answer(request, 12))
    assert [row.partition_index for row in found] == list(range(200))
    assert {row.partition_index: values_in(row) for row in found if row.records} == {
        index: [(0, b"%d" % index)] for index in (0, 77, 199)
    }


def test_one_partition_asked_for_twice_is_answered_twice() -> None:
    mesh = DataMesh()
    client = mesh.client()
    for value in (b"1", b"2"):
        client.produce("a", said(value))
    first, second = rows(client.answer(fetching(("a", 0, 0), ("a", 0, 1)), 12))
    assert (values_in(first), values_in(second)) == ([(0, b"1"), (1, b"2")], [(1, b"2")])


# -- what others said ------------------------------------------------------------------------------


def test_batches_and_single_messages_come_in_the_order_they_were_said() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", said(b"0", b"1"))
    mesh.say("a", b"2", wish=1)
    mesh.say("a", b"3")
    mesh.commit()
    client.produce("a", said(b"4"))
    mesh.say("a", None, wish=1)
    mesh.commit()
    row = client.fetch("a", 0)
    assert values_in(row) == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3"), (4, b"4"), (5, None)]
    assert values_in(client.fetch("a", 3))[0][0] == 3


def test_single_messages_are_read_on_from_anywhere_in_bounded_answers() -> None:
    mesh = DataMesh()
    client = mesh.client()
    mesh.topic("a")
    for index in range(300):
        mesh.say("a", b"%03d" % index * 30, wish=1)
    mesh.commit()
    offset, found = 0, []
    while offset < 300:
        row = client.fetch("a", offset, partition_bytes=2_000)
        part = [(at, value) for at, value in values_in(row) if at >= offset]
        assert part, offset
        assert len(row.records) < 8_000
        found += part
        offset = part[-1][0] + 1
    assert found == [(index, b"%03d" % index * 30) for index in range(300)]


def test_what_the_ring_has_let_go_of_is_out_of_range_where_nothing_is_kept() -> None:
    mesh = DataMesh(broker=BrokerSettings(ring_bytes_max=1 << 16))
    client = mesh.client()
    for index in range(100):
        mesh.say("live", b"%03d" % index + bytes(2_000))
    row = client.fetch("live", 0)
    assert row.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert 0 < row.log_start_offset < row.high_watermark == 100
    first = row.log_start_offset
    values = values_in(client.fetch("live", first))
    assert [offset for offset, _ in values] == list(range(first, 100))


def test_where_only_some_is_kept_there_are_holes() -> None:
    """A durable reader has the log keep what wishes for it; the rest went with the ring."""
    mesh = DataMesh(broker=BrokerSettings(ring_bytes_max=1 << 16))
    client = mesh.client()
    backlog = mesh.broker.backlogs.open(b"reader", lambda message: False)
    backlog.watch("live")
    mesh.commit()
    for index in range(90):
        mesh.say("live", b"%03d" % index + bytes(2_000), wish=int(index % 3 == 0))
    mesh.commit()
    offset, found = client.fetch("live", 90).log_start_offset, []
    while offset < 90:
        part = [at for at, _ in values_in(client.fetch("live", offset)) if at >= offset]
        assert part, offset
        found += part
        offset = part[-1] + 1
    assert found == sorted(set(found))
    assert set(range(0, 90, 3)) <= set(found)
    assert len(found) < 90


def test_a_hole_that_a_failed_commit_has_left_is_stepped_over() -> None:
    mesh = DataMesh()
    client, writer = mesh.client(), mesh.client()
    writer.produce("a", said(b"0"))
    writer.ask(producing("a", said(b"lost")), 9)
    mesh.refuse()
    writer.read()
    parked(client, ("a", 0, 1))
    later = writer.produce("a", said(b"later")).base_offset
    assert values_in(rows(client.got())[0]) == [(later, b"later")]
    assert values_in(client.fetch("a", 0)) == [(0, b"0"), (later, b"later")]


def test_a_batch_made_of_messages_is_made_once() -> None:
    mesh = DataMesh()
    first, second = mesh.client(), mesh.client()
    mesh.topic("a")
    for value in (b"1", b"2"):
        mesh.say("a", value, wish=1)
    mesh.commit()
    assert bytes(first.fetch("a", 0).records) == bytes(second.fetch("a", 0).records)
    assert len(mesh.realm.synthesis._made) == 1
    mesh.say("a", b"3", wish=1)
    mesh.commit()
    assert values_in(second.fetch("a", 0)) == [(0, b"1"), (1, b"2"), (2, b"3")]


def test_messages_with_a_key_are_where_java_would_put_them() -> None:
    mesh = DataMesh()
    client = mesh.client()
    mesh.topic("a", partitions=4)
    for key in (b"21", b"foobar", b"abc"):
        mesh.say("a", key, wish=1, key=key)
    mesh.commit()
    found = {}
    for index in range(4):
        (row,) = rows(client.answer(fetching(("a", index, 0), wait_ms=0), 12))
        found |= {record.key: index for _, record in read_by_kafka_python(bytes(row.records or b""))}
    assert found == {
        b"21": (-973932308 & 0x7FFFFFFF) % 4,
        b"foobar": (-790332482 & 0x7FFFFFFF) % 4,
        b"abc": 479470107 % 4,
    }
