"""docs/mqtt-conformance.md does not rot: all statements are there, and every test it names exists."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from typing import NamedTuple

from tests.clients.tools import ROOT
from tests.interop.suites import SUITES
from tests.mqtt.corpus import CASES
from tests.mqtt.corpus_refused import REFUSED
from tests.mqtt.test_spec_connect import MALFORMED_CONNECTS

PAGE = ROOT / "docs" / "mqtt-conformance.md"

# Section → how many statements the standard numbers in it, from 1; section 2.2.1 begins with 2.
NUMBERED = """
    1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:6 2.2.2:1 3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22 3.3.1:13
    3.3.2:20 3.3.4:10 3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2 3.10.1:1
    3.10.3:2 3.10.4:6 3.11.2:2 3.11.3:2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3 3.15.1:1 3.15.2:3 4.1.0:2 4.2:1
    4.3.1:1 4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 4.6.0:6 4.7.0:1 4.7.1:2 4.7.2:1 4.7.3:4 4.8.2:6 4.9.0:3 4.12.0:7 4.12.1:2
    4.13.1:1 4.13.2:1 6.0.0:4
"""
CASES_OF = {
    "test_refused": {case.id for case in REFUSED},
    "test_whole": {case.id for case in CASES},
    "test_encodes_to_the_same_bytes": {case.id for case in CASES if case.canonical},
    "test_a_connect_of_the_wrong_form_closes": {case.id for case in MALFORMED_CONNECTS},
}
"""Of these the page names single cases."""


class Row(NamedTuple):
    id: str
    says: str
    binds: str
    tests: list[str]


def statements() -> list[str]:
    sections = (each.partition(":") for each in NUMBERED.split())
    return [
        f"{section}-{number}"
        for section, _, count in sections
        for number in range(1 + (section == "2.2.1"), int(count) + 1)
    ]


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| MQTT-"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 4, line
            found.append(Row(cells[0].removeprefix("MQTT-"), *cells[1:3], [t.strip("`") for t in cells[3].split(", ")]))
    return found


@functools.cache
def functions(path: str) -> set[str]:
    """The tests of a file, read and not run."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_statement_is_there_once_and_in_order() -> None:
    assert len(statements()) == 251
    assert Counter(row.id for row in rows()) == Counter(statements())
    assert [row.id for row in rows()] == statements()


def test_each_says_something_short_and_whom_it_binds() -> None:
    for row in rows():
        assert 0 < len(row.says.split()) <= 15, row
        assert row.binds in ("server", "client", "both"), row


def test_what_binds_a_server_has_a_test() -> None:
    without = [row for row in rows() if row.tests == ["client"]]
    assert {row.binds for row in without} <= {"client"}, without
    assert len(without) == 9, "a client's other mistakes are noticed"


def test_every_test_named_exists() -> None:
    for row in rows():
        for named in row.tests:
            if row.tests == ["client"]:
                continue
            match = re.fullmatch(r"(tests/\w+/test_\w+\.py)::(test_\w+)(?:\[(.+)\])?", named)
            assert match, (row.id, named)
            path, function, case = match.groups()
            assert function in functions(path), (row.id, named)
            assert case is None or case in CASES_OF[function], (row.id, named)


def test_what_the_code_cites_is_a_statement() -> None:
    """In comments and in the words of refusals, as [3.1.2-24]."""
    known = set(statements())
    for path in (*ROOT.glob("adapters/mqtt/*.py"), *ROOT.glob("tests/mqtt/*.py")):
        for cited in re.findall(r"\[(?:MQTT-)?(\d+(?:\.\d+){1,2}-\d+)[],]", path.read_text("utf-8")):
            assert cited in known, f"{path} cites [{cited}]"


def test_the_suites_have_their_lines() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    for suite in SUITES:
        (line,) = (line for line in lines if line.startswith(f"| [{suite.name}]({suite.url}) |"))
        assert line.count("|") == 6, line
