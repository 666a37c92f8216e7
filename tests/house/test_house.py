"""The house keeps its rules: read from the syntax trees, nothing is imported or run but for the last test.

Each rule comes with canaries, small invented sources that it must flag, so that no rule can fall asleep; and with
sources close to them that it must let pass, so that none is stricter than it says.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from tests.house import rules
from tests.house.sources import ROOMS, ROOT, files, project, tree_of

LONG = "\n".join(f"    x = {n}" for n in range(61))
TABLE = "T = {\n" + "".join(f"    {n}: {n},\n" for n in range(700)) + "}\n"


@dataclass(frozen=True)
class Rule:
    check: Callable[..., Iterable[rules.Finding]]
    canaries: list[Mapping[str, str]]
    fine: list[Mapping[str, str]] = field(default_factory=list)
    every_text: bool = False
    """Reads every text file of the project, not only Python."""


RULES = [
    Rule(
        rules.names_absolute,
        [{"tests/x.py": f"import {room}"} for room in ROOMS[:3]]
        + [{"bench/x.py": "from broker.log import contract"}, {"broker/x.py": "from . import clock"}],
        [{"tests/x.py": "from dragoman.broker import clock"}],
    ),
    Rule(
        rules.imports_point_down,
        [
            {"routing/x.py": "from dragoman.broker import clock"},
            {"broker/x.py": "import dragoman.adapters.mqtt"},
            {"broker/x.py": "from dragoman import __version__"},
            {"adapters/mqtt/x.py": "def f():\n    from dragoman.config import Config"},
        ],
        [{"adapters/mqtt/x.py": "from dragoman.broker.broker import Broker\nfrom dragoman.routing import names"}],
    ),
    Rule(
        rules.protocols_apart,
        [
            {"adapters/mqtt/x.py": "from dragoman.adapters.http import routes"},
            {"adapters/serving/x.py": "import dragoman.adapters.mcp.tools"},
            {"adapters/mcp/x.py": "from dragoman.adapters import http", "adapters/http/__init__.py": ""},
        ],
        [{"adapters/mqtt/x.py": "from dragoman.adapters.serving import tls\nfrom dragoman.adapters.mqtt import codec"}],
    ),
    Rule(
        rules.mesh_names_adapters,
        [
            {"dragoman/cli.py": "from dragoman.adapters.mqtt import listener"},
            {"dragoman/config.py": "from dragoman.adapters.mqtt.listener import Listener"},
        ],
        [
            {"dragoman/mesh.py": "from dragoman.adapters.mqtt import listener"},
            {"dragoman/config.py": "from dragoman.adapters.mqtt.settings import MqttSettings"},
        ],
    ),
    Rule(
        rules.routing_is_pure,
        [
            {"routing/x.py": "import asyncio"},
            {"routing/x.py": "import msgspec"},
            {"routing/x.py": "from time import time"},
            {"routing/x.py": "async def f(): ..."},
        ],
        [{"routing/x.py": "import re\nfrom collections.abc import Callable\nfrom dragoman.routing import names"}],
    ),
    Rule(
        rules.codecs_are_sans_io,
        [
            {"adapters/mqtt/codec.py": "import asyncio"},
            {
                "adapters/mqtt/codec.py": "from dragoman.adapters.mqtt import frames",
                "adapters/mqtt/frames.py": "from dragoman.adapters.mqtt.deep import Deep",
                "adapters/mqtt/deep.py": "import socket",
            },
            {"adapters/kafka/codec.py": "async def feed(): ..."},
        ],
        [{"adapters/mqtt/codec.py": "import struct", "adapters/mqtt/listener.py": "import asyncio"}],
    ),
    Rule(
        rules.one_clock,
        [
            {"broker/x.py": "import time"},
            {"broker/log/x.py": "from time import monotonic_ns"},
            {"broker/x.py": "import datetime\ndatetime.datetime.now()"},
            {"broker/x.py": "asyncio.get_running_loop().time()"},
            {"broker/x.py": "self._loop.time()"},
            {"routing/x.py": "uuid.uuid7()"},
        ],
        [{"broker/clock.py": "import time", "broker/x.py": "clock.now_ms()", "adapters/http/x.py": "import time"}],
    ),
    Rule(
        rules.one_disk,
        [
            {"broker/x.py": "open('f')"},
            {"broker/log/journal.py": "import os\nos.fdatasync(3)"},
            {"broker/log/journal.py": "from os import pwrite"},
            {"broker/x.py": "from pathlib import Path\nPath('f').read_bytes()"},
            {"broker/log/store.py": "from pathlib import Path\nself.folder.stat()"},
            {"broker/x.py": "import shutil"},
            {"broker/log/journal.py": "import lmdb"},
        ],
        [
            {"broker/log/disk.py": "import os\nos.open('f', 0)"},
            {"broker/log/store.py": "import lmdb\nfrom pathlib import Path\nself.env.stat()\ntxn.stat()"},
            {"broker/x.py": "import os\nos.urandom(8)\nself.log.open(1)\nname.replace('a', 'b')"},
        ],
    ),
    Rule(
        rules.nobody_unused,
        [
            {"routing/x.py": "import dragoman.routing.x"},
            {"routing/x.py": "", "tests/t.py": "import dragoman.routing.x"},
        ],
        [
            {"routing/x.py": "", "broker/__init__.py": "from dragoman.routing import x"},
            {
                "dragoman/mesh.py": "N = 'dragoman.adapters.mqtt.listener'",
                "adapters/mqtt/listener.py": "",
                "dragoman/__init__.py": "import dragoman.mesh",
            },
        ],
    ),
    Rule(
        rules.no_circles,
        [
            {"broker/a.py": "import dragoman.broker.b", "broker/b.py": "from dragoman.broker import a"},
            {
                "broker/a.py": "from dragoman.broker.b import B",
                "broker/b.py": "def f():\n    import dragoman.broker.c",
                "broker/c.py": "from dragoman.broker.a import A",
            },
        ],
        [
            {
                "broker/a.py": "import dragoman.broker.b",
                "broker/b.py": "",
                "broker/c.py": "import dragoman.broker.a\nimport dragoman.broker.b",
            },
            {
                "broker/a.py": "import dragoman.broker.b",
                "broker/b.py": "if TYPE_CHECKING:\n    from dragoman.broker.a import A",
            },
        ],
    ),
    Rule(
        rules.no_broad_except,
        [
            {"tests/x.py": "try:\n    pass\nexcept:\n    pass"},
            {"broker/x.py": "try:\n    pass\nexcept Exception:\n    pass"},
            {"adapters/mqtt/session.py": "try:\n    pass\nexcept (OSError, BaseException):\n    pass"},
        ],
        [{"adapters/mqtt/listener.py": "try:\n    pass\nexcept Exception:\n    raise"}],
    ),
    Rule(
        rules.no_loose_tasks,
        [
            {"broker/x.py": "asyncio.create_task(f())"},
            {"tests/x.py": "_ = asyncio.ensure_future(f())"},
            {"bench/x.py": "loop.create_task(f())"},
            {"adapters/mqtt/x.py": "call(lambda: asyncio.get_running_loop().create_task(f()))"},
        ],
        [{"broker/x.py": "task = asyncio.create_task(f())\ngroup.create_task(f())"}],
    ),
    Rule(
        rules.nothing_left_over,
        [{"broker/x.py": "# TO" + "DO later"}, {"tests/x.py": "raise NotImplemented" + "Error"}],
        [{"broker/x.py": "return NotImplemented"}],
    ),
    Rule(
        rules.no_machine_named,
        [
            {"docs/x.md": "see /wor" + "k/shared/x"},
            {"README.md": "/roo" + "t/.cache"},
            {"package-lock.json": '"resol' + 'ved": "u"'},
        ],
        [{"docs/x.md": "publish to plant/work/1"}],
        every_text=True,
    ),
    Rule(
        rules.files_short, [{"broker/x.py": "x = 1\n" * 601}], [{"broker/x.py": TABLE}, {"tests/x.py": "x = 1\n" * 600}]
    ),
    Rule(
        rules.functions_short,
        [{"broker/x.py": f"def f():\n{LONG}"}, {"broker/x.py": f"class C:\n  async def f(self):\n{LONG}"}],
        [{"broker/x.py": 'def f():\n    """D' + "\n" * 70 + '    """\n    return 1'}],
    ),
]
BY_NAME = [pytest.param(rule, id=rule.check.__name__) for rule in RULES]


def _findings(rule: Rule, sources: Mapping[str, str]) -> list[str]:
    found = (f"{path}:{line}: {what}" for path, line, what in rule.check(tree_of(sources)))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("rule", BY_NAME)
def test_the_house_keeps(rule: Rule) -> None:
    sources = files() if rule.every_text else {path: source.text for path, source in project().items()}
    findings = _findings(rule, sources)
    assert not findings, "\n" + "\n".join(findings)


@pytest.mark.parametrize("rule", BY_NAME)
def test_the_rule_bites(rule: Rule) -> None:
    asleep = [canary for canary in rule.canaries if not _findings(rule, canary)]
    assert not asleep, f"not flagged: {asleep}"
    barked = [(innocent, found) for innocent in rule.fine if (found := _findings(rule, innocent))]
    assert not barked, f"flagged without cause: {barked}"


def test_every_room_is_seen() -> None:
    assert {source.room for source in project().values()} >= {*ROOMS, "tests", "bench"}
    assert ".ci/run" in files()
    assert not any(path.startswith("dragoman/broker/") for path in project()), "the links are not followed"


def test_routing_loads_no_loop() -> None:
    """An embedder that wants only names, filters or messages does not pay for asyncio, sockets or any package."""
    modules = sorted(s.module for s in project().values() if s.room == "routing")
    assert "dragoman.routing.names" in modules
    program = (
        "import sys; before = set(sys.modules)\n"
        f"for name in {modules!r}: __import__(name)\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "dragoman" in loaded
    assert not loaded & {"asyncio", "socket", "ssl", "selectors", "uvloop", "aiohttp", "lmdb", "logging"}
    assert not {name for name in loaded if name not in sys.stdlib_module_names} - {"dragoman"}
