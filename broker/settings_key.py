"""How a setting is declared: its default together with everything a person needs to change it well.

Every package's ``settings.py`` uses the one form

    @dataclass(frozen=True, slots=True)
    class LogSettings:
        segment_bytes: int = key(64 << 20, unit="bytes", why="…", low=1 << 20)

so that the configuration reader, its error sentences and ``configs/full.toml`` come from the
definition itself and cannot drift from it. Types that can be configured: ``bool``, ``int``,
``float``, ``str``, each ``| None``, ``tuple[str, ...]``, ``tuple[int, ...]``, another such dataclass (a table)
and a tuple of them (an array of tables). What relations there are between several keys is checked in
``__post_init__``, which raises ValueError with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

T = TypeVar("T")

ABOUT: Final = "about"
"""The key of a dataclass field's metadata below which its ``About`` is found."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a setting besides its name, type and default.

    ``unit``     of a number or a text: "bytes", "ms", "messages"; "" where there is none
    ``why``      the reason for this default, a sentence
    ``peers``    what other brokers choose, where that helps
    ``low``/``high``  the bounds, included; None = no bound
    ``choices``  every text allowed; () = any
    ``check``    answers a sentence about what is wrong with a value, or None; it sees values of the right type only
    ``secret``   never shown by the administration, in an error or in a repr
    ``example``  for a field that has no default
    ``live``     a running mesh takes a new value over; of an array of tables: whatever changes in it
    """

    unit: str = ""
    why: str = ""
    peers: str = ""
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[object], str | None] | None = None
    secret: bool = False
    example: object = None
    live: bool = False


def key(
    default: T,
    *,
    why: str,
    unit: str = "",
    peers: str = "",
    low: int | None = None,
    high: int | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[object], str | None] | None = None,
    secret: bool = False,
    live: bool = False,
) -> T:
    """A dataclass field with a default and what ``About`` says of it."""
    about = About(unit, why, peers, low, high, choices, check, secret, live=live)
    return field(default=default, metadata={ABOUT: about}, repr=not secret)


def required(
    *,
    example: T,
    why: str,
    unit: str = "",
    choices: tuple[str, ...] = (),
    check: Callable[[object], str | None] | None = None,
    secret: bool = False,
) -> T:
    """A field that must be given: only within arrays of tables, since zero configuration has to work."""
    about = About(unit=unit, why=why, choices=choices, check=check, secret=secret, example=example)
    declared: T = field(metadata={ABOUT: about}, repr=not secret)
    return declared
