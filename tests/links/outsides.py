"""Outside brokers as links meet them: in processes of their own, killed and started again on the same port."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dragoman.adapters.links.settings import LinkSettings, RouteSettings
from dragoman.config import Config
from dragoman.mesh import Mesh
from tests.clients.processes import Child

WAIT_S = 20.0
Found = TypeVar("Found")

MOSQUITTO = """\
listener {port} 127.0.0.1
user root
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
{more}
"""


def free_port() -> int:
    """A port that is free now: the same one is needed again after a kill, so no broker may choose it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Outside:
    """A broker on a port of its own. It runs from ``start`` to ``kill``, and again."""

    def __init__(self, argv: list[str]) -> None:
        self.port = 0
        self._argv = argv
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> Self:
        """Starts it and waits until it takes connections."""
        child = self._child = Child(self._argv)
        child.until(self._answers, f"listener on {self.port}")
        return self

    def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.kill()

    def _answers(self) -> bool | None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return None


class Mosquitto(Outside):
    """A real mosquitto, which keeps what it acknowledges over a kill."""

    def __init__(
        self, program: str, folder: Path, *, users: dict[str, str] | None = None, more: str = "", port: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__([program, "-c", str(folder / "mosquitto.conf")])
        self.port = port or free_port()
        if users is not None:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{user}:{_hashed(password)}\n" for user, password in users.items()))
            passwords.chmod(0o600)
            more += f"\npassword_file {passwords}"
        more += f"\nallow_anonymous {'false' if users else 'true'}"
        (folder / "mosquitto.conf").write_text(MOSQUITTO.format(port=self.port, folder=folder, more=more))


class Nats(Outside):
    """A real nats-server, with JetStream in a folder that outlives kills."""

    def __init__(self, program: str, folder: Path, *, more: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__([program, "-c", str(folder / "nats.conf")])
        self.port = free_port()
        store = f'jetstream {{ store_dir: "{folder}/store", sync_interval: always }}'
        (folder / "nats.conf").write_text(f"host: 127.0.0.1\nport: {self.port}\n{store}\n{more}\n")


def _hashed(password: str) -> str:
    """As mosquitto_passwd writes it."""
    salt = b"twelve bytes"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def route(filter_: str, to: str = "{name}") -> RouteSettings:
    """One row of pull or push."""
    return RouteSettings(filter_, to)


def link(kind: str, port: int, name: str = "out", **settings: Any) -> LinkSettings:
    """A link to this machine that does not wait long between attempts."""
    settings = {"retry_s_max": 0.2, **settings}
    return LinkSettings(name, kind, f"{kind}://127.0.0.1:{port}", **settings)


def linked(*links: LinkSettings, data: str = ":memory:", **settings: Any) -> Mesh:
    """A mesh in this process with these links and no listeners but those in ``settings``."""
    return Mesh(dataclasses.replace(Config.embedded(data), links=links, **settings))


async def until(look: Callable[[], Found | bool | None], what: str) -> Found:
    """Looks in each turn of the loop until there is something, with a deadline."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = look()
        if found:
            return found  # type: ignore[return-value]
        assert time.monotonic() < deadline, f"no {what} within {WAIT_S:g} s"
        await asyncio.sleep(0.01)


def reports(mesh: Mesh) -> list[dict[str, Any]]:
    """How the links of a mesh stand."""
    return mesh._links_report()


async def up(mesh: Mesh) -> None:
    """Waits until every link of the mesh is up."""
    await until(lambda: all(report["state"] == "up" for report in reports(mesh)), f"link up: {reports(mesh)}")


async def settled(mesh: Mesh) -> None:
    """Waits until nothing is on its way over any link."""
    await until(
        lambda: all(not (r["push_waiting"] or r["push_lag"] or r["pull_waiting"]) for r in reports(mesh)),
        "end of what is under way",
    )
