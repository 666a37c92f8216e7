"""How the house test sees the project: each Python file as its syntax tree, its imports resolved to module names."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("routing", "broker", "adapters", "dragoman")
"""From the bottom floor to the top: a room imports itself and the rooms before it."""

UNSEEN = frozenset({".git", "node_modules", "build", "dist", "__pycache__"})


@dataclass(frozen=True)
class Import:
    line: int
    name: str
    """What is imported, dotted. ``from a import b`` is ``a.b`` if that is a module of ours, otherwise ``a``."""
    level: int = 0
    """The number of leading dots; 0 is absolute."""
    typing_only: bool = False
    """Under ``if TYPE_CHECKING``: read by the type checker, never carried out."""


@dataclass(frozen=True)
class Source:
    path: str
    """From the project root, with forward slashes."""
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def room(self) -> str:
        return self.path.partition("/")[0]

    @property
    def module(self) -> str:
        """The name it is imported by, whichever room it lives in."""
        dotted = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return dotted if dotted == "dragoman" or self.room not in ROOMS[:3] else f"dragoman.{dotted}"

    def imports(self, modules: frozenset[str] = frozenset()) -> Iterator[Import]:
        """Every import statement, those inside functions and under TYPE_CHECKING too."""
        guarded = {
            inner
            for node in self.nodes
            if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in self.nodes:
            unreal = node in guarded
            if isinstance(node, ast.Import):
                yield from (Import(node.lineno, alias.name, 0, unreal) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    name = full if full in modules or base == "dragoman" else base
                    yield Import(node.lineno, name, node.level, unreal)

    def calls(self) -> Iterator[tuple[int, str]]:
        """Every call as (line, dotted name as written); a call on a call's result is written ``f().g``."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield node.lineno, dotted(node.func)


Tree = Mapping[str, Source]


def dotted(node: ast.expr) -> str:
    """The name of an expression as written, with ``?`` for what is not a name, an attribute or a call."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}"
        case ast.Call(func=func):
            return f"{dotted(func)}()"
    return "?"


def tree_of(sources: Mapping[str, str]) -> Tree:
    return {path: Source(path, text) for path, text in sources.items()}


@functools.cache
def project() -> Tree:
    """Every Python file of the project, by path. The links in dragoman/ are not followed: each file is seen once."""
    return tree_of({path: text for path, text in files().items() if path.endswith(".py")})


@functools.cache
def files() -> Mapping[str, str]:
    """Every text file of the project, by path."""
    found: dict[str, str] = {}
    for path in sorted(_walk(ROOT)):
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_symlink() or entry.name in UNSEEN or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir():
            if entry.name == ".ci" or not entry.name.startswith("."):
                yield from _walk(entry)
        elif entry.is_file() and entry.suffix in {"", ".py", ".md", ".toml", ".json", ".js", ".mjs", ".sh"}:
            yield entry
