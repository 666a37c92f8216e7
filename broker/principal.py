"""Who was authenticated. What the gate judges; never anything a peer merely claims."""

from __future__ import annotations

from typing import final


@final
class Principal:
    """An authenticated party. One object serves every connection of a configured user; a reload alone changes it.

    ``name``    unique; what rules, counters and the directory's bindings speak of
    ``groups``  names that rules may speak of instead
    ``agents``  agent ids declared as its own in the configuration (it may always use those it first used)
    ``admin``   may use the administration
    """

    __slots__ = ("admin", "agents", "groups", "name")

    def __init__(
        self,
        name: str,
        groups: frozenset[str] = frozenset(),
        agents: frozenset[str] = frozenset(),
        *,
        admin: bool = False,
    ) -> None:
        self.name = name
        self.groups = groups
        self.agents = agents
        self.admin = admin

    @property
    def anonymous(self) -> bool:
        """Whether nobody vouched for it."""
        return self is ANONYMOUS or self.name == "anonymous"

    def __repr__(self) -> str:
        return f"Principal({self.name!r})"


ANONYMOUS = Principal("anonymous")
"""The principal of a peer that gave no credentials where that is allowed."""

EMBEDDED = Principal("embedded", admin=True)
"""The program that embeds the mesh: it holds the object, so it is trusted like the process itself."""

MESH = Principal("$mesh")
"""The mesh itself, where it reads and writes its own channels (mailboxes, dead letters). No credentials lead to it."""
