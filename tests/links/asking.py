"""What tests ask a mesh in a process of its own, over its administration and its channels."""

from __future__ import annotations

import json
import urllib.request
from urllib.parse import quote

from tests.clients.mesh import MeshProcess


def _ask(mesh: MeshProcess, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
    asked = urllib.request.Request(mesh.url + path, body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(asked) as answer:
        said: bytes = answer.read()
        return said


def declare(mesh: MeshProcess, name: str) -> None:
    """Has a channel keep everything."""
    _ask(mesh, f"/v1/channels/{quote(name)}", "PUT", b'{"keeps": "all"}')


def pulled(mesh: MeshProcess, least: int) -> None:
    """Waits until the first link has pulled so many since the mesh started."""

    def look() -> bool | None:
        return json.loads(_ask(mesh, "/v1/admin/links"))["links"][0]["pulled"] >= least or None

    mesh.child.until(look, f"{least} messages pulled")


def channel(mesh: MeshProcess, name: str, count: int) -> list[int]:
    """The numbers said in a channel, once there are ``count`` of them."""

    def look() -> list[int] | None:
        found: list[int] = []
        offset = 0
        while True:
            page = json.loads(_ask(mesh, f"/v1/channels/{quote(name)}?offset={offset}&limit=1000"))
            messages = page["messages"]
            if not messages:
                return found if len(found) >= count else None
            found += [int(message["payload"]) for message in messages]
            offset = page["next_offset"]

    return mesh.child.until(look, f"{count} messages in {name}")
