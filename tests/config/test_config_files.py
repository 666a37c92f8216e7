"""The configuration files that we ship say what the definitions say."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest

from dragoman.broker.settings_key import key, required
from dragoman.config import Config, load
from dragoman.config_reader import Reader, entries, known_keys, places, row_kind, tables
from dragoman.config_text import full_text, toml_value

CONFIGS = Path(__file__).parents[2] / "configs"
FULL = CONFIGS / "full.toml"


def in_file(document: dict[str, object], path: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in document.items():
        found |= in_file(value, f"{path}{name}.") if isinstance(value, dict) else {path + name}
    return found


def array_keys(kind: type, path: str = "") -> set[str]:
    """Arrays of tables: they have no default to show, only an example in a comment."""
    found = {path + entry.name for entry in entries(kind) if row_kind(entry.hint) is not None}
    for name, table in tables(kind):
        found |= array_keys(table, f"{path}{name}.")
    return found


def test_full_has_every_key_and_no_other() -> None:
    assert in_file(tomllib.loads(FULL.read_text())) == set(known_keys(Config)) - array_keys(Config)


def test_full_has_every_default() -> None:
    assert load(FULL) == Config()


def test_full_is_what_the_definitions_write() -> None:
    """Units and reasons too: `dragoman check --full > configs/full.toml` writes it again."""
    assert FULL.read_text() == full_text()


def test_the_examples_in_full_are_valid(tmp_path: Path) -> None:
    """Uncommented, with a token for the user (a user without credentials is an error), they are read."""
    lines = FULL.read_text().splitlines()
    rows = [line.removeprefix("# ") for line in lines if line.startswith("# [[")]
    assert {row.strip("[]") for row in rows} == array_keys(Config)
    text: list[str] = []
    within = False
    for line in lines:
        within = line.startswith("# [[") or (within and line.startswith("# "))
        if within and not line.startswith("#   #"):
            text.append(line.removeprefix("# "))
    file = tmp_path / "examples.toml"
    file.write_text("\n".join(text).replace("tokens = []", f'tokens = ["sha256${"0" * 64}"]'))
    config = load(file)
    assert len(config.gate.rules) == len(config.gate.rates) == len(config.login.users) == 1


def test_minimal_is_what_runs_without_configuration() -> None:
    assert load(CONFIGS / "minimal.toml") == Config()


def test_every_key_says_why_and_every_number_its_unit() -> None:
    def walk(kind: type, path: str) -> None:
        for entry in entries(kind):
            assert entry.about.why, path + entry.name
            inner = row_kind(entry.hint)
            if inner is not None:
                walk(inner, f"{path}{entry.name}[].")
            elif isinstance(entry.default, float) or (isinstance(entry.default, int) and entry.default > 1):
                assert entry.about.unit or isinstance(entry.default, bool), path + entry.name
        for name, table in tables(kind):
            walk(table, f"{path}{name}.")

    walk(Config, "")


# -- the reader on tables of its own ----------------------------------------------------------------


ELSEWHERE = Path("x")


@dataclass(frozen=True)
class Inner:
    """A row."""

    name: str = required(example="x", why="it must")
    size: int = key(3, why="three")


@dataclass(frozen=True)
class Outer:
    """A table."""

    limit: int | None = key(None, why="nothing", low=1)
    numbers: tuple[int, ...] = key((1,), why="some", unit="things")
    where: Path = key(ELSEWHERE, why="there")  # noqa: RUF009
    rows: tuple[Inner, ...] = key((), why="rows")
    ratio: float = key(0.5, why="half", high=1)
    hidden: int = 9


def outer(text: str) -> tuple[Outer | None, list[str]]:
    reader = Reader(Outer, places(text, "f"), "f")
    made = reader.table(Outer, tomllib.loads(text))
    return made, [str(fault) for fault in reader.faults]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", Outer()),
        ("limit = 4", Outer(limit=4)),
        ('limit = "none"', Outer(limit=None)),
        ("numbers = []", Outer(numbers=())),
        ("numbers = [3, 4]", Outer(numbers=(3, 4))),
        ("where = '/a'", Outer(where=Path("/a"))),
        ("ratio = 1", Outer(ratio=1.0)),
        ("[[rows]]\nname='a'\n[[rows]]\nname='b'\nsize=4", Outer(rows=(Inner("a"), Inner("b", 4)))),
        ("rows = [{name = 'a'}]", Outer(rows=(Inner("a"),))),
    ],
)
def test_every_type_is_read(text: str, made: Outer) -> None:
    assert outer(text) == (made, [])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("limit = 0", 'f:1: limit: must be a whole number, 1 or more, or "none", not 0'),
        ("limit = 'some'", 'f:1: limit: must be a whole number, 1 or more, or "none", not the text "some"'),
        ("numbers = [true]", "f:1: numbers: must be an array of whole numbers; true in it is none"),
        ("numbers = 3", "f:1: numbers: must be an array of whole numbers in [ ], not 3"),
        ("where = 3", "f:1: where: must be a path in quotes, not 3"),
        ("ratio = 1.5", "f:1: ratio: must be a number, at most 1, not 1.5"),
        ("hidden = 3", "f:1: hidden: there is no such key; known here: limit, numbers, where, rows, ratio"),
        ("\n[[rows]]\nsize=4", "f:2: rows[1]: 'name' is missing: it must"),
        ("rows = [{size = 4}]", "f:1: rows[1]: 'name' is missing: it must"),
        (
            f"numbers = '{'x' * 500}'",
            'f:1: numbers: must be an array of whole numbers in [ ], not the text "' + "x" * 49 + "…",
        ),
    ],
)
def test_every_type_is_checked(text: str, fault: str) -> None:
    assert outer(text) == (None, [fault])


def test_places_follow_headers_dots_and_quotes() -> None:
    text = "a = 1\n[b.c]\n'd' = 2\ne.f = 3\n[[ g ]]\nh = 1\n[[g]]\nh = 2\n# i = 3\n[b.c.x]\ny=1"
    assert places(text, "f") == {
        "a": "f:1",
        "b.c": "f:2",
        "b.c.d": "f:3",
        "b.c.e.f": "f:4",
        "g[1]": "f:5",
        "g[1].h": "f:6",
        "g[2]": "f:7",
        "g[2].h": "f:8",
        "b.c.x": "f:10",
        "b.c.x.y": "f:11",
    }


def test_what_looks_like_keys_within_a_text_of_several_lines_is_none() -> None:
    text = "a = \"\"\"\n[b]\nc = 1\n\"\"\"\nd = '''x'''\ne = '''\n\"\"\"\nf = 1'''\ng = 1\n"
    assert places(text, "f") == {"a": "f:1", "d": "f:5", "e": "f:6", "g": "f:9"}


def test_values_are_written_as_toml() -> None:
    values = [None, True, 9_999, 10_000, 0.5, 1e20, 'a"b\\é', Path("/x"), (), ("a", "b"), (1, 2)]
    for value in values:
        read = tomllib.loads(f"x = {toml_value(value)}")["x"]
        expected = "none" if value is None else str(value) if isinstance(value, Path) else value
        assert read == (list(expected) if isinstance(expected, tuple) else expected)
    with pytest.raises(AssertionError):
        toml_value(MISSING)
