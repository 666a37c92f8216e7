"""Where MCP's requests are dealt with, whichever way they came: one set of answers, one set of limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, final

from dragoman.adapters.serving.quota import Quota

if TYPE_CHECKING:
    from dragoman.adapters.mcp.kernel import Kernel
    from dragoman.adapters.mcp.serve import MeshServe
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker


@final
class Desk:
    """One a mesh. Starts before its carriers do and stops before them, so that whoever waits is answered.

    ``requests`` and ``sessions`` count what is under way and who has said ``initialize``, over all carriers.
    """

    __slots__ = ("_broker", "_kernel", "_serve", "_settings", "_version", "requests", "sessions")

    def __init__(self, broker: Broker, settings: McpSettings, *, version: str) -> None:
        self._broker = broker
        self._settings = settings
        self._version = version
        self._serve: MeshServe | None = None
        self._kernel: Kernel | None = None
        self.requests = Quota("requests", each_max=settings.requests_per_principal_max, total_max=settings.requests_max)
        self.sessions = Quota("sessions", each_max=settings.sessions_per_principal_max, total_max=settings.sessions_max)

    async def start(self) -> None:
        """Its carriers begin it, by asking for what it has."""

    def stop_accepting(self) -> None:
        """Its carriers do."""

    async def stop(self, deadline_s: float) -> None:
        """Ends every cursor and watches no more."""
        if self._serve is not None:
            self._serve.stop()

    @property
    def kernel(self) -> Kernel:
        """What answers."""
        return self._open()[1]

    def watch(self, hear: Callable[[str], None]) -> None:
        """Calls ``hear`` with the notification that says so whenever the lists may have changed, until it stops."""
        from dragoman.adapters.mcp.listen import LIST_CHANGED

        serve, _ = self._open()
        serve.tools_changed.subscribe(partial(hear, LIST_CHANGED["toolsListChanged"]))
        serve.resources_changed.subscribe(partial(hear, LIST_CHANGED["resourcesListChanged"]))

    def _open(self) -> tuple[MeshServe, Kernel]:
        """Only a mesh that is asked loads MCP's library, which takes long."""
        if self._serve is None or self._kernel is None:
            from dragoman.adapters.mcp.kernel import Kernel
            from dragoman.adapters.mcp.serve import MeshServe
            from dragoman.adapters.mcp.texts import INSTRUCTIONS

            self._serve = MeshServe(self._broker, self._settings)
            self._serve.start()
            self._kernel = Kernel(self._serve, name="dragoman", version=self._version, instructions=INSTRUCTIONS)
        return self._serve, self._kernel
