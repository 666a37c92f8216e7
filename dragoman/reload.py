"""A changed configuration against the one in force: what a running mesh takes over, what has to wait for a restart.

Knows no setting: each says of itself whether it is ``live`` (``broker/settings_key.py``). A row of an array of tables
is known by its first key, its name; only where the rows are the same ones can keys within them be live.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from dragoman.config import Config, ConfigError
from dragoman.config_reader import Fault, entries, row_kind, tables

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

HOW: Final = "SIGHUP or POST /v1/admin/reload"


class Reloaded(NamedTuple):
    """What a reload did. Keys are dotted: ``changed`` are in force now, ``restart`` only after a start.

    ``tls``: listeners whose certificates, client CAs and revocation lists were read again, changed or not.
    ``ended``: sessions that were ended, since the login they came by is no more.
    """

    changed: list[str]
    restart: list[str]
    tls: list[str]
    ended: int

    def __str__(self) -> str:
        said = [f"changed: {', '.join(self.changed)}" if self.changed else "no setting in force changes"]
        if self.tls:
            said.append(f"files of TLS read again for: {', '.join(self.tls)}")
        if self.ended:
            said.append(f"sessions ended, since their login is no more: {self.ended}")
        if self.restart:
            said.append(f"needs a restart: {', '.join(self.restart)}")
        return "; ".join(said)


class Merged(NamedTuple):
    """``config``: the one in force with every live value of the other, and the keys that differ, of both kinds."""

    config: Config
    changed: list[str]
    restart: list[str]


def check_whole(running: Config, given: Config) -> None:
    """Raises ConfigError where a file that was read again looks as if cut off, and would let everybody in.

    That is where it says nothing any more, has no user or says nothing in ``[login]`` or ``[gate]``, and did so before.
    """
    gone = [] if given.login.users or not running.login.users else ["[[login.users]]"]
    gone += [f"[{name}]" for name in ("login", "gate") if _said(running, f"{name}.") and not _said(given, f"{name}.")]
    if not _said(given) and _said(running):
        gone = ["everything"]
    if gone:
        text = (
            f"{', '.join(gone)} would be gone, as if the file were half written; a restart takes it over if it is meant"
        )
        raise ConfigError([Fault(str(given.source and given.source.file), "", text)])


def _said(config: Config, path: str = "") -> bool:
    """Whether the file says anything about the keys that begin so."""
    file = str(config.source and config.source.file)
    return any(key.startswith(path) and origin.startswith(file) for key, origin in config.origins.items())


def merge(running: Config, given: Config) -> Merged:
    """Raises ConfigError where what may change now does not go together with what may not."""
    changed: list[str] = []
    restart: list[str] = []
    try:
        config = _table(running, given, "", changed, restart)
    except ValueError as error:
        text = f"{error}; that is so until a restart takes over {', '.join(restart)}"
        raise ConfigError([Fault("", "", text)]) from None
    origins = {**given.origins, **{key: running.origins[key] for key in restart if key in running.origins}}
    return Merged(dataclasses.replace(config, origins=origins), changed, restart)


def _table(running: S, given: S, path: str, changed: list[str], restart: list[str]) -> S:
    taken: dict[str, object] = {}
    for entry in entries(type(running)):
        old, new = getattr(running, entry.name), getattr(given, entry.name)
        key = path + entry.name
        if old == new:
            continue
        if entry.about.live:
            changed.append(key)
            taken[entry.name] = new
        elif row_kind(entry.hint) is not None and _names(old) == _names(new):
            pairs = enumerate(zip(old, new, strict=True), start=1)
            taken[entry.name] = tuple(_table(*rows, f"{key}[{number}].", changed, restart) for number, rows in pairs)
        else:
            restart.append(key)
    for name, _ in tables(type(running)):
        old, new = getattr(running, name), getattr(given, name)
        if old != new:
            taken[name] = _table(old, new, f"{path}{name}.", changed, restart)
    return dataclasses.replace(running, **taken) if taken else running


def _names(rows: tuple[DataclassInstance, ...]) -> list[object]:
    return [getattr(row, next(entries(type(row))).name) for row in rows]
