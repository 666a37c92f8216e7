"""What of a changed configuration a running mesh takes over, key by key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dragoman.broker.settings_key import key, required
from dragoman.config import Config, ConfigError, load
from dragoman.config_text import full_text
from dragoman.reload import merge


def read(folder: Path, text: str) -> Config:
    file = folder / "mesh.toml"
    file.write_text(text)
    return load(file)


LISTENER = '[[mqtt.listeners]]\nname = "{}"\naddress = "127.0.0.1:0"\nsocket_mode = "{}"\n'


def test_nothing_changed(tmp_path: Path) -> None:
    before = read(tmp_path, "[gate]\nburst = 5\n")
    after = read(tmp_path, "# a remark\n[gate]\nburst = 5\n")
    config, changed, restart = merge(before, after)
    assert (config, changed, restart) == (before, [], [])
    assert config.origins["gate.burst"].endswith(":3"), "where it stands now"
    assert config.source == before.source


def test_live_keys_are_taken_and_the_others_named(tmp_path: Path) -> None:
    before = read(tmp_path, "[broker]\nsweep_ms = 100\n[login]\nhash_threads = 3\n")
    after = read(
        tmp_path, 'data = "elsewhere"\n[login]\nhash_threads = 4\nwaiting_max = 9\n[[gate.rules]]\neffect = "deny"\n'
    )
    config, changed, restart = merge(before, after)
    assert changed == ["login.waiting_max", "gate.rules"]
    assert restart == ["data", "login.hash_threads", "broker.sweep_ms"]
    assert (config.data, config.log.folder) == (before.data, before.log.folder)
    assert (config.login.hash_threads, config.login.waiting_max) == (3, 9)
    assert (config.broker, config.gate) == (before.broker, after.gate)
    assert [config.origins[name] for name in ("broker.sweep_ms", "data", "login.waiting_max")] == [
        f"{tmp_path / 'mesh.toml'}:2",
        "default",
        f"{tmp_path / 'mesh.toml'}:4",
    ]


def test_rows_that_are_the_same_ones_are_compared_key_by_key(tmp_path: Path) -> None:
    before = read(tmp_path, LISTENER.format("one", "600") + LISTENER.format("two", "600"))
    changed_row = read(tmp_path, LISTENER.format("one", "600") + LISTENER.format("two", "660"))
    assert merge(before, changed_row)[1:] == ([], ["mqtt.listeners[2].socket_mode"])
    for other in (LISTENER.format("two", "600") + LISTENER.format("one", "600"), LISTENER.format("one", "600"), ""):
        config, changed, restart = merge(before, read(tmp_path, other))
        assert (config, changed, restart) == (before, [], ["mqtt.listeners"])


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    name: str = required(example="a", why="its name")
    speed: int = key(1, why="now", live=True)
    place: int = key(1, why="later")

    def __post_init__(self) -> None:
        if self.speed < self.place:
            raise ValueError("speed is at least place")


def test_what_does_not_go_together_until_a_restart_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two files is right in itself."""

    @dataclasses.dataclass(frozen=True, slots=True)
    class _Root:
        rows: tuple[_Row, ...] = key((), why="rows")
        origins: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    running = _Root((_Row("a", 5, 5),))
    assert merge(running, _Root((_Row("a", 7, 6),)))[1:] == (["rows[1].speed"], ["rows[1].place"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        merge(running, _Root((_Row("a", 2, 1),)))  # type: ignore[arg-type]
    assert str(caught.value) == "speed is at least place; that is so until a restart takes over rows[1].place"


def test_the_list_of_all_keys_marks_what_is_live() -> None:
    text = full_text()
    assert '# ["allow" or "deny"; live] The answer when no rule speaks' in text
    assert "# [live] Who can log in." in text
    assert "[threads; from 1 to 64] A password takes" in text
