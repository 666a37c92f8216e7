"""What is kept for those who are away, as the administration sees it: on a real mesh, with a real MQTT client."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client


def ask(mesh: MeshProcess, path: str, body: object = None, method: str = "GET") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(mesh.url + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def test_sessions_groups_and_dead_letters(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], object]
) -> None:
    sub = str(require("mosquitto_sub"))
    mesh = mesh_process()
    port = str(mesh.port("mqtt"))
    topics = ["-t", "alerts/#", "-t", "mesh/me/in", "-t", "$share/crew/jobs/#"]
    run_client([sub, "-p", port, "-i", "lamp", "-c", "-q", "1", *topics, "-E"])

    (session,) = ask(mesh, "/v1/admin/sessions")["sessions"]
    assert (session["id"], session["protocol"], session["agent"]) == ("lamp", "mqtt", "lamp")
    assert session["connected"] is False
    assert session["expires_ms"] > 0
    assert set(session["filters"]) == {"alerts/#", "mesh/me/in", "$share/crew/jobs/#"}
    assert ask(mesh, "/v1/admin/sessions?agent=nobody") == {"total": 0, "sessions": []}

    ask(mesh, "/v1/groups/painters", {"filter": "paint/#", "deliveries_max": 1, "backoff_ms": 1}, "PUT")
    found = ask(mesh, "/v1/admin/groups")
    assert [group["name"] for group in found["groups"]] == ["painters"]
    assert [(share["group"], share["filter"], share["members"]) for share in found["shares"]] == [
        ("crew", "jobs/#", ["lamp"])
    ]
    assert [mailbox["name"] for mailbox in found["mailboxes"]] == ["mailbox of lamp"]

    assert ask(mesh, "/v1/admin/dead-letters") == {"letters": []}
    ask(mesh, "/v1/channels/paint/1", "the fence", "POST")
    (delivery,) = ask(mesh, "/v1/groups/painters/pull", method="POST")["deliveries"]
    ask(mesh, "/v1/groups/painters/reject", {"ids": [delivery["delivery"]]}, "POST")
    letters = mesh.child.until(lambda: ask(mesh, "/v1/admin/dead-letters")["letters"] or None, "the letter", 10)
    assert [(letter["group"], letter["message"]["payload"]) for letter in letters] == [("painters", '"the fence"')]
