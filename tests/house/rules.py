"""The rules of the house, one function each: given the project's sources, yields what breaks the rule.

A rule looks at the whole tree so that it can be run on a small invented one: its canary.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

from tests.house.sources import ROOMS, Import, Source, Tree, dotted

LINES_MAX = 600
FUNCTION_LINES_MAX = 60
TABLE_LINES_MIN = 20
"""A literal at module level longer than this is data and does not count as lines of code."""

Finding = tuple[str, int, str]
"""Path, line, and what is wrong there."""

ASYNC_AND_SOCKETS = frozenset({"asyncio", "uvloop", "aiohttp", "socket", "ssl", "select", "selectors", "socketserver"})
IMPURE = ASYNC_AND_SOCKETS | {
    *("threading", "multiprocessing", "subprocess", "concurrent", "signal", "logging", "http", "urllib.request"),
    *("os", "io", "pathlib", "shutil", "tempfile", "mmap", "time", "random", "secrets"),
}
FILE_MODULES = frozenset({"shutil", "tempfile", "mmap", "fcntl", "glob"})
OS_ALLOWED = frozenset({"urandom", "getpid", "fspath", "PathLike", "environ", "cpu_count", "strerror"})
PATH_CALLS = re.compile(
    r"(?<!\benv)(?<!\btxn)\.(chmod|exists|glob|hardlink_to|is_dir|is_file|iterdir|mkdir|open|read_bytes|read_text|rename|replace|rglob"
    r"|rmdir|stat|symlink_to|touch|unlink|write_bytes|write_text)$"
)
CLOCK_CALLS = re.compile(
    r"(^|\.)(datetime|date)\.(now|utcnow|today)$|loop(\(\))?\.time$|(^|\.)uuid\.uuid[167]$|^uuid[167]$"
)
# The patterns below are written so that this file does not match them.
LEFT_OVER = re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K|NotImplemented[E]rror)\b")
MACHINE = re.compile(
    r"/wor[k]/(main|scratch|shared|venv|\.)|/roo[t]/\.|/opt/whee[l]s|\.librar[y]/|\bfar[m]-\w|[\"]resolve[d]\":"
)
BROAD = frozenset({"Exception", "BaseException"})
BOUNDARIES = (
    "dragoman/mesh.py",
    "dragoman/cli.py",
    "dragoman/embedded.py",
    "adapters/serving/web.py",
    "adapters/mqtt/websocket.py",
)
"""Where, besides every listener.py, whatever went wrong is caught: logged with its traceback, never gone on from."""
ENTRY_POINTS = frozenset({"dragoman", "dragoman.__main__"})


def names_absolute(tree: Tree) -> Iterator[Finding]:
    for source in tree.values():
        for found in source.imports():
            if found.level:
                yield source.path, found.line, "relative import"
            elif found.name.partition(".")[0] in ROOMS[:3]:
                yield source.path, found.line, f"imports {found.name!r}; its name is 'dragoman.{found.name}'"


def imports_point_down(tree: Tree) -> Iterator[Finding]:
    for source in _rooms(tree):
        floor = ROOMS.index(source.room)
        for found in _ours(source, tree):
            room = _room_of(found.name)
            if ROOMS.index(room) > floor:
                yield source.path, found.line, f"{source.room} imports {found.name}, which lives above it"


def protocols_apart(tree: Tree) -> Iterator[Finding]:
    for source in _rooms(tree, "adapters"):
        folder = source.path.split("/")[1]
        for found in _ours(source, tree):
            parts = found.name.split(".")
            if parts[1:2] == ["adapters"] and len(parts) > 2 and parts[2] not in (folder, "serving"):
                yield source.path, found.line, f"adapters/{folder} imports {found.name}"


def mesh_names_adapters(tree: Tree) -> Iterator[Finding]:
    """Only the composition root names adapters; config.py may name their settings, which it composes."""
    for source in _rooms(tree, "dragoman"):
        if source.path == "dragoman/mesh.py":
            continue
        for found in _ours(source, tree):
            settings = source.path == "dragoman/config.py" and found.name.endswith("settings")
            if _room_of(found.name) == "adapters" and not settings:
                yield source.path, found.line, f"names {found.name}; only dragoman/mesh.py does"


def routing_is_pure(tree: Tree) -> Iterator[Finding]:
    for source in _rooms(tree, "routing"):
        for found in source.imports():
            top = found.name.partition(".")[0]
            if top != "dragoman" and (top in IMPURE or found.name in IMPURE or top not in sys.stdlib_module_names):
                yield source.path, found.line, f"routing imports {found.name}"
        yield from _coroutines(source)


def codecs_are_sans_io(tree: Tree) -> Iterator[Finding]:
    for source in _codecs(tree):
        for found in source.imports():
            if found.name.partition(".")[0] in ASYNC_AND_SOCKETS:
                yield source.path, found.line, f"a codec (or what it imports in its folder) imports {found.name}"
        yield from _coroutines(source)


def one_clock(tree: Tree) -> Iterator[Finding]:
    for source in _rooms(tree, "routing", "broker"):
        if source.path == "broker/clock.py":
            continue
        for found in source.imports():
            if found.name == "time":
                yield source.path, found.line, "imports time; take a broker.clock.Clock"
        for line, name in source.calls():
            if CLOCK_CALLS.search(name):
                yield source.path, line, f"reads a clock: {name}()"


def one_disk(tree: Tree) -> Iterator[Finding]:
    for source in _rooms(tree, "routing", "broker"):
        if source.path == "broker/log/disk.py":
            continue
        imported = {found.name.partition(".")[0]: found.line for found in source.imports()}
        for name in FILE_MODULES & set(imported):
            yield source.path, imported[name], f"imports {name}; file calls live in broker/log/disk.py"
        if "lmdb" in imported and source.path != "broker/log/store.py":
            yield source.path, imported["lmdb"], "imports lmdb; it lives in broker/log/store.py"
        yield from _file_calls(source, has_paths="pathlib" in imported)


def nobody_unused(tree: Tree) -> Iterator[Finding]:
    """A module nobody imports is dead. The composition root may name one in a string, to import it only if enabled."""
    wanted = set(ENTRY_POINTS)
    for source in _rooms(tree):
        wanted.update(found.name for found in _ours(source, tree) if found.name != source.module)
        if source.path == "dragoman/mesh.py":
            texts = (node.value for node in source.nodes if isinstance(node, ast.Constant))
            wanted.update(text for text in texts if isinstance(text, str))
    for source in _rooms(tree):
        if not source.path.endswith("__init__.py") and source.module not in wanted:
            yield source.path, 1, "imported by no module of ours"


def no_circles(tree: Tree) -> Iterator[Finding]:
    """Two classes may name each other's types; what counts is what is carried out, inside functions too.

    Not counted: dragoman/__init__.py, whose one import is made on first use.
    """
    edges = {
        source.module: sorted(
            {found.name for found in _ours(source, tree) if not found.typing_only} - {source.module, "dragoman"}
        )
        for source in _rooms(tree)
        if source.module != "dragoman"
    }
    paths = {source.module: source.path for source in _rooms(tree)}
    done: set[str] = set()
    for start in sorted(edges):
        circle = _circle(start, edges, [], done)
        if circle:
            yield paths[circle[0]], 1, " → ".join(circle)


def no_broad_except(tree: Tree) -> Iterator[Finding]:
    for source in tree.values():
        meets_the_loop = source.path.endswith("/listener.py") or source.path in BOUNDARIES
        for node in source.nodes:
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                yield source.path, node.lineno, "bare except"
            elif isinstance(node, ast.ExceptHandler) and source.room in ROOMS and not meets_the_loop:
                for name in _names(node.type) & BROAD:
                    yield source.path, node.lineno, f"except {name}"


def no_loose_tasks(tree: Tree) -> Iterator[Finding]:
    """A task's reference is kept, or a task group owns it; the loop itself keeps only a weak one."""
    for source in tree.values():
        for node in source.nodes:
            dropped = node.value if isinstance(node, ast.Expr) else node.body if isinstance(node, ast.Lambda) else None
            if isinstance(node, ast.Assign) and dotted(node.targets[0]) == "_":
                dropped = node.value
            if isinstance(dropped, ast.Call) and _starts_loose_task(dotted(dropped.func)):
                yield source.path, dropped.lineno, f"{dotted(dropped.func)}() without keeping the task"


def nothing_left_over(tree: Tree) -> Iterator[Finding]:
    yield from _matching(tree, LEFT_OVER)


def no_machine_named(tree: Tree) -> Iterator[Finding]:
    yield from _matching(tree, MACHINE)


def files_short(tree: Tree) -> Iterator[Finding]:
    for source in tree.values():
        if not source.path.endswith(".py"):
            continue
        tables = sum(
            _span(node)
            for node in source.tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and _span(node) > TABLE_LINES_MIN
        )
        lines = source.text.count("\n") - tables
        if lines > LINES_MAX:
            yield source.path, 1, f"{lines} lines besides tables, at most {LINES_MAX}"


def functions_short(tree: Tree) -> Iterator[Finding]:
    for source in tree.values():
        for node in source.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
                lines = _span(node) - (_span(text) if text else 0)
                if lines > FUNCTION_LINES_MAX:
                    yield source.path, node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def _rooms(tree: Tree, *rooms: str) -> Iterator[Source]:
    return (source for source in tree.values() if source.room in (rooms or ROOMS))


def _ours(source: Source, tree: Tree) -> Iterator[Import]:
    modules = frozenset(other.module for other in tree.values())
    return (found for found in source.imports(modules) if found.name.partition(".")[0] == "dragoman")


def _room_of(name: str) -> str:
    second = name.split(".")[1:2]
    return second[0] if second and second[0] in ROOMS else "dragoman"


def _codecs(tree: Tree) -> Iterator[Source]:
    by_module = {source.module: source for source in _rooms(tree, "adapters")}
    waiting = [s for s in by_module.values() if re.fullmatch(r"adapters/\w+/codec(\.py|/.+\.py)", s.path)]
    seen: set[str] = set()
    while waiting:
        source = waiting.pop()
        if source.path in seen:
            continue
        seen.add(source.path)
        yield source
        folder = ".".join(source.module.split(".")[:3])
        inside = (found.name for found in _ours(source, tree) if found.name.startswith(folder + "."))
        waiting.extend(by_module[name] for name in inside if name in by_module)


def _coroutines(source: Source) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            yield source.path, node.lineno, "async where nothing waits"


def _file_calls(source: Source, *, has_paths: bool) -> Iterator[Finding]:
    for line, name in source.calls():
        if name in ("open", "io.open") or (has_paths and PATH_CALLS.search(name)):
            yield source.path, line, f"touches a file: {name}()"
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and dotted(node.value) == "os" and node.attr not in OS_ALLOWED:
            yield source.path, node.lineno, f"touches a file: os.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path"):
            for alias in node.names:
                if alias.name not in OS_ALLOWED:
                    yield source.path, node.lineno, f"touches a file: os.{alias.name}"


def _circle(module: str, edges: dict[str, list[str]], above: list[str], done: set[str]) -> list[str]:
    if module in above:
        return [*above[above.index(module) :], module]
    if module in done:
        return []
    done.add(module)
    for other in edges.get(module, ()):
        found = _circle(other, edges, [*above, module], done)
        if found:
            return found
    return []


def _starts_loose_task(name: str) -> bool:
    owner, _, verb = name.rpartition(".")
    if verb == "ensure_future":
        return True
    return verb == "create_task" and (owner in ("", "asyncio") or owner.removesuffix("()").endswith("loop"))


def _matching(tree: Tree, pattern: re.Pattern[str]) -> Iterator[Finding]:
    for source in tree.values():
        for number, line in enumerate(source.text.splitlines(), 1):
            found = pattern.search(line)
            if found:
                yield source.path, number, repr(found.group())


def _names(node: ast.expr | None) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} if node else set()


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1
