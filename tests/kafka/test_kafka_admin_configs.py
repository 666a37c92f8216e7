"""Configurations of topics read and changed by requests; those of the broker and of groups read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from admin_mesh import ALICE, BOB, ROOT, Mesh, run

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_admin import (
    AlterConfigsAlterableConfig,
    AlterConfigsRequest,
    AlterConfigsResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterConfigsAlterableConfig,
    IncrementalAlterConfigsAlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from dragoman.adapters.kafka.topic_options import OPTIONS, fault
from dragoman.broker.channel import Keep
from dragoman.broker.gate_settings import RuleSettings
from dragoman.broker.retention import Limits

TOPIC, BROKER, LOGGER, GROUP = 2, 4, 8, 32
SET, DELETE, APPEND, SUBTRACT = range(4)

OF_KAFKA = """
    cleanup.policy compression.gzip.level compression.lz4.level compression.type compression.zstd.level
    delete.retention.ms file.delete.delay.ms flush.messages flush.ms follower.replication.throttled.replicas
    index.interval.bytes leader.replication.throttled.replicas local.retention.bytes local.retention.ms
    max.compaction.lag.ms max.message.bytes message.timestamp.after.max.ms message.timestamp.before.max.ms
    message.timestamp.type min.cleanable.dirty.ratio min.compaction.lag.ms min.insync.replicas preallocate
    remote.log.copy.disable remote.log.delete.on.disable remote.storage.enable retention.bytes retention.ms
    segment.bytes segment.index.bytes segment.jitter.ms segment.ms unclean.leader.election.enable
"""


def describing(kind: int, name: str, *keys: str, **how: Any) -> DescribeConfigsRequest:
    resource = DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=list(keys) if keys or how.get("none") else None
    )
    return DescribeConfigsRequest(
        resources=[resource],
        include_synonyms=how.get("synonyms", False),
        include_documentation=how.get("documentation", False),
    )


def replacing(
    kind: int, name: str, *configs: tuple[str, str | None], validate_only: bool = False
) -> AlterConfigsRequest:
    said = [AlterConfigsAlterableConfig(name=key, value=value) for key, value in configs]
    resource = AlterConfigsResource(resource_type=kind, resource_name=name, configs=said)
    return AlterConfigsRequest(resources=[resource], validate_only=validate_only)


def amending(
    kind: int, name: str, *configs: tuple[str, int, str | None], validate_only: bool = False
) -> IncrementalAlterConfigsRequest:
    said = [
        IncrementalAlterConfigsAlterableConfig(name=key, config_operation=operation, value=value)
        for key, operation, value in configs
    ]
    resource = IncrementalAlterConfigsAlterConfigsResource(resource_type=kind, resource_name=name, configs=said)
    return IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)


async def described(mesh: Mesh, request: DescribeConfigsRequest, version: int = 4, principal: Any = ALICE) -> Any:
    [result] = (await mesh.answer(request, version, principal)).results
    asked = request.resources[0]
    assert (result.resource_type, result.resource_name) == (asked.resource_type, asked.resource_name)
    return result


async def configs(mesh: Mesh, kind: int, name: str) -> dict[str, Any]:
    result = await described(mesh, describing(kind, name))
    assert result.error_code == 0
    return {row.name: row for row in result.configs}


async def altered(mesh: Mesh, request: Any, principal: Any = ALICE) -> tuple[int, str | None]:
    [row] = (await mesh.answer(request, 1, principal)).responses
    return row.error_code, row.error_message


async def said(mesh: Mesh, name: str) -> dict[str, str]:
    """What was said of a topic, as it is described."""
    return {row.name: row.value for row in (await configs(mesh, TOPIC, name)).values() if row.config_source == 1}


# -- describing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, 5))
def test_a_topic_is_described_with_all_that_was_never_said(version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("factory/line1", segment_ms="7")
        result = await described(mesh, describing(TOPIC, "factory.line1"), version)
        assert (result.error_code, result.error_message) == (0, None)
        assert sorted(row.name for row in result.configs) == OF_KAFKA.split()
        rows = {row.name: row for row in result.configs}
        assert (rows["segment.ms"].value, rows["segment.ms"].config_source) == ("7", 1)
        assert (rows["retention.ms"].value, rows["retention.ms"].config_source) == ("-1", 5)
        assert (rows["max.message.bytes"].value, rows["cleanup.policy"].value) == ("5000", "delete")
        assert not any(row.synonyms or row.documentation or row.read_only or row.is_sensitive for row in rows.values())
        if version >= 3:
            types = ("preallocate", "compression.type", "segment.bytes", "flush.ms", "cleanup.policy")
            assert [rows[name].config_type for name in types] == [1, 2, 3, 5, 7]
            assert rows["min.cleanable.dirty.ratio"].config_type == 6

    run(scene)


def test_what_we_say_a_topic_is_can_be_said_back() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t")
        rows = await configs(mesh, TOPIC, "t")
        request = replacing(TOPIC, "t", *((name, row.value) for name, row in rows.items()))
        assert await altered(mesh, request) == (0, None)
        after = await configs(mesh, TOPIC, "t")
        assert {name: row.value for name, row in after.items()} == {name: row.value for name, row in rows.items()}

    run(scene)


def test_only_some_keys() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t")
        result = await described(mesh, describing(TOPIC, "t", "retention.ms", "flush.ms", "no.such"))
        assert [row.name for row in result.configs] == ["flush.ms", "retention.ms"]
        everything = await described(mesh, describing(TOPIC, "t", none=True))
        assert len(everything.configs) == len(OF_KAFKA.split())

    run(scene)


def test_synonyms_and_documentation_where_asked_for() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t", segment_ms="7")
        request = describing(TOPIC, "t", "segment.ms", "max.message.bytes", synonyms=True, documentation=True)
        largest, segment = (await described(mesh, request)).configs
        assert [(each.name, each.value, each.source) for each in segment.synonyms] == [
            ("segment.ms", "7", 1),
            ("log.roll.ms", "604800000", 5),
        ]
        assert [(each.name, each.value, each.source) for each in largest.synonyms] == [("message.max.bytes", "5000", 5)]
        assert largest.documentation == "The largest record batch that is taken."
        assert segment.documentation

    run(scene)


def test_retention_said_in_another_protocol_is_described() -> None:
    async def scene(mesh: Mesh) -> None:
        channel = mesh.broker.declare(mesh.session(ALICE), "t", Keep.ALL, retention_ms=9_000, retention_messages=7)
        await mesh.turn()
        assert await said(mesh, "t") == {"retention.ms": "9000"}
        assert await altered(mesh, amending(TOPIC, "t", ("segment.ms", SET, "5"))) == (0, None)
        assert mesh.broker.core.retention.of(channel) == Limits(9_000, None, 7)  # type: ignore[arg-type]

    run(scene)


def test_the_broker_is_described_as_it_is_set() -> None:
    async def scene(mesh: Mesh) -> None:
        rows = await configs(mesh, BROKER, "0")
        assert rows["num.partitions"].value == "2"
        assert rows["auto.create.topics.enable"].value == "true"
        assert rows["advertised.listeners"].value == "mesh.example:9092"
        assert rows["group.min.session.timeout.ms"].value == "6000"
        assert (rows["num.partitions"].config_source, rows["broker.id"].config_source) == (4, 5)
        assert all(row.read_only for row in rows.values())
        assert (await described(mesh, describing(BROKER, ""))).configs == []
        wrong = await described(mesh, describing(BROKER, "1"))
        assert (wrong.error_code, wrong.error_message) == (ErrorCode.INVALID_REQUEST, "there is no broker '1', only 0")

    run(scene)


def test_a_group_has_nothing_to_configure() -> None:
    async def scene(mesh: Mesh) -> None:
        result = await described(mesh, describing(GROUP, "pipeline"))
        assert (result.error_code, result.configs) == (0, [])
        result = await described(mesh, describing(GROUP, "pipeline"), principal=BOB)
        assert result.error_code == ErrorCode.GROUP_AUTHORIZATION_FAILED

    run(scene, RuleSettings(effect="deny", who=("bob",), filters=("group/#",)))


def test_what_cannot_be_described() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("closed/x")
        codes = [
            (await described(mesh, describing(kind, name), principal=BOB)).error_code
            for kind, name in ((TOPIC, "nobody"), (TOPIC, "closed.x"), (TOPIC, ""), (LOGGER, "0"), (16, ""), (0, ""))
        ]
        assert codes == [
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.TOPIC_AUTHORIZATION_FAILED,
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            *[ErrorCode.INVALID_REQUEST] * 3,
        ]

    run(scene, RuleSettings(effect="deny", who=("bob",), filters=("closed/#",)))


# -- changing single options ------------------------------------------------------------------------


def test_single_options_are_said_and_taken_back(tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        topic = await mesh.made("t", partitions=2, segment_ms="7")
        request = amending(TOPIC, "t", ("retention.ms", SET, "5000"), ("segment.ms", DELETE, None))
        ask = mesh.ask(request, 1)
        assert not ask.got, "it is not safe yet"
        await mesh.turn()
        assert ask.got[0].responses[0].error_code == 0
        assert await said(mesh, "t") == {"retention.ms": "5000"}
        for partition in topic.partitions:
            assert mesh.broker.core.retention.of(partition) == Limits(5_000)
        again = await mesh.restarted()
        assert await said(again, "t") == {"retention.ms": "5000"}
        assert again.broker.core.retention.of(again.topic("t").partitions[1]) == Limits(5_000)
        assert await altered(again, amending(TOPIC, "t", ("retention.ms", DELETE, None))) == (0, None)
        assert again.broker.core.retention.of(again.topic("t").channel) == Limits()
        return again

    run(scene, folder=tmp_path / "log")


def test_the_size_of_a_batch_can_be_changed() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t")
        assert await altered(mesh, amending(TOPIC, "t", ("max.message.bytes", SET, "100"))) == (0, None)
        assert mesh.topic("t").options["max.message.bytes"] == "100"

    run(scene)


def test_lists_are_added_to_and_taken_from() -> None:
    async def scene(mesh: Mesh) -> None:
        name = "leader.replication.throttled.replicas"
        await mesh.made("t")
        assert await altered(mesh, amending(TOPIC, "t", (name, APPEND, "0:0,1:0"))) == (0, None)
        assert await altered(mesh, amending(TOPIC, "t", (name, APPEND, "1:0,2:0"))) == (0, None)
        assert await said(mesh, "t") == {name: "0:0,1:0,2:0"}
        assert await altered(mesh, amending(TOPIC, "t", (name, SUBTRACT, "1:0"))) == (0, None)
        assert await said(mesh, "t") == {name: "0:0,2:0"}
        compact = amending(TOPIC, "t", ("cleanup.policy", APPEND, "compact"))
        assert (await altered(mesh, compact))[0] == ErrorCode.INVALID_CONFIG
        none = amending(TOPIC, "t", ("cleanup.policy", SUBTRACT, "delete"))
        assert (await altered(mesh, none))[0] == ErrorCode.INVALID_CONFIG

    run(scene)


@pytest.mark.parametrize(
    ("request_", "code", "why"),
    [
        (amending(TOPIC, "t", ("retention.ms", SET, "-5")), ErrorCode.INVALID_CONFIG, "from -1"),
        (amending(TOPIC, "t", ("retention.ms", SET, None)), ErrorCode.INVALID_CONFIG, "no value"),
        (amending(TOPIC, "t", ("retention.ms", APPEND, "5")), ErrorCode.INVALID_CONFIG, "no list"),
        (amending(TOPIC, "t", ("retention.ms", 9, "5")), ErrorCode.INVALID_REQUEST, "9 is nothing"),
        (amending(TOPIC, "t", ("colour", DELETE, None)), ErrorCode.INVALID_CONFIG, "'colour'"),
        (amending(TOPIC, "t", ("cleanup.policy", SET, "compact")), ErrorCode.INVALID_CONFIG, "not built"),
        (
            amending(TOPIC, "t", ("segment.ms", SET, "5"), ("segment.ms", SET, "6")),
            ErrorCode.INVALID_REQUEST,
            "said twice",
        ),
        (
            amending(TOPIC, "t", ("segment.ms", SET, "5"), ("segment.bytes", SET, "x")),
            ErrorCode.INVALID_CONFIG,
            "segment.bytes",
        ),
        (amending(TOPIC, "u", ("segment.ms", SET, "5")), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "no topic"),
        (amending(BROKER, "0", ("num.partitions", SET, "5")), ErrorCode.INVALID_CONFIG, "configuration file"),
        (amending(BROKER, "", ("num.partitions", SET, "5")), ErrorCode.INVALID_CONFIG, "configuration file"),
        (amending(BROKER, "3", ("num.partitions", SET, "5")), ErrorCode.INVALID_REQUEST, "no broker '3'"),
        (amending(GROUP, "g", ("share.auto.offset.reset", SET, "earliest")), ErrorCode.INVALID_CONFIG, "timeouts"),
        (amending(LOGGER, "0", ("root", SET, "DEBUG")), ErrorCode.INVALID_REQUEST, "type 8"),
        (replacing(TOPIC, "t", ("retention.ms", "x")), ErrorCode.INVALID_CONFIG, "a number"),
        (replacing(TOPIC, "t", ("retention.ms", None)), ErrorCode.INVALID_CONFIG, "no value"),
        (replacing(TOPIC, "t", ("segment.ms", "5"), ("segment.ms", "6")), ErrorCode.INVALID_REQUEST, "said twice"),
        (replacing(BROKER, "0", ("num.partitions", "5")), ErrorCode.INVALID_CONFIG, "configuration file"),
        (replacing(GROUP, "g"), ErrorCode.INVALID_CONFIG, "timeouts"),
    ],
)
def test_a_change_that_cannot_be(request_: Any, code: ErrorCode, why: str) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t", flush_ms="11")
        got, message = await altered(mesh, request_)
        assert got == code
        assert message
        assert re.search(why, message)
        assert await said(mesh, "t") == {"flush.ms": "11"}, "as a whole or not at all"

    run(scene)


def test_a_resource_is_changed_once() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t")
        await mesh.made("u")
        request = amending(TOPIC, "t", ("segment.ms", SET, "5"))
        request.resources += amending(TOPIC, "t", ("segment.ms", SET, "6")).resources
        request.resources += amending(TOPIC, "u", ("segment.ms", SET, "7")).resources
        rows = (await mesh.answer(request, 1)).responses
        assert [(row.resource_name, row.error_code) for row in rows] == [
            ("t", ErrorCode.INVALID_REQUEST),
            ("t", ErrorCode.INVALID_REQUEST),
            ("u", 0),
        ]
        assert await said(mesh, "t") == {}
        assert await said(mesh, "u") == {"segment.ms": "7"}

    run(scene)


def test_nothing_is_changed_to_see_whether_it_could_be() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t", flush_ms="11")
        tried = amending(TOPIC, "t", ("segment.ms", SET, "5"), validate_only=True)
        assert await altered(mesh, tried) == (0, None)
        assert await altered(mesh, replacing(TOPIC, "t", validate_only=True)) == (0, None)
        assert await said(mesh, "t") == {"flush.ms": "11"}
        wrong = amending(TOPIC, "t", ("segment.ms", SET, "x"), validate_only=True)
        assert (await altered(mesh, wrong))[0] == ErrorCode.INVALID_CONFIG

    run(scene)


def test_only_who_made_a_topic_or_an_administrator_changes_it() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("hers", principal=ALICE)
        for request in (amending(TOPIC, "hers", ("segment.ms", SET, "5")), replacing(TOPIC, "hers")):
            assert (await altered(mesh, request, BOB))[0] == ErrorCode.TOPIC_AUTHORIZATION_FAILED
            assert (await altered(mesh, request, ROOT))[0] == 0

    run(scene)


# -- saying all options anew -------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(3))
def test_what_is_not_said_anew_is_as_if_it_never_had_been(version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.made("t")
        await altered(mesh, amending(TOPIC, "t", ("retention.ms", SET, "5000"), ("flush.ms", SET, "1")))
        request = replacing(TOPIC, "t", ("segment.ms", " 9 "), ("retention.bytes", "77"))
        [row] = (await mesh.answer(request, version)).responses
        assert (row.resource_type, row.resource_name, row.error_code, row.error_message) == (TOPIC, "t", 0, None)
        assert await said(mesh, "t") == {"segment.ms": "9", "retention.bytes": "77"}
        assert mesh.broker.core.retention.of(topic.channel) == Limits(None, 77)

    run(scene)


def test_every_default_is_a_value_that_is_taken() -> None:
    for option in OPTIONS.values():
        if option.default:
            assert not fault(option.name, option.default)
            assert fault(option.name, None)
