"""Links to MCP servers, against the official SDK's server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from mcp import Client

from dragoman import Mesh
from dragoman.adapters.links.settings import LinkSettings, RouteSettings
from dragoman.adapters.serving.mcp_forms import skills_of
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.presence import State
from dragoman.config import Config
from dragoman.routing.refusals import Reason, RefusedError
from tests.clients.mesh import ANY_PORT
from tests.clients.processes import Child

NOWHERE = Config.embedded().listen
SERVER = Path(__file__).with_name("mcp_server.py")
BYTES = b"\x89PNG\x00\xff"


class Toolbox:
    """The server. ``url`` stays the same over restarts."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.child = self._start("0")
        self.port = self.child.until_said(r"^port (\d+)").group(1)
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def _start(self, port: str) -> Child:
        return Child([sys.executable, str(SERVER), port, *self._words])

    def restart(self) -> None:
        """It dies and comes back."""
        self.child.kill()
        self.child = self._start(self.port)
        self.child.until_said(r"^port")


@pytest.fixture(params=["modern", "legacy"])
def toolbox(request: pytest.FixtureRequest) -> Iterator[Toolbox]:
    box = Toolbox(*(["legacy"] if request.param == "legacy" else []))
    yield box
    box.child.kill()


def run(url: str, body: Callable[[Mesh], Awaitable[None]], listen: ListenSettings = NOWHERE, **more: object) -> None:
    """A mesh with one link to an MCP server, called shop."""
    link = LinkSettings(name="shop", kind="mcp", address=url, retry_s_max=0.2, **more)  # type: ignore[arg-type]

    async def main() -> None:
        config = Config(data=":memory:", listen=listen, links=(link,))
        async with Mesh(config) as mesh, asyncio.timeout(30):
            await body(mesh)

    asyncio.run(main())


async def present(mesh: Mesh, agent: str = "shop") -> None:
    """Returns when the agent is there."""
    await until(lambda: (found := mesh.broker.directory.get(agent)) is not None and found.state is State.ONLINE)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def skills(mesh: Mesh, agent: str = "shop") -> list[str]:
    found = mesh.broker.directory.get(agent)
    assert found is not None
    assert found.card is not None
    return [skill.name for skill in found.card.skills]


async def refused(mesh: Mesh, skill: str, arguments: bytes = b"{}") -> tuple[Reason, str]:
    with pytest.raises(RefusedError) as refusal:
        await mesh.call(skill, arguments, agent="shop")
    return refusal.value.refusal.reason, refusal.value.refusal.detail


def test_its_tools_are_the_skills_of_an_agent(toolbox: Toolbox) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh, "press-brake")
        await until(lambda: len(skills(mesh, "press-brake")) == 11)
        found = mesh.broker.directory.get("press-brake")
        assert found is not None
        assert found.card is not None
        assert (found.card.name, found.card.version) == ("toolbox", "7")
        assert found.card.description == "Tools of the shop floor."
        skill = found.card.skill("do")
        assert skill is not None
        assert skill.title == "Does it"
        assert skill.input_schema is not None
        assert skill.input_schema["required"] == ["speed"]
        assert skill.output_schema is not None
        text = found.card.skill("text")
        assert text is not None
        assert text.description == "The tool text.", "control characters are gone"

    run(toolbox.url, body, agent="press-brake")


def test_calls_are_carried_with_all_that_tools_answer(toolbox: Toolbox) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        answer = await mesh.call("do", '{"speed": 3, "colour": "grün"}'.encode(), agent="shop")
        assert answer == '{"done": true, "note": "grün"}'.encode(), "as the server spelled it"
        said = toolbox.child.until_said(r"^asked (.*)").group(1)
        assert json.loads(said) == {"speed": 3, "colour": "grün"}
        assert await mesh.call("text", b"", agent="shop") == b"just so"
        assert await mesh.call("image", b"{}", agent="shop") == BYTES
        assert await mesh.call("file", b"{}", agent="shop") == BYTES
        assert await mesh.call("nothing", b"{}", agent="shop") == b""
        several = json.loads(await mesh.call("several", b"{}", agent="shop"))
        assert [block["text"] for block in several["content"]] == ["one", "two"]
        parts: list[bytes] = []
        assert await mesh.call("parts", b"{}", agent="shop", on_part=parts.append) == b"all"
        assert parts == [b"one", b'{"progress": 2.0, "total": 3.0}']
        assert await refused(mesh, "fail") == (Reason.FAILED, "the part is missing")
        for wrong in (b"[1]", b"no", b"[" * 100_000):
            assert (await refused(mesh, "text", wrong))[0] is Reason.ARGUMENTS_INVALID

    run(toolbox.url, body)


def test_a_call_given_up_is_cancelled_there(toolbox: Toolbox) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        asking = asyncio.create_task(mesh.call("wait", b"{}", agent="shop"))
        await asyncio.to_thread(toolbox.child.until_said, r"^asked")
        asking.cancel()
        await asyncio.to_thread(toolbox.child.until_said, r"^cancelled")
        with pytest.raises(RefusedError) as late:
            await mesh.call("wait", b"{}", agent="shop", deadline_ms=50)
        assert late.value.refusal.reason is Reason.DEADLINE_PASSED
        await asyncio.to_thread(toolbox.child.until_said, r"^cancelled\nasked\ncancelled")
        assert await mesh.call("text", b"{}", agent="shop") == b"just so"

    run(toolbox.url, body)


def test_tools_that_come_and_go_are_followed(toolbox: Toolbox) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        await until(lambda: "do" in skills(mesh))
        await asyncio.sleep(0)
        while "offered" not in skills(mesh):
            # Until the stream of notices is open one may be missed.
            await mesh.call("offer", b"{}", agent="shop")
            await asyncio.sleep(0.05)
        await mesh.call("withdraw", b"{}", agent="shop")
        await until(lambda: "offered" not in skills(mesh))
        assert "do" in skills(mesh)

    run(toolbox.url, body)


def test_a_server_that_dies_and_returns_is_an_agent_that_does(toolbox: Toolbox) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        asking = asyncio.create_task(mesh.call("wait", b"{}", agent="shop"))
        await asyncio.to_thread(toolbox.child.until_said, r"^asked")
        toolbox.child.kill()
        with pytest.raises(RefusedError) as lost:
            await asking
        assert lost.value.refusal.reason in (Reason.FAILED, Reason.AGENT_UNREACHABLE)
        await until(lambda: (found := mesh.broker.directory.get("shop")) is None or found.state is not State.ONLINE)
        await asyncio.to_thread(toolbox.restart)
        await present(mesh)
        assert await mesh.call("text", b"{}", agent="shop") == b"just so"

    run(toolbox.url, body)


def test_a_session_the_server_forgot_is_opened_anew() -> None:
    box = Toolbox("legacy")

    async def body(mesh: Mesh) -> None:
        await present(mesh)
        await asyncio.to_thread(box.restart)
        async with asyncio.timeout(20):
            while True:
                try:
                    answer = await mesh.call("text", b"{}", agent="shop", deadline_ms=2_000)
                except RefusedError:
                    await asyncio.sleep(0.05)
                else:
                    break
        assert answer == b"just so"

    try:
        run(box.url, body)
    finally:
        box.child.kill()


def test_a_token_opens_the_door_and_without_it_the_link_says_why() -> None:
    box = Toolbox("s3cret")

    async def welcome(mesh: Mesh) -> None:
        await present(mesh)
        assert await mesh.call("text", b"{}", agent="shop") == b"just so"

    async def sorry(mesh: Mesh) -> None:
        (report,) = mesh._links_report()
        await until(lambda: mesh._links_report()[0]["error"] != "")
        (report,) = mesh._links_report()
        assert report["state"] in ("down", "connecting")
        assert "a fault of ours" not in str(report["error"])
        assert mesh.broker.directory.get("shop") is None

    try:
        run(box.url, welcome, password="s3cret")
        run(box.url, sorry, password="wrong")
    finally:
        box.child.kill()


def test_tools_of_a_linked_server_are_not_passed_on_so_rings_of_meshes_do_not_grow(toolbox: Toolbox) -> None:
    async def body(mesh: Mesh) -> None:
        await present(mesh)
        async with Client(f"http://{mesh.addresses['http']}/mcp", cache=None) as client:
            tools = (await client.list_tools()).tools
        names = {tool.name for tool in tools}
        assert {"do", "text"} < names, "who uses the mesh has them"
        further, faults = skills_of(tools)
        assert {skill.name for skill in further} == {name for name in names if name.startswith("mesh_")}
        assert not faults

    run(toolbox.url, body, ListenSettings(mqtt="off", kafka="off", http=ANY_PORT))


def test_a_server_that_is_not_there_is_waited_for() -> None:
    async def body(mesh: Mesh) -> None:
        await until(lambda: mesh._links_report()[0]["error"] != "")
        assert "a fault of ours" not in str(mesh._links_report()[0]["error"])

    run("http://127.0.0.1:9/mcp", body)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"address": "ftp://x/mcp"}, "begins with http:// or https://"),
        ({"address": "http://a:b@x/mcp"}, "a token goes into password"),
        ({"address": "http:///mcp"}, "no URL"),
        ({"pull": (RouteSettings("a"),)}, "no pull or push"),
    ],
)
def test_what_cannot_be_a_link_to_an_mcp_server_is_explained(more: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"name": "x", "kind": "mcp", "address": "http://x/mcp", **more}
    with pytest.raises(ValueError, match=said):
        LinkSettings(**given)  # type: ignore[arg-type]
