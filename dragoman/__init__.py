"""Dragoman: one process in which agents, tools, devices and pipelines meet, each in its own protocol.

``Mesh`` is the one name an embedder needs. It is loaded on first use (PEP 562), so that
``import dragoman.routing.names`` stays free of asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman.mesh import Mesh

__all__ = ["Mesh"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Mesh":
        from dragoman.mesh import Mesh

        return Mesh
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
