"""A mesh as its users start it: ``dragoman serve`` in a process of its own, on free ports, in a folder of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.clients.processes import Child, Ended

LISTENERS = ("mqtt", "kafka", "http")
ANY_PORT = "127.0.0.1:0"
MQTT_ONLY = {"mqtt": ANY_PORT}
"""Starts three times as fast as a mesh with HTTP."""


class MeshProcess:
    """Started when made, ended with its ``with`` block. Its folder outlives kills and restarts.

    ``listeners``  protocol → address; what is not named is ``off``. Default: MQTT and HTTP on any free port.
                   Empty: no flags, the configuration decides
    ``config``     the text of a configuration file, if not empty
    ``memory``     keep nothing on disk (``--data :memory:``)
    ``python``     the interpreter in whose environment Dragoman is installed
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        *,
        listeners: dict[str, str] | None = None,
        memory: bool = False,
        arguments: Sequence[str] = (),
        env: dict[str, str] | None = None,
        python: str = sys.executable,
        ready_s: float = 20.0,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "dragoman.toml"
        self._ready_file = folder / "ready.json"
        self._listeners = {"mqtt": ANY_PORT, "http": ANY_PORT} if listeners is None else listeners
        self._memory = memory
        self._arguments = list(arguments)
        self._env = env
        self._python = python
        self._ready_s = ready_s
        self._addresses: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if config:
            self.config.write_text(config, "utf-8")
        self.child = self._start(self._listeners)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.kill()

    @property
    def pid(self) -> int:
        """The process id of the mesh that runs now."""
        return self.child.pid

    @property
    def stderr(self) -> str:
        """All the mesh that runs now has logged."""
        return self.child.stderr

    def address(self, listener: str) -> tuple[str, int]:
        """Host and port where ``listener`` (``mqtt``, ``http``, …) really listens."""
        host, _, port = self._addresses[listener].rpartition(":")
        return host.strip("[]"), int(port)

    def port(self, listener: str) -> int:
        """The port where ``listener`` really listens."""
        return self.address(listener)[1]

    @property
    def url(self) -> str:
        """The HTTP listener's address as a URL, without a slash at its end."""
        return f"http://{self._addresses['http']}"

    def kill(self) -> Ended:
        """Ends it with SIGKILL: nothing is flushed, nobody is told."""
        return self.child.kill()

    def terminate(self, timeout_s: float = 20.0) -> Ended:
        """Ends it with SIGTERM and waits: the exit code and all it said."""
        return self.child.terminate(timeout_s)

    def restart(self, *, same_ports: bool = True) -> None:
        """Starts it again on the same folder, killing it first if it runs; on the same ports, so clients can return."""
        self.child.kill()
        self.child = self._start({**self._listeners, **self._addresses} if same_ports else self._listeners)

    def _start(self, listeners: dict[str, str]) -> Child:
        self._ready_file.unlink(missing_ok=True)
        argv = [self._python, "-m", "dragoman", "serve", "--ready-file", str(self._ready_file)]
        argv += ["--data", ":memory:" if self._memory else str(self.data)]
        if self.config.exists():
            argv += ["--config", str(self.config)]
        for name in LISTENERS:
            if self._listeners:
                argv += [f"--{name}", listeners.get(name, "off")]
        child = Child([*argv, *self._arguments], env=self._env, cwd=self.folder)
        try:
            ready = child.until(self._ready, "ready file", self._ready_s)
        except BaseException:
            child.kill()
            raise
        self._addresses = {name: address for name, address in ready.items() if name != "pid"}
        return child

    def _ready(self) -> dict[str, str] | None:
        """The ready file once it is whole: it is written beside and renamed, but a reader need not rely on that."""
        try:
            found = json.loads(self._ready_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return {str(key): str(value) for key, value in found.items()}
