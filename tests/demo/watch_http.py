"""A watcher with nothing but HTTP: a server-sent event stream, as a browser would read it."""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request

from acting import say

FILTERS = ["$mesh/v1/presence/#", "$mesh/v1/calls/#", "home/#"]


def main(url: str) -> None:
    query = urllib.parse.urlencode([("filter", name) for name in FILTERS])
    request = urllib.request.Request(f"{url}/v1/stream?{query}", headers={"Accept": "text/event-stream"})
    with urllib.request.urlopen(request) as stream:
        say("watches", protocol="HTTP SSE")
        event: dict[str, str] = {}
        for raw in stream:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(":")
                event[name] = event.get(name, "") + value.removeprefix(" ")
            elif event.get("data"):
                tell(json.loads(event["data"]))
                event = {}
            else:
                event = {}


def tell(seen: dict[str, object]) -> None:
    say("sees", protocol="HTTP SSE", channel=str(seen.get("channel", "")), payload=str(seen.get("payload", "")))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (OSError, KeyboardInterrupt):
        sys.exit(0)
