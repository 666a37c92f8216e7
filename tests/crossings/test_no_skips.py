"""Every cell of the table is walked on every machine: by clients that come with the package's own extras."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

CELLS = ("test_publishing", "test_calling", "test_clearing")
"""The tests that walk cells. ``test_more_clients`` walks no cell: a foreign client that is absent skips it."""

CLIENTS = {"paho": "paho-mqtt", "mcp": "mcp", "a2a": "a2a-sdk", "confluent_kafka": "confluent-kafka"}
"""What walks them, but for HTTP, which Python speaks itself: the module, and the package that brings it."""

SKIPS = {"require", "skip", "skipif", "xfail", "importorskip"}


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _parts(name: str) -> dict[str, ast.AST]:
    """A test, what sets it up, and everything in this folder that they import."""
    seen: dict[str, ast.AST] = {}
    wanted = ["conftest", name]
    while wanted:
        part = wanted.pop()
        if part not in seen:
            seen[part] = ast.parse((HERE / f"{part}.py").read_text())
            ours = (module for module in _imports(seen[part]) if module.startswith("tests.crossings."))
            wanted.extend(module.rpartition(".")[2] for module in ours)
    return seen


@pytest.mark.parametrize("test", CELLS)
def test_no_cell_can_be_skipped(test: str) -> None:
    for name, tree in _parts(test).items():
        words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        words |= {argument.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for argument in node.args}
        assert not words & SKIPS, name


def test_their_clients_are_installed_with_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {re.split(r"[^A-Za-z0-9_.-]", one)[0] for one in wanted}
    trees = [tree for test in CELLS for tree in _parts(test).values()]
    imported = {module.partition(".")[0] for tree in trees for module in _imports(tree)}
    assert imported & CLIENTS.keys() == CLIENTS.keys(), "a client the cells no longer use"
    assert set(CLIENTS.values()) <= declared


def test_here_absent_clients_fail_whoever_calls() -> None:
    """``.ci/run`` does not depend on its caller for it."""
    assert "\nexport CI=true\n" in (ROOT / ".ci" / "run").read_text()
