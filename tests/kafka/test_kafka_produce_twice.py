"""What a producer says twice is kept once; what it leaves out, or says for one that was replaced, is refused."""

from __future__ import annotations

import pytest

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.broker.settings import BrokerSettings
from tests.kafka.batch_forms import numbered
from tests.kafka.data_mesh import DataMesh, producing


def test_a_batch_said_twice_is_kept_once() -> None:
    mesh = DataMesh()
    client = mesh.client()
    assert client.produce("a", numbered(0, 2)).base_offset == 0
    assert client.produce("a", numbered(2)).base_offset == 2
    again = client.produce("a", numbered(0, 2))
    assert (again.error_code, again.base_offset) == (0, 0)
    assert client.produce("a", numbered(2)).base_offset == 2
    assert mesh.channel("a").visible == 3
    assert mesh.broker.metrics.duplicates == 2
    assert client.produce("a", numbered(0, 2, producer=8)).base_offset == 3, "another producer"


def test_said_again_before_it_is_safe_it_is_answered_when_it_is() -> None:
    mesh = DataMesh()
    client, other = mesh.client(), mesh.client()
    client.ask(producing("a", numbered(0)), 9)
    other.ask(producing("a", numbered(0)), 9)
    mesh.turn()
    assert other.read() == []
    mesh.commit()
    assert other.got().responses[0].partition_responses[0].base_offset == 0
    assert mesh.channel("a").visible == 1


def test_said_again_and_then_refused_both_are_errors() -> None:
    mesh = DataMesh()
    client, other = mesh.client(), mesh.client()
    mesh.topic("a")
    client.ask(producing("a", numbered(0)), 9)
    other.ask(producing("a", numbered(0)), 9)
    mesh.refuse()
    for each in (client, other):
        assert each.got().responses[0].partition_responses[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR


def test_five_batches_are_remembered() -> None:
    mesh = DataMesh()
    client = mesh.client()
    for index in range(6):
        client.produce("a", numbered(index))
    assert client.produce("a", numbered(1)).base_offset == 1
    assert client.produce("a", numbered(0)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert mesh.channel("a").visible == 6


@pytest.mark.parametrize("first", [2, 1_000, 0])
def test_a_gap_or_half_a_batch_is_out_of_order(first: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", numbered(0))
    wrong = client.produce("a", numbered(first, 2))
    assert (wrong.error_code, wrong.base_offset) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
    assert client.produce("a", numbered(1)).base_offset == 1


def test_an_old_epoch_is_fenced_and_a_new_one_begins_anew() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", numbered(0, epoch=1))
    assert client.produce("a", numbered(1, epoch=0)).error_code == ErrorCode.INVALID_PRODUCER_EPOCH
    assert client.produce("a", numbered(0, epoch=2)).base_offset == 1
    assert client.produce("a", numbered(1, epoch=1)).error_code == ErrorCode.INVALID_PRODUCER_EPOCH


def test_sequence_numbers_begin_again_at_zero() -> None:
    mesh = DataMesh()
    client = mesh.client()
    top = (1 << 31) - 2
    assert client.produce("a", numbered(top, 3)).error_code == 0
    assert client.produce("a", numbered(top, 3)).base_offset == 0
    assert client.produce("a", numbered(1)).base_offset == 3
    assert client.produce("a", numbered(3)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_each_partition_has_its_own_window() -> None:
    mesh = DataMesh(partitions=2)
    client = mesh.client()
    for partition in (0, 1):
        assert client.produce("a", numbered(0), partition=partition).base_offset == 0
    assert client.produce("a", numbered(1), partition=1).base_offset == 1
    assert client.produce("a", numbered(1)).base_offset == 1


def test_after_a_crash_the_window_is_the_same() -> None:
    mesh = DataMesh()
    client = mesh.client()
    for index in range(3):
        client.produce("a", numbered(index, epoch=1))
    client.ask(producing("a", numbered(3, epoch=1)), 9)
    mesh.turn()
    after = mesh.crashed()
    client = after.client()
    assert client.produce("a", numbered(2, epoch=1)).base_offset == 2
    assert client.produce("a", numbered(4, epoch=1)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert client.produce("a", numbered(3, epoch=0)).error_code == ErrorCode.INVALID_PRODUCER_EPOCH
    answer = client.produce("a", numbered(3, epoch=1))
    assert (answer.error_code, answer.base_offset) == (0, 3), "it was never said"
    assert after.channel("a").visible == 4


def test_ids_of_producers_are_given_once_across_crashes() -> None:
    mesh = DataMesh()
    given = []
    for _ in range(3):
        client = mesh.client()
        answers = [client.answer(data.InitProducerIdRequest(transactional_id=None), 4) for _ in range(2)]
        assert {(answer.error_code, answer.producer_epoch) for answer in answers} == {(0, 0)}
        given += [answer.producer_id for answer in answers]
        mesh = mesh.crashed()
    assert len(set(given)) == 6


def test_a_transactional_producer_gets_no_id() -> None:
    answer = DataMesh().client().answer(data.InitProducerIdRequest(transactional_id="t"), 4)
    assert answer.error_code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert answer.producer_id == -1


def test_the_producer_silent_for_longest_is_forgotten_first() -> None:
    mesh = DataMesh(broker=BrokerSettings(producers_max=2))
    client = mesh.client()
    for producer, first in ((1, 0), (2, 0), (1, 1), (3, 0)):
        assert client.produce("a", numbered(first, producer=producer)).error_code == 0
    mesh.advance(6_000)
    assert client.produce("a", numbered(1, producer=1)).base_offset == 2
    assert client.produce("a", numbered(9, producer=2)).base_offset == 4, "of whom nothing is known any number is right"


def test_a_producer_that_was_silent_for_too_long_is_forgotten() -> None:
    mesh = DataMesh(broker=BrokerSettings(producers_ms=60_000))
    client = mesh.client()
    client.produce("a", numbered(0))
    mesh.advance(59_000, 1_000)
    assert client.produce("a", numbered(5)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    mesh.advance(8_000, 1_000)
    assert client.produce("a", numbered(5)).error_code == 0
