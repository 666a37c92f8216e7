"""Links to A2A agents, against the official SDK's server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman import Mesh
from dragoman.adapters.links import a2a, a2a_wire
from dragoman.adapters.links.settings import LinkSettings
from dragoman.broker.presence import State
from dragoman.config import Config
from dragoman.routing.refusals import Reason, RefusedError
from tests.clients.processes import Child

NOWHERE = Config.embedded().listen
SERVER = Path(__file__).with_name("a2a_server.py")
BYTES = b"\x89PNG\x00\xff"
SKILLS = 13


class Workshop:
    """The agent. ``url`` stays the same over restarts."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.child = self._start("0")
        self.port = self.child.until_said(r"^port (\d+)").group(1)
        self.url = f"http://127.0.0.1:{self.port}"

    def _start(self, port: str) -> Child:
        return Child([sys.executable, str(SERVER), port, *self._words])

    def restart(self) -> None:
        """It dies and comes back."""
        self.child.kill()
        self.child = self._start(self.port)
        self.child.until_said(r"^port")

    def asked(self) -> dict[str, Any]:
        """The message it was sent last."""
        self.child.until_said(r"^asked")
        said: dict[str, Any] = json.loads(
            [line for line in self.child.stdout.splitlines() if line.startswith("asked")][-1][6:]
        )
        return said


@pytest.fixture(params=["", "whole", "rest", "rest whole"], ids=["rpc", "rpc-whole", "rest", "rest-whole"])
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    shop = Workshop(*request.param.split())
    yield shop
    shop.child.kill()


@pytest.fixture
def streaming() -> Iterator[Workshop]:
    shop = Workshop()
    yield shop
    shop.child.kill()


def run(shop: Workshop, body: Callable[[Mesh], Awaitable[None]], **more: object) -> None:
    """A mesh with one link to the agent, called shop."""
    link = LinkSettings(name="shop", kind="a2a", address=shop.url, retry_s_max=0.2, **more)  # type: ignore[arg-type]

    async def main() -> None:
        async with Mesh(Config(data=":memory:", listen=NOWHERE, links=(link,))) as mesh, asyncio.timeout(40):
            await body(mesh)

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():  # noqa: ASYNC110 - the far side does it in its own time
            await asyncio.sleep(0.005)


async def present(mesh: Mesh, agent: str = "shop") -> None:
    await until(lambda: (found := mesh.broker.directory.get(agent)) is not None and found.state is State.ONLINE)


async def refused(mesh: Mesh, skill: str, **more: int) -> tuple[Reason, str]:
    with pytest.raises(RefusedError) as refusal:
        await mesh.call(skill, b"{}", agent="shop", **more)  # type: ignore[arg-type]
    return refusal.value.refusal.reason, refusal.value.refusal.detail


def test_its_skills_are_those_of_an_agent(streaming: Workshop) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh, "lathe")
        found = mesh.broker.directory.get("lathe")
        assert found is not None
        assert found.card is not None
        await until(lambda: len(found.card.skills) == SKILLS)  # type: ignore[union-attr]
        assert (found.card.name, found.card.version, found.card.description) == ("workshop", "7", "Does things.")
        skill = found.card.skill("text")
        assert skill is not None
        assert (skill.title, skill.description) == ("To text", "It texts.")
        assert "work" in skill.tags

    run(streaming, body, agent="lathe")


def test_calls_are_carried_with_all_that_agents_answer(workshop: Workshop) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        given = {"speed": 3, "colour": "grün", "deep": [1.5, None]}
        assert json.loads(await mesh.call("do", json.dumps(given).encode(), agent="shop")) == given
        said = await asyncio.to_thread(workshop.asked)
        assert said["parts"] == [{"data": given, "mediaType": "application/json"}]
        assert 0 < said["metadata"]["deadline_ms"] <= 60_000
        assert await mesh.call("do", "grün, no JSON".encode(), agent="shop") == "grün, no JSON".encode()
        assert await mesh.call("do", b"\x00\xff", agent="shop") == b"\x00\xff"
        assert await mesh.call("do", b"", agent="shop") == b"{}"
        assert await mesh.call("text", b"{}", agent="shop") == "grün".encode()
        assert await mesh.call("image", b"{}", agent="shop") == BYTES
        assert await mesh.call("nothing", b"{}", agent="shop") == b""
        assert await mesh.call("bare", b"{}", agent="shop") == b"just so"
        several = json.loads(await mesh.call("several", b"{}", agent="shop"))
        assert [part["text"] for part in several["parts"]] == ["one", "two"]
        assert await mesh.call("large", b"{}", agent="shop") == ("grün " * 200_000).encode()
        assert await refused(mesh, "fail") == (Reason.FAILED, "no steam")
        assert await refused(mesh, "reject") == (Reason.FAILED, "no steam")
        reason, why = await refused(mesh, "ask")
        assert (reason, "cannot answer: no steam" in why) == (Reason.FAILED, True)

    run(workshop, body)


def test_pieces_are_told_on_the_way(streaming: Workshop) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        told: list[bytes] = []
        assert await mesh.call("parts", b"{}", agent="shop", on_part=told.append) == b"all"
        assert told == [b"one", b"two"], "an artifact said anew is what it says last"
        told.clear()
        assert await mesh.call("words", b"{}", agent="shop", on_part=told.append) == b"Once upon a time"
        assert told == [b"Once ", b"upon ", b"a time"], "an artifact that grows is all of it"

    run(streaming, body)


def test_a_call_given_up_or_out_of_time_is_cancelled_there(workshop: Workshop) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        asking = asyncio.create_task(mesh.call("wait", b"{}", agent="shop"))
        await asyncio.to_thread(workshop.child.until_said, r"^asked")
        asking.cancel()
        await asyncio.to_thread(workshop.child.until_said, r"^cancelled")
        assert (await refused(mesh, "wait", deadline_ms=500))[0] is Reason.DEADLINE_PASSED
        await asyncio.to_thread(workshop.child.until_said, r"(?s)cancelled.*cancelled")

    run(workshop, body)


def test_what_is_asked_when_the_mesh_ends_is_cancelled_there(streaming: Workshop) -> None:
    asking: list[asyncio.Task[bytes]] = []

    async def body(mesh: Mesh) -> None:
        await present(mesh)
        asking.append(asyncio.create_task(mesh.call("wait", b"{}", agent="shop")))
        await asyncio.to_thread(streaming.child.until_said, r"^asked")

    run(streaming, body)
    streaming.child.until_said(r"^cancelled")
    assert asking[0].done()


def test_killed_while_asked_and_back(workshop: Workshop) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        asking = asyncio.create_task(mesh.call("wait", b"{}", agent="shop"))
        await asyncio.to_thread(workshop.child.until_said, r"^asked")
        workshop.child.kill()
        with pytest.raises(RefusedError) as refusal:
            await asking
        assert refusal.value.refusal.reason in (Reason.FAILED, Reason.AGENT_UNREACHABLE)
        await until(lambda: not mesh.broker.directory.offers("text"))
        await asyncio.to_thread(workshop.restart)
        await until(lambda: bool(mesh.broker.directory.offers("text")))
        assert await mesh.call("text", b"{}", agent="shop") == "grün".encode()
        assert "asked" in workshop.child.stdout
        assert '"wait"' not in workshop.child.stdout, "it is not asked again"

    run(workshop, body)


def test_one_that_goes_silent_is_away_until_it_speaks(streaming: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more calls open than clients usually have connections: the card is read beside them."""
    monkeypatch.setattr(a2a, "REFRESH_S", 0.2)
    monkeypatch.setattr(a2a_wire, "CONNECT_S", 4.0)

    async def body(mesh: Mesh) -> None:
        await present(mesh)
        waiting = [asyncio.create_task(mesh.call("wait", b"{}", agent="shop")) for _ in range(110)]
        await until(lambda: streaming.child.stdout.count('"wait"') == 110)
        assert await mesh.call("text", b"{}", agent="shop") == "grün".encode()
        os.kill(streaming.child.pid, signal.SIGSTOP)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        reasons = {error.refusal.reason for error in ended if isinstance(error, RefusedError)}
        assert reasons == {Reason.AGENT_UNREACHABLE}
        assert mesh._links_report is not None
        await until(lambda: "not answer in time" in str(mesh._links_report()[0]["error"]))  # type: ignore[misc]
        os.kill(streaming.child.pid, signal.SIGCONT)
        await until(lambda: bool(mesh.broker.directory.offers("text")))
        assert await mesh.call("text", b"{}", agent="shop") == "grün".encode()

    run(streaming, body)


def test_a_token_lets_in() -> None:
    shop = Workshop("s3cret")

    async def right(mesh: Mesh) -> None:
        await present(mesh)
        assert await mesh.call("text", b"{}", agent="shop") == "grün".encode()

    async def wrong(mesh: Mesh) -> None:
        assert mesh._links_report is not None
        await until(lambda: "401" in str(mesh._links_report()[0]["error"]))  # type: ignore[misc]
        assert not mesh.broker.directory.offers("text")

    try:
        run(shop, right, password="s3cret")
        run(shop, wrong, password="guess")
    finally:
        shop.child.kill()
