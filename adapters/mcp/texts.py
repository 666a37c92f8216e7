"""What the mesh says of itself to models."""

from __future__ import annotations

from typing import Final

INSTRUCTIONS: Final = (
    "A mesh where agents, tools and devices meet. Every skill somebody offers is a tool; with the argument 'agent' "
    "you choose who does it. The tools named mesh_… publish, read, wait for and join channels, find agents and open "
    "rooms. Channels are also resources, channel:///name, which hold their retained or newest message."
)
