"""``make build``: compiles the hot modules with mypyc, in place. Plain Python stays the reference: nothing needs this.

The ``.so`` files lie beside their sources and are taken instead of them from then on, edits or not; so
tests and bench refuse to mistake one for the other, and ``make build ARGS=--clean`` takes them away.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

HOT: Final = (
    "routing/carriers",
    "routing/events",
    "routing/filters",
    "routing/message",
    "routing/names",
    "broker/backlog",
    "broker/left_out",
    "broker/channel",
    "broker/channels",
    "broker/commits",
    "broker/core",
    "broker/gate",
    "broker/log/ring",
    "broker/log/weight",
    "broker/metrics",
    "broker/pump",
    "broker/route",
    "broker/subscription",
    "adapters/mqtt/bodies",
    "adapters/mqtt/codec",
    "adapters/mqtt/codes",
    "adapters/mqtt/connecting",
    "adapters/mqtt/delivering",
    "adapters/mqtt/order",
    "adapters/mqtt/encoders",
    "adapters/mqtt/flights",
    "adapters/mqtt/intake",
    "adapters/mqtt/mapping",
    "adapters/mqtt/packets",
    "adapters/mqtt/phase",
    "adapters/mqtt/primitives",
    "adapters/mqtt/properties",
    "adapters/mqtt/property_table",
    "adapters/mqtt/session",
)
"""What is called for every message, and what that is made of. Free of asyncio and of dynamic tricks; and of classes
that others inherit from, which an interpreted one cannot do of a compiled one."""

GROUP: Final = "dragoman._hot"
"""The modules become one group, so that calls between them are C calls."""


def built() -> Iterator[Path]:
    """The compiled files that are in the tree."""
    for folder in ("routing", "broker", "adapters", "dragoman"):
        # Not through the links in dragoman/, which lead to the others.
        yield from (ROOT / folder).rglob("*.so")


def compiled() -> bool:
    """Whether this very process runs compiled modules."""
    from dragoman.routing import message

    return not message.__file__.endswith(".py")


def form() -> str:
    """What this process runs, in words."""
    return "compiled" if compiled() else "plain Python"


def stale() -> list[str]:
    """Hot modules whose source is newer than what was compiled from it."""
    found = []
    for name in HOT:
        source = ROOT / f"{name}.py"
        libraries = list(source.parent.glob(f"{source.stem}.*.so"))
        if libraries and source.stat().st_mtime > min(each.stat().st_mtime for each in libraries):
            found.append(name)
    return found


def clean() -> int:
    """Takes the compiled files away; how many there were."""
    files = list(built())
    for file in files:
        file.unlink()
    return len(files)


def build(opt_level: str = "3") -> None:
    """Compiles in place. Needs mypy (the ``test`` extra has it), a C compiler and Python's headers.

    ``opt_level`` 0 is slow code that is there three times as soon: enough to see whether it works.
    """
    from mypyc.build import mypycify
    from setuptools import setup

    clean()
    with tempfile.TemporaryDirectory(prefix="dragoman-build-") as scratch:
        extensions = mypycify(
            [f"dragoman/{name}.py" for name in HOT],
            opt_level=opt_level,
            debug_level="0",
            multi_file=True,
            group_name=GROUP,
            target_dir=scratch,
        )
        for extension in extensions:
            # A group with a dot in its name has its headers one folder down, where nobody looks.
            extension.include_dirs.append(str(Path(scratch, *GROUP.split(".")[:-1])))
        setup(
            name="dragoman-hot",
            packages=[],
            ext_modules=extensions,
            script_args=["--quiet", "build_ext", "--inplace", f"--build-temp={scratch}", f"--build-lib={scratch}"],
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make build", description=__doc__)
    parser.add_argument("--clean", action="store_true", help="take the compiled files away")
    if parser.parse_args().clean:
        print(f"{clean()} compiled files taken away; plain Python from now on")
        return
    if not (ROOT / "pyproject.toml").is_file():
        sys.exit(f"{ROOT} is not a source tree; compile in a clone of the project")
    print(f"compiling {len(HOT)} modules, which takes about two minutes …", flush=True)
    began = time.monotonic()
    build()
    print(f"compiled in {time.monotonic() - began:.0f} s, in place; make build ARGS=--clean takes it back")


if __name__ == "__main__":
    main()
