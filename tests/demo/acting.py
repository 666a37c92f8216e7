"""What every actor of the demo does: says what happened, one JSON line at a time, and hears its cues on stdin."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable


def say(what: str, *, protocol: str, channel: str = "", **facts: object) -> None:
    """Tells the stage what this actor did or saw."""
    print(json.dumps({"what": what, "protocol": protocol, "channel": channel, **facts}), flush=True)


def on_cue(cues: dict[str, Callable[[], None]]) -> None:
    """Runs the cue named by each line of standard input, in a thread of its own; the end of input ends the actor."""

    def listen() -> None:
        for line in sys.stdin:
            cue = cues.get(line.strip())
            if cue is not None:
                cue()

    threading.Thread(target=listen, daemon=True).start()
