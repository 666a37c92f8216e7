"""Where agents are in A2A over MQTT: ``$a2a/v1/{what}/{org}/{unit}/{agent}``, and back. Pure.

An agent whose id is three such words with slashes between them, as the profile wants client ids to be, is at that
very place. Every other agent is below an organisation and unit of ours, its id spelt with ``_xHH`` for each byte of
UTF-8 that a word cannot hold. So nobody else's id may begin with those two.
"""

from __future__ import annotations

import re
from typing import Final, final

from dragoman.routing.names import check_agent

LEVEL: Final = "$a2a"
ROOT: Final = LEVEL + "/v1/"
DISCOVERY: Final = ROOT + "discovery/"
REQUEST: Final = ROOT + "request/"
REPLY: Final = ROOT + "reply/"

WORD: Final = re.compile(r"[A-Za-z0-9_.-]+")
_PLACE: Final = re.compile(r"([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)")
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_.-]|_(?=x[0-9A-F]{2})")
_ESCAPE: Final = re.compile(rb"_x([0-9A-F]{2})")


@final
class Places:
    """Spells agents as places and reads them back; no two agents have one place."""

    def __init__(self, org: str, unit: str) -> None:
        """Ours: where agents are whose ids say no organisation and unit."""
        assert WORD.fullmatch(org), org
        assert WORD.fullmatch(unit), unit
        self._ours = f"{org}/{unit}/"

    def of(self, agent: str) -> str:
        """The place of an agent."""
        if _PLACE.fullmatch(agent) and not agent.startswith(self._ours):
            return agent
        return self._ours + _ILLEGAL.sub(lambda found: _escaped(found[0]), agent)

    def agent_at(self, place: str) -> str | None:
        """Whose place this is; None if no agent can be there."""
        if not _PLACE.fullmatch(place):
            return None
        if not place.startswith(self._ours):
            return place
        spelt = place[len(self._ours) :].encode()
        try:
            agent = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), spelt).decode()
        except UnicodeDecodeError:
            return None
        return agent if check_agent(agent) is None and self.of(agent) == place else None

    def own(self, word: str) -> str:
        """A place of ours for something that is spelt as it is."""
        return self._ours + word


def _escaped(text: str) -> str:
    return "".join([f"_x{byte:02X}" for byte in text.encode()])
