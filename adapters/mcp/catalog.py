"""Which tools there are: every visible skill once, however many agents serve it. Decides names and their schemas.

Names come from a table, never by taking a name apart; who came first keeps the plain one for as long as the
process runs. Nothing here asks anybody anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mcp.kernel import JsonObject
from dragoman.adapters.mcp.schemas import SchemaCheck, SchemaFaultError
from dragoman.broker.presence import State
from dragoman.routing.cards import LINKED
from dragoman.routing.names import tool_name

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal
    from dragoman.routing.cards import Skill

AGENT_ARGUMENTS: Final = ("agent", "mesh_agent", "mesh_agent_id")
"""What the argument that chooses the server is called: the first that the skill's own schema does not use."""

LINKED_MARK: Final = "dragoman/linked"
"""Says in a tool's ``_meta`` that it is a linked MCP server's, so that meshes linked in a ring do not pass it round."""

NAMES_MAX: Final = 20_000
"""Names remembered; beyond it those of skills nobody offers any more are forgotten."""

VIEWS_MAX: Final = 32
"""Callers whose view of the tools is remembered."""

CHECKS_MAX: Final = 1_000
"""Schemas kept ready for checking."""


@final
class SkillTool:
    """A skill as a tool. ``agents`` are those that serve it, sorted, where they are asked for."""

    __slots__ = ("agents", "key", "name", "shown", "skill")

    def __init__(self, name: str, key: str, skill: Skill, agents: tuple[str, ...]) -> None:
        self.name = name
        self.key = key
        self.skill = skill
        self.agents = agents
        self.shown: JsonObject | None = None

    @property
    def agent_argument(self) -> str | None:
        """The name of the argument that chooses the server; None if the skill uses all we know."""
        schema = self.skill.input_schema or {}
        own = schema.get("properties")
        taken: Container[str] = own if isinstance(own, dict) else ()
        return next((name for name in AGENT_ARGUMENTS if name not in taken), None)


@final
class SkillChecks:
    """The schemas of a skill that can be used; None where it has none, or one that cannot."""

    __slots__ = ("fault", "input", "output")

    def __init__(self, skill: Skill, bytes_max: int) -> None:
        self.fault = ""
        self.input = self._ready(skill.input_schema, bytes_max)
        self.output = self._ready(skill.output_schema, bytes_max)

    def _ready(self, schema: JsonObject | None, bytes_max: int) -> SchemaCheck | None:
        if schema is None:
            return None
        try:
            return SchemaCheck({**schema, "type": "object"}, bytes_max)
        except SchemaFaultError as error:
            self.fault = str(error)
            return None


@final
class _Taken:
    """Names no other skill may have."""

    __slots__ = ("_reserved", "_skills")

    def __init__(self, reserved: Container[str], skills: Container[str]) -> None:
        self._reserved = reserved
        self._skills = skills

    def __contains__(self, name: object) -> bool:
        return name in self._reserved or name in self._skills


@final
class Catalog:
    """The tools that skills make, as each caller may see them."""

    __slots__ = (
        "_agent_enum_max",
        "_broker",
        "_checks",
        "_names",
        "_reserved",
        "_schema_bytes_max",
        "_skills",
        "_views",
    )

    def __init__(self, broker: Broker, reserved: Iterable[str], *, agent_enum_max: int, schema_bytes_max: int) -> None:
        self._broker = broker
        self._reserved = frozenset(reserved)
        self._agent_enum_max = agent_enum_max
        self._schema_bytes_max = schema_bytes_max
        self._names: dict[str, str] = {}
        self._skills: dict[str, tuple[str, Skill]] = {}
        self._checks: OrderedDict[str, SkillChecks] = OrderedDict()
        self._views: OrderedDict[str, tuple[tuple[int, int], dict[str, SkillTool]]] = OrderedDict()

    def tools(self, principal: Principal) -> dict[str, SkillTool]:
        """The tools a principal may see, by name, in the order of their names."""
        state = (self._broker.directory.revision, self._broker.gate.generation)
        known = self._views.get(principal.name)
        if known is not None and known[0] == state:
            self._views.move_to_end(principal.name)
            return known[1]
        found = sorted(self._broker.directory.skills(principal), key=lambda entry: entry[0])
        tools = [SkillTool(self._name(key, skill), key, skill, tuple(sorted(agents))) for key, skill, agents in found]
        view = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
        self._views[principal.name] = (state, view)
        if len(self._views) > VIEWS_MAX:
            self._views.popitem(last=False)
        return view

    def find(self, principal: Principal, name: str) -> SkillTool | None:
        """The tool of that name, if the principal may see it: without looking at all the others, for every call."""
        if name not in self._skills:
            # A client may remember names from before a restart: make the table as the first list would.
            return self.tools(principal).get(name)
        key, skill = self._skills[name]
        directory = self._broker.directory
        for agent in directory.holders(skill.name, key):
            if agent.state is not State.GONE and directory.sees(principal, agent.id):
                return SkillTool(name, key, skill, ())
        return None

    def describe(self, tool: SkillTool) -> JsonObject:
        """The tool as tools/list shows it."""
        if tool.shown is None:
            tool.shown = self._described(tool)
        return tool.shown

    def _described(self, tool: SkillTool) -> JsonObject:
        skill, checks = tool.skill, self.checks(tool)
        shown: JsonObject = {
            "name": tool.name,
            "description": self._description(tool, checks.fault),
            "inputSchema": self._input_schema(tool, usable=checks.input is not None),
        }
        if skill.title:
            shown["title"] = skill.title
        if LINKED in skill.tags:
            shown["_meta"] = {LINKED_MARK: True}
        if checks.output is not None and skill.output_schema is not None:
            shown["outputSchema"] = {**skill.output_schema, "type": "object"}
        return shown

    def checks(self, tool: SkillTool) -> SkillChecks:
        """The skill's schemas, ready to use."""
        ready = self._checks.get(tool.key)
        if ready is None:
            ready = self._checks[tool.key] = SkillChecks(tool.skill, self._schema_bytes_max)
            if len(self._checks) > CHECKS_MAX:
                self._checks.popitem(last=False)
        else:
            self._checks.move_to_end(tool.key)
        return ready

    def _name(self, key: str, skill: Skill) -> str:
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= NAMES_MAX:
                self._forget_names()
            name = self._names[key] = tool_name(skill.name, key, _Taken(self._reserved, self._skills))
        self._skills[name] = (key, skill)
        return name

    def _forget_names(self) -> None:
        offered = {key for _, view in self._views.values() for key in (tool.key for tool in view.values())}
        self._names = {key: name for key, name in self._names.items() if key in offered}
        self._skills = {name: self._skills[name] for name in self._names.values()}

    def _description(self, tool: SkillTool, fault: str) -> str:
        parts = [tool.skill.description or f"The skill {tool.skill.name!r}."]
        # No number: with many servers it would change all the time, and with it every client's list of tools.
        parts.append("Served by several agents." if len(tool.agents) > 1 else f"Served by {tool.agents[0]}.")
        if tool.skill.tags:
            parts.append(f"Tags: {', '.join(tool.skill.tags)}.")
        if fault:
            parts.append(f"Its schema cannot be used ({fault}).")
        return " ".join(parts)

    def _input_schema(self, tool: SkillTool, *, usable: bool) -> JsonObject:
        own = tool.skill.input_schema if usable and tool.skill.input_schema is not None else {}
        schema: JsonObject = {**own, "type": "object"}
        argument = tool.agent_argument
        if argument is None:
            return schema
        choice: JsonObject = {
            "type": "string",
            "description": "Who shall do it; if absent, the least busy of those who are online.",
        }
        if len(tool.agents) <= self._agent_enum_max:
            choice["enum"] = list(tool.agents)
        properties = schema.get("properties")
        schema["properties"] = {**(properties if isinstance(properties, dict) else {}), argument: choice}
        return schema
