"""The stage of the demo: starts actors, prints one timeline of what they say, and checks who saw what.

A step counts only when a process other than the one that acted has seen its effect.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console

HERE: Final = Path(__file__).parent
PATIENCE_S: Final = float(os.environ.get("DEMO_PATIENCE_S", "15"))
COLOURS: Final = {
    "MQTT 3.1.1": "green",
    "MQTT 5": "cyan",
    "MCP": "magenta",
    "A2A": "yellow",
    "Kafka": "red",
    "HTTP SSE": "blue",
    "HTTP": "blue",
}

NUMBER: Final = re.compile(r"""["'](n|offset)["']: \d+""")
"""What tells apart two lines that say the same."""

Fact = dict[str, Any]


class Failed(Exception):
    """A step was not seen. The text says which, and what was seen instead."""


class Actor:
    """A program of the play, in a process of its own."""

    def __init__(self, stage: Stage, name: str, script: str, *arguments: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stage = stage
        self.complaints: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._complain, daemon=True).start()

    def cue(self, word: str) -> None:
        """Tells the actor to do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Takes the actor off the stage."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                break  # killed in the middle of a word
            self._stage.heard.put((self.name, json.loads(line)))

    def _complain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.complaints.append(line.rstrip())


class Stage:
    """The timeline and what has been seen so far."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.heard: queue.Queue[tuple[str, Fact]] = queue.Queue()
        self.actors: list[Actor] = []
        self.steps: list[str] = []
        self._seen: list[tuple[str, Fact]] = []
        self._started = time.monotonic()
        self._last_shown: dict[str, str] = {}

    def actor(self, name: str, script: str, *arguments: str) -> Actor:
        """Puts an actor on the stage."""
        actor = Actor(self, name, script, *arguments)
        self.actors.append(actor)
        return actor

    def scene(self, title: str) -> None:
        """A new scene."""
        self.console.print(f"\n[bold]{title}[/bold]")

    def tell(self, who: str, fact: Fact) -> None:
        """Prints one line of the timeline. A reading that repeats is shown once."""
        text = f"{fact['what']}"
        rest = {k: v for k, v in fact.items() if k not in ("what", "protocol", "channel") and v not in ("", None)}
        line = NUMBER.sub("", f"{text} {fact.get('channel', '')} {rest}")
        if self._last_shown.get(f"{who}{fact.get('channel')}") == line:
            return
        self._last_shown[f"{who}{fact.get('channel')}"] = line
        ms = int((time.monotonic() - self._started) * 1000)
        colour = COLOURS.get(str(fact["protocol"]), "white")
        told = "  ".join(str(v) if k == "payload" else f"{k}={v}" for k, v in rest.items())
        self.console.print(
            f"[dim]{ms:6d} ms[/dim]  [{colour}]{who:<12}{fact['protocol']:<11}[/{colour}]"
            f"{text:<16} [italic]{fact.get('channel', '')}[/italic]  {told}",
            soft_wrap=True,
        )

    def act(self, what: str, channel: str = "", **facts: object) -> None:
        """Something the director does itself over HTTP."""
        self.tell("director", {"what": what, "protocol": "HTTP", "channel": channel, **facts})

    def wait(self, step: str, *wanted: tuple[str, Callable[[Fact], bool]], since: int = 0) -> list[Fact]:
        """Waits until every (actor, test) has been heard; then the step is done. Raises Failed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = [self._find(who, test, since) for who, test in wanted]
            if all(fact is not None for fact in found):
                witnesses = ", ".join(dict.fromkeys(who for who, _ in wanted))
                self.steps.append(step)
                self.console.print(f"           [bold green]✓[/bold green] {step} [dim](seen by {witnesses})[/dim]")
                return [fact for fact in found if fact is not None]
            try:
                self._hear(self.heard.get(timeout=max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                missing = [who for (who, _), fact in zip(wanted, found, strict=True) if fact is None]
                complaints = [line for actor in self.actors for line in actor.complaints[-5:]]
                raise Failed(f"{step}: not seen by {', '.join(missing)}\n" + "\n".join(complaints)) from None

    def all(self, who: str) -> list[Fact]:
        """Everything an actor has said so far."""
        return [fact for name, fact in self._seen[: self.now] if name == who]

    @property
    def now(self) -> int:
        """A mark: what is waited for ``since`` it has to be said later."""
        while True:
            try:
                self._hear(self.heard.get_nowait())
            except queue.Empty:
                return len(self._seen)

    def _hear(self, item: tuple[str, Fact]) -> None:
        self._seen.append(item)
        self.tell(*item)

    def _find(self, who: str, test: Callable[[Fact], bool], since: int) -> Fact | None:
        return next((fact for name, fact in self._seen[since:] if name == who and test(fact)), None)

    def end(self) -> None:
        """Everybody leaves."""
        for actor in self.actors:
            actor.end()
