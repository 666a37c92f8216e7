"""The mesh inside a program: the awaitable face of the broker, in one process and without a listener."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dragoman import Mesh
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.settings import BrokerSettings
from dragoman.config import Config, ConfigError
from dragoman.embedded import WINDOW
from dragoman.routing.message import Message
from dragoman.routing.refusals import Reason, Refusal, RefusedError

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "embedding.py"


def with_mesh(play: Callable[[Mesh], Awaitable[None]], config: Config | None = None) -> None:
    async def main() -> None:
        async with Mesh(config or Config.embedded()) as mesh:
            await asyncio.wait_for(play(mesh), 10)

    asyncio.run(main())


def test_the_example_in_the_docs_runs():
    ran = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    assert 'the answer: {"sum": 42}' in ran.stdout
    assert "read: plant/line1/temperature b'21.5'" in ran.stdout
    assert "refused: arguments-invalid" in ran.stdout
    assert ran.stderr == ""


def test_what_is_said_is_read_in_order_and_with_its_place():
    async def play(mesh: Mesh) -> None:
        async with mesh.subscribe("a/+") as reading:
            said = [await mesh.publish("a/b", str(n).encode()) for n in range(5)]
            read = [await anext(reading) for _ in range(5)]
        assert [m.payload for m in read] == [b"0", b"1", b"2", b"3", b"4"]
        assert [m.id for m in read] == [m.id for m in said]

    with_mesh(play)


def test_a_slow_reader_keeps_its_place_and_loses_nothing_the_ring_holds():
    async def play(mesh: Mesh) -> None:
        async with mesh.subscribe("a") as reading:
            for n in range(WINDOW * 3):
                await mesh.publish("a", str(n).encode())
            read = [await anext(reading) for _ in range(WINDOW * 3)]
        assert [int(m.payload or b"") for m in read] == list(range(WINDOW * 3))
        assert reading.lost_total == 0

    with_mesh(play)


def test_a_reader_that_was_outrun_is_told_how_much_it_lost():
    async def play(mesh: Mesh) -> None:
        payload = b"x" * 4096
        async with mesh.subscribe("a") as reading:
            for _ in range(WINDOW + 100):
                await mesh.publish("a", payload, durable=False)
            got: list[Message] = []
            while not got or got[-1].offset < WINDOW + 99:
                got.append(await anext(reading))
        assert reading.lost_total > 0
        assert len(got) + reading.lost_total == WINDOW + 100

    config = Config.embedded()
    small = BrokerSettings(ring_bytes_max=1 << 17)
    object.__setattr__(config, "broker", small)
    with_mesh(play, config)


def test_a_call_has_parts_of_its_own_and_one_answer():
    async def play(mesh: Mesh) -> None:
        async def double(arguments: bytes) -> bytes:
            return json.dumps(json.loads(arguments) * 2).encode()

        serving = mesh.serve("double", double, agent="calculator")
        assert await mesh.call("double", b"21") == b"42"
        assert await mesh.call("double", b"1", agent="calculator") == b"2"
        serving.end()
        with pytest.raises(RefusedError) as no:
            await mesh.call("double", b"21")
        assert no.value.refusal.reason in (Reason.UNKNOWN_SKILL, Reason.AGENT_UNREACHABLE)

    with_mesh(play)


def test_a_no_of_the_server_reaches_the_caller_as_it_was_said():
    async def play(mesh: Mesh) -> None:
        async def never(arguments: bytes) -> bytes:
            raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, "not like this"))

        mesh.serve("never", never, agent="grump")
        with pytest.raises(RefusedError, match="not like this"):
            await mesh.call("never", b"{}")

    with_mesh(play)


def test_cancelling_the_waiter_cancels_the_call():
    async def play(mesh: Mesh) -> None:
        began = asyncio.Event()
        ended = asyncio.Event()

        async def slow(arguments: bytes) -> bytes:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError("it waits for ever")

        mesh.serve("slow", slow, agent="sloth")
        asking = asyncio.get_running_loop().create_task(mesh.call("slow", b"{}"))
        await began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await ended.wait()

    with_mesh(play)


def test_a_deadline_ends_a_call():
    async def play(mesh: Mesh) -> None:
        async def slow(arguments: bytes) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError("it waits for ever")

        mesh.serve("slow", slow, agent="sloth")
        with pytest.raises(RefusedError) as no:
            await mesh.call("slow", b"{}", deadline_ms=20)
        assert no.value.refusal.reason is Reason.DEADLINE_PASSED

    with_mesh(play)


def test_a_bad_name_is_refused_with_a_reason():
    async def play(mesh: Mesh) -> None:
        with pytest.raises(RefusedError) as no:
            await mesh.publish("a/#", b"")
        assert no.value.refusal.reason is Reason.NAME_INVALID
        with pytest.raises(RefusedError) as no:
            mesh.subscribe("a/#/b")
        assert no.value.refusal.reason is Reason.FILTER_INVALID
        with pytest.raises(RefusedError) as no:
            await mesh.publish("$mesh/v1/presence/me", b"{}")
        assert no.value.refusal.reason is Reason.NOT_AUTHORIZED

    with_mesh(play)


def test_the_same_key_is_said_once():
    async def play(mesh: Mesh) -> None:
        first = await mesh.publish("a", b"1", dedupe="k")
        again = await mesh.publish("a", b"2", dedupe="k")
        other = await mesh.publish("a", b"3", dedupe="l")
        assert (first.id, other.offset) == (again.id, first.offset + 1)

    with_mesh(play)


def test_what_is_kept_on_disk_is_there_for_the_next_mesh(tmp_path: Path):
    config = Config.embedded(str(tmp_path / "data"))

    async def first(mesh: Mesh) -> None:
        await mesh.publish("state", b"on", retain=True)

    async def second(mesh: Mesh) -> None:
        async with mesh.subscribe("state") as reading:
            message = await anext(reading)
        assert (message.payload, message.retain) == (b"on", True)

    with_mesh(first, config)
    with_mesh(second, config)


def test_what_the_program_delays_no_rule_judges_also_not_after_a_restart(tmp_path: Path):
    config = replace(Config.embedded(str(tmp_path / "data")), gate=GateSettings(default="deny"))

    async def first(mesh: Mesh) -> None:
        async with mesh.subscribe("state") as reading:
            await mesh.publish("$delayed/0/state", b"1", durable=False)
            assert (await anext(reading)).payload == b"1"
        await mesh.publish("$delayed/1/state", b"2", retain=True)

    async def second(mesh: Mesh) -> None:
        async with mesh.subscribe("state") as reading:
            assert (await anext(reading)).payload == b"2"

    with_mesh(first, config)
    with_mesh(second, config)


def test_two_meshes_in_one_process_share_nothing():
    async def main() -> None:
        async with (
            Mesh(Config.embedded()) as one,
            Mesh(Config.embedded()) as other,
            other.subscribe("#") as reading,
        ):
            await one.publish("a", b"one")
            await other.publish("a", b"other")
            assert (await anext(reading)).payload == b"other"

    asyncio.run(main())


def test_the_program_changes_the_configuration_itself():
    before = Config.embedded()

    async def play(mesh: Mesh) -> None:
        async with mesh.subscribe("a"), mesh.subscribe("b"):
            broker = dataclasses.replace(before.broker, sessions_max=2, sweep_ms=7_000)
            done = await mesh.reload(dataclasses.replace(before, broker=broker))
            assert done == (["broker.sessions_max"], ["broker.sweep_ms"], [], 0)
            with pytest.raises(RefusedError):
                mesh.subscribe("c")
        assert (mesh.config.broker.sessions_max, mesh.config.broker.sweep_ms) == (2, before.broker.sweep_ms)
        with pytest.raises(ConfigError, match="not started from a file"):
            await mesh.reload()
        await mesh.stop()
        with pytest.raises(RefusedError):
            await mesh.reload(before)

    with_mesh(play, before)
