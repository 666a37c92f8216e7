"""The tour is true: its shell blocks run as they stand, in one shell, against a fresh mesh; what it shows appears.

A ``text`` block shows what the ``sh`` block before it printed. Lines may be left out and ``…`` stands for anything;
what is shown must come in this order. The default ports in it stand for those that are free here.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clients.processes import Child

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOOLS = ("curl", "kcat", "mosquitto_pub", "mosquitto_sub", "mosquitto_rr")
MARK = "= = = {} = = ="


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(TOUR.read_text("utf-8"))]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def unseen(shown: str, said: str) -> str | None:
    """The first line of ``shown`` that ``said`` does not have after the lines before it."""
    at = 0
    for line in shown.splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        found = re.compile(rf"^{pattern}[ \t]*$", re.MULTILINE).search(said, at)
        if found is None:
            return line
        at = found.end()
    return None


@pytest.mark.parametrize(
    ("shown", "said", "missing"),
    [
        ("one\ntwo\n", "zero\none\ntwo\n", None),
        ("two\none\n", "one\ntwo\n", "one"),
        ("o…e\n", "one\n", None),
        ("one\n", "one more\n", "one"),
        ("one\n", "not one\n", "one"),
        ("one\none\n", "one\n", "one"),
        ("a…b\n", "a\nb\n", "a…b"),
    ],
)
def test_what_is_shown_is_looked_for(shown: str, said: str, missing: str | None) -> None:
    assert unseen(shown, said) == missing


def test_every_sh_block_shows_what_it_printed() -> None:
    kinds = [kind for kind, _ in blocks()]
    assert set(kinds) <= {"sh", "text"}
    assert kinds.count("sh") >= 15
    assert [pair for pair in pairwise([*kinds, "sh"]) if pair != ("sh", "text")] == [("text", "sh")] * kinds.count("sh")


@pytest.mark.slow
def test_the_tour_is_true(require: Callable[[str], str], tmp_path: Path) -> None:
    found = [str(Path(require(tool)).parent) for tool in TOOLS]
    mqtt, kafka, http = free_ports(3)
    script = [
        "set -eo pipefail",
        *(line for n, text in enumerate(_texts("sh")) for line in (f"echo; echo '{MARK.format(n)}'", text)),
    ]
    env = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), *found, os.environ["PATH"])),
        "MQTT_PORT": str(mqtt),
        "KAFKA_PORT": str(kafka),
        "HTTP_PORT": str(http),
        "COLUMNS": "100",
    }
    argv = ["env", "-u", "DRAGOMAN_URL", "-u", "DRAGOMAN_TOKEN", "bash", "-c", "\n".join(script)]
    with Child(argv, env=env, cwd=tmp_path) as shell:
        ended = shell.wait(60)
    told = f"\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    for n, shown in enumerate(_texts("text")):
        _, mark, said = ended.stdout.partition(MARK.format(n) + "\n")
        assert mark, f"block {n} of the tour was not reached{told}"
        said = said.partition(MARK.format(n + 1))[0]
        shown = shown.replace(":1883\n", f":{mqtt}\n").replace(":9092\n", f":{kafka}\n").replace(":8080/", f":{http}/")
        line = unseen(shown, said)
        assert line is None, f"block {n} of the tour shows {line!r}; what was said is\n{said}\n{ended.stderr[-3000:]}"
    assert ended.code == 0, told


def _texts(kind: str) -> list[str]:
    return [text for found, text in blocks() if found == kind]
