"""The codec against kio in every version, cut at every byte, with bytes at random, byte by byte where it is known."""

from __future__ import annotations

import contextlib
import random
import uuid
from typing import Any

import codec_oracle as oracle
import pytest
from codec_oracle import NAMES, SERVED
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode as KioErrorCode

from dragoman.adapters.kafka import codec
from dragoman.adapters.kafka.apis import APIS, BY_KEY, Api, ApiKey
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.schema import fields_of, form_of
from dragoman.adapters.kafka.shapes_admin import DeleteTopicsResponse
from dragoman.adapters.kafka.shapes_data import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    FetchableTopicResponse,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
    MetadataRequest,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from dragoman.adapters.kafka.wire import ITEMS_MAX, TAGS_MAX, Cursor, Output, WireError

every_version = pytest.mark.parametrize(("api", "version"), SERVED, ids=NAMES)


def flat(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(parts)


def request_bytes(api: Api, version: int, seed: int) -> bytes:
    """A request as kio writes it."""
    shape = oracle.made(api.request, version, seed)
    return oracle.written(oracle.carried(shape, oracle.request_class(api, version), version))


def decoded(api: Api, version: int, body: bytes) -> Any:
    return codec.decode_request(api.key, version, memoryview(body))


def small(api: Api, version: int) -> bytes:
    """A request that is not empty and not long either."""
    bodies = [request_bytes(api, version, seed) for seed in range(12)]
    return min(bodies, key=lambda body: abs(len(body) - 200))


# -- against kio --------------------------------------------------------------------------------------


@every_version
@pytest.mark.parametrize("seed", [1, 2])
def test_what_kio_asks_is_what_we_read(api: Api, version: int, seed: int) -> None:
    shape = oracle.made(api.request, version, seed)
    body = oracle.written(oracle.carried(shape, oracle.request_class(api, version), version))
    assert decoded(api, version, body) == shape


@every_version
@pytest.mark.parametrize("seed", [1, 2])
def test_what_we_answer_is_what_kio_reads(api: Api, version: int, seed: int) -> None:
    shape = oracle.made(api.response, version, seed)
    cls = oracle.response_class(api, version)
    body = flat(codec.encode_response(api.key, version, shape))
    assert body == oracle.written(oracle.carried(shape, cls, version))
    assert oracle.brought(oracle.read(cls, body), api.response, version) == shape


@every_version
def test_an_answer_left_at_its_defaults_can_be_read(api: Api, version: int) -> None:
    answer = api.response()
    for name, field in fields_of(api.response):
        if isinstance(field.kind, type) and field.array:
            setattr(answer, name, [field.kind()])
    if isinstance(answer, DeleteTopicsResponse) and version < 6:
        answer.responses[0].name = "always said"
    oracle.read(oracle.response_class(api, version), flat(codec.encode_response(api.key, version, answer)))


def test_the_error_codes_are_kafkas() -> None:
    theirs = {code.value: code.name.upper() for code in KioErrorCode}
    assert {code.value: code.name for code in ErrorCode} == theirs


@pytest.mark.parametrize("api", APIS, ids=[api.key.name.lower() for api in APIS])
def test_flexible_versions_begin_where_kafkas_do(api: Api) -> None:
    for version in range(max(api.low, api.served), api.high + 1):
        assert oracle.request_class(api, version).__flexible__ == (version >= api.flexible)
        header = oracle.request_class(api, version).__header_schema__
        assert header.__version__ == (2 if version >= api.flexible else 1)
        head = codec.response_head(api.key, version, 7)
        response_header = oracle.response_class(api, version).__header_schema__
        assert head == oracle.written(response_header(correlation_id=7))


@every_version
def test_a_head_is_read_up_to_the_body(api: Api, version: int) -> None:
    header = oracle.request_class(api, version).__header_schema__
    for client in (None, "", "pipeline ä"):
        raw = oracle.written(
            header(request_api_key=api.key, request_api_version=version, correlation_id=-2, client_id=client)
        )
        head = codec.request_head(memoryview(raw + b"body"))
        assert head == (api.key, version, -2, client, len(raw))
        for cut in range(len(raw)):
            with pytest.raises(WireError):
                codec.request_head(memoryview(raw)[:cut])


# -- what is advertised -------------------------------------------------------------------------------

RANGES = {
    **{0: (0, 13), 1: (4, 18), 2: (1, 10), 3: (0, 13), 8: (2, 10), 9: (1, 10), 10: (0, 6), 11: (0, 9), 12: (0, 4)},
    **{13: (0, 5), 14: (0, 5), 15: (0, 6), 16: (0, 5), 17: (0, 1), 18: (0, 4), 19: (2, 7), 20: (1, 6), 21: (0, 2)},
    **{22: (0, 5), 23: (2, 4), 32: (1, 4), 33: (0, 2), 36: (0, 2), 37: (0, 3), 42: (0, 2), 44: (0, 1), 47: (0, 0)},
    **{60: (0, 2), 75: (0, 0)},
}


def test_what_is_advertised() -> None:
    assert {key.api_key: (key.min_version, key.max_version) for key in codec.offered()} == RANGES


def test_produce_is_advertised_from_0_and_served_from_3() -> None:
    assert codec.offered()[0].min_version == 0
    assert [version for version in range(-1, 16) if codec.serves(ApiKey.PRODUCE, version)] == list(range(3, 14))
    assert [version for version in range(-1, 16) if codec.speaks(ApiKey.PRODUCE, version)] == list(range(14))
    assert flat(codec.encode_response(0, 1, codec.error_response(0, None, 35))) == bytes(8)


def test_what_is_not_advertised_is_not_served() -> None:
    for key in (*range(4, 8), *range(24, 32), 71, 72, 68, 76, 78, -1, 99):
        assert not codec.serves(key, 0)
        assert not codec.speaks(key, 0)
    assert not codec.serves(ApiKey.FETCH, 3)
    assert not codec.speaks(ApiKey.FETCH, 19)


# -- byte by byte -------------------------------------------------------------------------------------


def test_api_versions_as_librdkafka_asks() -> None:
    body = bytes.fromhex("0b 6c696272646b61666b61 07 322e31362e30 00")
    request = codec.decode_request(18, 3, memoryview(body))
    assert request == ApiVersionsRequest(client_software_name="librdkafka", client_software_version="2.16.0")


def test_api_versions_0() -> None:
    answer = ApiVersionsResponse(api_keys=codec.offered()[:2], throttle_time_ms=9)
    assert flat(codec.encode_response(18, 0, answer)) == bytes.fromhex("0000 00000002 0000 0000 000d 0001 0004 0012")
    assert codec.response_head(18, 0, 258) == bytes.fromhex("00000102")


def test_api_versions_3() -> None:
    answer = ApiVersionsResponse(api_keys=codec.offered()[:2], throttle_time_ms=9)
    expected = "0000 03 0000 0000 000d 00 0001 0004 0012 00 00000009 00"
    assert flat(codec.encode_response(18, 3, answer)) == bytes.fromhex(expected)
    assert codec.response_head(18, 3, 258) == bytes.fromhex("00000102")


def test_api_versions_of_the_future_is_answered_in_the_oldest_version() -> None:
    raw = memoryview(bytes.fromhex("0012 0063 00000007 0002 6d65 ffffff"))
    head = codec.request_head(raw)
    assert head == (18, 99, 7, "me", 12)
    assert codec.speaks(18, 99)
    assert not codec.serves(18, 99)
    answer = codec.error_response(18, None, ErrorCode.UNSUPPORTED_VERSION)
    body = flat(codec.encode_response(18, 99, answer))
    assert body[:6] == bytes.fromhex("0023 0000001d")
    assert len(body) == 6 + 6 * len(RANGES)
    assert codec.response_head(18, 99, 7) == bytes.fromhex("00000007")


def test_a_produce_request() -> None:
    raw = bytes.fromhex("00 ffff 00000bb8 02 06 746f706963 02 00000001 04 aabbcc 00 00 00")
    request = codec.decode_request(0, 9, memoryview(raw))
    assert isinstance(request, ProduceRequest)
    assert (request.transactional_id, request.acks, request.timeout_ms) == (None, -1, 3000)
    [topic] = request.topic_data
    [partition] = topic.partition_data
    assert (topic.name, partition.index, partition.records) == ("topic", 1, b"\xaa\xbb\xcc")


def test_metadata_null_is_all_and_empty_is_none() -> None:
    everything = codec.decode_request(3, 1, memoryview(bytes.fromhex("ffffffff")))
    nothing = codec.decode_request(3, 1, memoryview(bytes(4)))
    assert isinstance(everything, MetadataRequest)
    assert isinstance(nothing, MetadataRequest)
    assert everything.topics is None
    assert nothing.topics == []
    assert everything.allow_auto_topic_creation, "before version 4 it goes without saying"
    with pytest.raises(WireError, match="null"):
        codec.decode_request(3, 0, memoryview(bytes.fromhex("ffffffff")))


# -- record batches are not copied --------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 8, 9, 13])
def test_records_of_a_request_are_a_view_of_it(version: int) -> None:
    shape = ProduceRequest()
    for seed in range(20):
        shape = oracle.made(ProduceRequest, version, seed)
        if any(part.records for topic in shape.topic_data for part in topic.partition_data):
            break
    body = oracle.written(oracle.carried(shape, oracle.request_class(BY_KEY[0], version), version))
    request = codec.decode_request(0, version, memoryview(body))
    assert isinstance(request, ProduceRequest)
    found = [part.records for topic in request.topic_data for part in topic.partition_data if part.records is not None]
    assert found
    for records in found:
        assert isinstance(records, memoryview)
        assert records.obj is body


@pytest.mark.parametrize("version", [4, 11, 12, 18])
def test_records_of_an_answer_are_passed_through(version: int) -> None:
    batches = [bytes(300), memoryview(bytes(70)), b"x" * 5]
    partitions = [FetchPartitionData(records=batches), FetchPartitionData(), FetchPartitionData(records=[])]
    answer = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=partitions)])
    parts = codec.encode_response(1, version, answer)
    assert [part for part in parts if any(part is batch for batch in batches)] == batches
    back = oracle.read(oracle.response_class(BY_KEY[1], version), flat(parts))
    assert back.responses[0].partitions[0].records == b"".join(batches)
    assert back.responses[0].partitions[2].records == b""


def test_one_buffer_of_records_is_one_part() -> None:
    batch = memoryview(b"batch")
    answer = FetchResponse(responses=[FetchableTopicResponse(partitions=[FetchPartitionData(records=batch)])])
    assert any(part is batch for part in codec.encode_response(1, 11, answer))


# -- malformed ----------------------------------------------------------------------------------------


@every_version
def test_a_request_cut_anywhere_is_malformed(api: Api, version: int) -> None:
    body = small(api, version)
    assert decoded(api, version, body) is not None
    for cut in range(min(len(body), 1_500)):
        with pytest.raises(WireError):
            decoded(api, version, body[:cut])


@every_version
def test_bytes_behind_a_request_are_nobodys(api: Api, version: int) -> None:
    body = small(api, version)
    assert decoded(api, version, body + b"\0\1\0") == decoded(api, version, body)


def test_librdkafka_asks_for_all_topics_with_bytes_to_spare() -> None:
    request = codec.decode_request(3, 13, memoryview(bytes.fromhex("00000000010000")))
    assert isinstance(request, MetadataRequest)
    assert request.topics is None


@settings(max_examples=600, derandomize=True, deadline=None)
@given(which=st.sampled_from(SERVED), body=st.binary(max_size=200))
def test_anything_is_a_request_or_malformed(which: tuple[Api, int], body: bytes) -> None:
    api, version = which
    with contextlib.suppress(WireError):
        decoded(api, version, body)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(which=st.sampled_from(SERVED), seed=st.integers(0, 5), luck=st.integers())
def test_a_request_with_wrong_bytes_in_it_is_a_request_or_malformed(
    which: tuple[Api, int], seed: int, luck: int
) -> None:
    api, version = which
    body = bytearray(request_bytes(api, version, seed))
    dice = random.Random(luck)
    for _ in range(dice.randint(1, 4) if body else 0):
        body[dice.randrange(min(len(body), 400))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    try:
        request = decoded(api, version, bytes(body))
    except WireError:
        return
    answer = codec.error_response(api.key, request, 42)
    codec.encode_response(api.key, version, answer)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(head=st.binary(max_size=40))
def test_anything_is_a_head_or_malformed(head: bytes) -> None:
    with contextlib.suppress(WireError):
        codec.request_head(memoryview(head))


@pytest.mark.parametrize(
    ("key", "version", "body", "why"),
    [
        (3, 1, "7fffffff", "an array of 2147483647 items in 0 bytes"),
        (3, 1, "00000002 00", "an array of 2 items in 1 bytes"),
        (3, 1, "fffffffe", "a length of -2"),
        (3, 9, "ffffffff0f 00", "items in 1 bytes"),
        (3, 9, "ffffffff1f", "more than 32 bits"),
        (3, 9, "8080808080 01", "more than five bytes"),
        (3, 1, "00000001 0005 61", "5 bytes are announced where 1 are left"),
        (3, 1, "00000001 ffff", "null where there has to be a value"),
        (3, 1, "00000001 0002 c328", "not UTF-8"),
        (3, 9, "01 01 00 00 7f", "127 tagged fields in 0 bytes"),
        (11, 0, "0001 67 00000000 ffff", "null where"),
        (12, 0, "0001 67 000000", "4 bytes are needed where 3 are left"),
    ],
)
def test_malformed_and_why(key: int, version: int, body: str, why: str) -> None:
    with pytest.raises(WireError, match=why):
        codec.decode_request(key, version, memoryview(bytes.fromhex(body)))


def test_nothing_is_taken_backwards() -> None:
    with pytest.raises(WireError, match="-1 bytes"):
        Cursor(memoryview(b"abc")).take(-1)


def test_no_more_than_a_million_items() -> None:
    with pytest.raises(WireError, match="an array"):
        Cursor(memoryview((ITEMS_MAX + 2).to_bytes(4, "big") + bytes(ITEMS_MAX + 4))).items(compact=False)
    allowed = Cursor(memoryview(ITEMS_MAX.to_bytes(4, "big") + bytes(ITEMS_MAX + 4)))
    assert allowed.items(compact=False) == ITEMS_MAX


def test_no_more_than_ten_thousand_tags() -> None:
    with pytest.raises(WireError, match="10001 tagged fields"):
        Cursor(memoryview(b"\x91\x4e" + bytes(3 * TAGS_MAX))).tags()
    assert Cursor(memoryview(b"\x90\x4e" + bytes(3 * TAGS_MAX))).tags() == TAGS_MAX


# -- tagged fields ------------------------------------------------------------------------------------


def test_tags_nobody_knows_are_skipped() -> None:
    # Heartbeat 4, with tags 5 and 900 behind it.
    body = bytes.fromhex("02 67 00000003 02 6d 00 02 05 03 aabbcc 8407 00")
    request = codec.decode_request(12, 4, memoryview(body))
    assert request == codec.decode_request(12, 4, memoryview(bytes.fromhex("02 67 00000003 02 6d 00 00")))


def test_tags_in_between_are_skipped_and_known_ones_read() -> None:
    plain = FetchRequest(cluster_id="home", max_wait_ms=5, rack_id="r")
    output = Output()
    form_of(FetchRequest, 12, flexible=True).write(output, plain)
    body = flat(output.parts())
    tags = bytes.fromhex("01 00 05 05 686f6d65")
    assert body.endswith(tags)
    more = body.removesuffix(tags) + bytes.fromhex("03 00 05 05 686f6d65 01 00 40 01 ff")
    request = codec.decode_request(1, 12, memoryview(more))
    assert isinstance(request, FetchRequest)
    assert (request.cluster_id, request.rack_id) == ("home", "r")


def test_a_tag_longer_than_what_follows_is_malformed() -> None:
    with pytest.raises(WireError, match="announced"):
        codec.decode_request(12, 4, memoryview(bytes.fromhex("02 67 00000003 02 6d 00 01 05 09 aa")))


# -- answers that say no ------------------------------------------------------------------------------


def codes(answer: Any) -> list[int]:
    """Every error code in an answer."""
    found = []
    for name, field in fields_of(type(answer)):
        value = getattr(answer, name)
        if name == "error_code":
            found.append(value)
        elif isinstance(field.kind, type):
            for item in value or () if field.array else () if value is None else (value,):
                found += codes(item)
    return found


@every_version
def test_no_can_be_said_to_every_request(api: Api, version: int) -> None:
    for request in (None, *(oracle.made(api.request, version, seed) for seed in range(4))):
        answer = codec.error_response(api.key, request, ErrorCode.UNKNOWN_SERVER_ERROR)
        body = flat(codec.encode_response(api.key, version, answer))
        oracle.read(oracle.response_class(api, version), body)
        assert set(codes(answer)) <= {ErrorCode.UNKNOWN_SERVER_ERROR}
        lists = [name for name, field in fields_of(api.request) if field.array and field.there(version)]
        said = [getattr(request, name) for name in lists[:1]] if request is not None else []
        assert codes(answer) or not any(said), "asked for something and told nothing"


def test_no_is_said_about_each_partition() -> None:
    request = codec.decode_request(
        0, 9, memoryview(bytes.fromhex("00 0001 00000bb8 02 02 61 03 00000004 00 00 00000005 00 00 00 00"))
    )
    assert codec.error_response(0, request, 10) == ProduceResponse(
        responses=[
            TopicProduceResponse(
                name="a",
                partition_responses=[
                    PartitionProduceResponse(index=4, error_code=10, base_offset=-1),
                    PartitionProduceResponse(index=5, error_code=10, base_offset=-1),
                ],
            )
        ]
    )


@pytest.mark.parametrize("version", [12, 13, 18])
def test_no_to_a_fetch_names_partitions_and_knows_no_offsets(version: int) -> None:
    topic_id = uuid.UUID(int=77)
    request = FetchRequest()
    for seed in range(20):
        request = oracle.made(FetchRequest, version, seed)
        if request.topics and request.topics[0].partitions:
            break
    request.topics[0].topic_id = topic_id
    answer = codec.error_response(1, request, 56)
    assert isinstance(answer, FetchResponse)
    assert answer.responses[0].topic_id == topic_id
    told = answer.responses[0].partitions
    assert [part.partition_index for part in told] == [part.partition for part in request.topics[0].partitions]
    assert {(part.high_watermark, part.last_stable_offset, part.log_start_offset) for part in told} == {(-1, -1, -1)}


@pytest.mark.parametrize(
    ("version", "body"), [(5, "02 02 61 00000000 00"), (6, "02 02 61" + "00" * 17 + "00000000 00")]
)
def test_no_to_deleting_topics_names_them_in_both_ways_of_asking(version: int, body: str) -> None:
    request = codec.decode_request(20, version, memoryview(bytes.fromhex(body)))
    answer = codec.error_response(20, request, 7)
    assert isinstance(answer, DeleteTopicsResponse)
    assert [(each.name, each.error_code) for each in answer.responses] == [("a", 7)]
