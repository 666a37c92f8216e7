"""The story: a thermostat, an agent, a planner and a pipeline who share no protocol, two watchers, a nap, a crash.

Every actor is an ordinary client in a process of its own. Exits 0 only if every step was seen by another
process than the one that acted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.clients.mesh import ANY_PORT, MeshProcess
from tests.demo.stage import Fact, Failed, Stage

READINGS = "home/living-room/temperature"
ALERTS = "home/alerts"
PRESENCE = "$mesh/v1/presence/thermostat"
WANTED = 21.5
PLANNED = 19.0
LAST = "that is all"


def main() -> int:
    stage = Stage()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dragoman-demo-") as folder:
        try:
            with MeshProcess(Path(folder), listeners=dict.fromkeys(("mqtt", "kafka", "http"), ANY_PORT)) as mesh:
                play(stage, mesh)
        except Failed as failure:
            stage.console.print(f"\n[bold red]✗ {failure}[/bold red]")
            return 1
        except (OSError, ValueError) as error:
            stage.console.print(f"\n[bold red]✗ the mesh did not answer as it should: {error}[/bold red]")
            return 1
        finally:
            stage.end()
    took = time.monotonic() - began
    stage.console.print(
        f"\n[bold green]{len(stage.steps)} steps, each seen by another process[/bold green], {took:.1f} s"
    )
    return 0


def play(stage: Stage, mesh: MeshProcess) -> None:
    host, port = mesh.address("mqtt")
    kafka = ":".join(map(str, mesh.address("kafka")))
    stage.console.print(f"A mesh runs: MQTT on {host}:{port}, Kafka on {kafka}, HTTP, MCP and A2A on {mesh.url}")
    watchers(stage, mesh)
    thermostat = arrives(stage, mesh)
    pipeline = flows(stage, kafka)
    is_called(stage, mesh)
    is_asked(stage, mesh)
    sleeps(stage, mesh, thermostat)
    crash(stage, mesh, thermostat, pipeline)


def watchers(stage: Stage, mesh: MeshProcess) -> None:
    stage.scene("Two watchers, who share no protocol either")
    host, port = mesh.address("mqtt")
    stage.actor("sse", "watch_http.py", mesh.url)
    stage.actor("mqtt5", "watch_mqtt.py", host, str(port))
    stage.wait("both watch", ("sse", says("watches")), ("mqtt5", says("watches")))


def arrives(stage: Stage, mesh: MeshProcess) -> Any:
    stage.scene("A thermostat connects, and offers a skill with nothing but publish and subscribe")
    host, port = mesh.address("mqtt")
    thermostat = stage.actor("thermostat", "thermostat.py", host, str(port))
    stage.wait("its presence is known in both protocols", ("sse", presence("online")), ("mqtt5", presence("online")))
    stage.wait("its readings arrive", ("sse", reading(18.0)), ("mqtt5", reading(18.0)))
    return thermostat


def flows(stage: Stage, kafka: str) -> Any:
    stage.scene("A data pipeline joins with nothing but Kafka")
    pipeline = stage.actor("pipeline", "pipeline.py", kafka)
    stage.wait("the readings arrive as records", ("pipeline", record(READINGS, 18.0)))
    return pipeline


def is_called(stage: Stage, mesh: MeshProcess) -> None:
    stage.scene("An agent finds the thermostat among its MCP tools, and calls it")
    since = stage.now
    stage.actor("agent", "agent.py", f"{mesh.url}/mcp", str(WANTED))
    (told,) = stage.wait(
        "the instruction reached the device as an MQTT message",
        ("thermostat", lambda f: f["what"] == "is told" and json.loads(f["payload"]) == {"celsius": WANTED}),
        since=since,
    )
    stage.wait(
        "the device's answer is the tool's result",
        ("agent", lambda f: f["what"] == "gets the answer" and f["answer"] == {"celsius": WANTED, "heating": True}),
        since=since,
    )
    call = f"$mesh/v1/calls/{told['call']}"
    stage.wait("the call was news", ("sse", sees(call)), ("mqtt5", sees(call)), since=since)
    stage.wait(
        "the room gets warmer",
        ("sse", reading(WANTED)),
        ("mqtt5", reading(WANTED)),
        ("pipeline", record(READINGS, WANTED)),
        since=since,
    )


def is_asked(stage: Stage, mesh: MeshProcess) -> None:
    stage.scene("A planner asks the mesh who can set a temperature, finds the thermostat as an A2A agent, and asks it")
    since = stage.now
    stage.actor("planner", "planner.py", f"{mesh.url}/a2a", str(PLANNED))
    stage.wait(
        "the thermostat is found by what it can do",
        ("planner", lambda f: f["what"] == "finds" and f["agent"] == "thermostat"),
        since=since,
    )
    stage.wait(
        "its message reached the device as an MQTT message",
        ("thermostat", lambda f: f["what"] == "is told" and json.loads(f["payload"]) == {"celsius": PLANNED}),
        since=since,
    )
    stage.wait(
        "the device's answer is the task's artifact",
        ("planner", lambda f: f["what"] == "has it done" and f["answer"] == {"celsius": PLANNED, "heating": True}),
        since=since,
    )
    stage.wait(
        "the room gets cooler",
        ("mqtt5", reading(PLANNED)),
        ("pipeline", record(READINGS, PLANNED)),
        since=since,
    )


def sleeps(stage: Stage, mesh: MeshProcess, thermostat: Any) -> None:
    stage.scene("The thermostat sleeps, gets mail, and finds it when it returns")
    since = stage.now
    thermostat.cue("sleep")
    stage.wait("it is asleep", ("sse", presence("asleep")), ("mqtt5", presence("asleep")), since=since)
    post(stage, mesh, "mesh/to/thermostat", "change your filter")
    since = stage.now
    thermostat.cue("wake")
    stage.wait("the mail was there", ("thermostat", reads("mesh/me/in", "change your filter")), since=since)
    stage.wait("it is back", ("sse", presence("online")), ("mqtt5", presence("online")), since=since)


def crash(stage: Stage, mesh: MeshProcess, thermostat: Any, pipeline: Any) -> None:
    stage.scene("The pipeline is killed, the thermostat sleeps again, the mesh is killed with SIGKILL and started anew")
    since = stage.now
    post(stage, mesh, ALERTS, "window ajar")
    (taken,) = stage.wait("the pipeline has the alert", ("pipeline", record(ALERTS, "window ajar")), since=since)
    # Killed between two records, so that it has said of each that it took it.
    stage.wait("and a reading", ("pipeline", record(READINGS, PLANNED)), since=stage.now)
    pipeline.end()
    since = stage.now
    stage.wait("readings go on without it", *acknowledged_after(stage, 2), since=since)
    thermostat.cue("sleep")
    stage.wait("it is asleep again", ("mqtt5", presence("asleep")), since=since)
    post(stage, mesh, "mesh/to/thermostat", "this survives a crash")
    post(stage, mesh, ALERTS, "window open")
    post(stage, mesh, ALERTS, "window wide open")
    since = stage.now
    mesh.kill()
    stage.act("SIGKILL", pid=mesh.pid)
    mesh.restart()
    stage.act("started again", pid=mesh.pid)
    stage.wait(
        "the retained reading is there",
        ("mqtt5", lambda f: reading(PLANNED)(f) and f["retained"] is True),
        since=since,
    )
    post(stage, mesh, ALERTS, "window shut")
    group_goes_on(stage, mesh, taken["offset"])
    since = stage.now
    thermostat.cue("wake")
    stage.wait(
        "everything acknowledged was there for the sleeper",
        ("thermostat", lambda f: f["what"] == "connects" and f["session_present"] is True),
        ("thermostat", reads("mesh/me/in", "this survives a crash")),
        ("thermostat", reads(ALERTS, "window open")),
        ("thermostat", reads(ALERTS, "window shut")),
        since=since,
    )
    stage.wait("the MQTT watcher came back by itself and sees it", ("mqtt5", presence("online")), since=since)
    nothing_lost(stage, mesh, thermostat)


def group_goes_on(stage: Stage, mesh: MeshProcess, before: int) -> None:
    """``before``: the offset of the last alert the pipeline took before it was killed."""
    stage.actor("pipeline-2", "pipeline.py", ":".join(map(str, mesh.address("kafka"))))
    missed = [record(ALERTS, text, offset=before + at) for at, text in ((1, "window open"), (2, "window wide open"))]
    stage.wait("the pipeline's group goes on at its offset", *(("pipeline-2", alert) for alert in missed))
    stage.wait("offsets go on", ("pipeline-2", record(ALERTS, "window shut", offset=before + 3)))


def nothing_lost(stage: Stage, mesh: MeshProcess, thermostat: Any) -> None:
    """Compared once all is quiet: behind the last record of each topic, which only the director and its cue say."""
    since = stage.now
    stage.wait("readings go on", *acknowledged_after(stage, 2), since=since)
    thermostat.cue("last")
    post(stage, mesh, ALERTS, LAST)
    stage.wait(
        "the last of both topics is taken",
        ("pipeline-2", record(ALERTS, LAST)),
        ("pipeline-2", lambda f: record(READINGS, PLANNED)(f) and "last" in json.loads(f["payload"])),
        since=since,
    )
    last = json.loads(worked_off(stage, READINGS)[-1])["n"]
    stage.wait(
        "and was acknowledged", ("thermostat", lambda f: f["what"] == "is acknowledged" and f["n"] == last), since=since
    )
    said = [fact["n"] for fact in stage.all("thermostat") if fact["what"] == "is acknowledged"]
    taken = [json.loads(payload)["n"] for payload in worked_off(stage, READINGS)]
    lost, twice = sorted(set(said) - set(taken)), sorted({n for n in taken if taken.count(n) > 1})
    if taken != sorted(set(taken)) or lost:
        raise Failed(f"readings were lost, or came twice or late: lost {lost}, twice {twice}, of {taken}")
    alerts = worked_off(stage, ALERTS)
    if alerts != ["window ajar", "window open", "window wide open", "window shut", LAST]:
        raise Failed(f"alerts were lost or came twice: {alerts}")
    stage.console.print(f"           {len(taken)} readings and {len(alerts)} alerts: none was lost, none came twice")


def worked_off(stage: Stage, channel: str) -> list[str]:
    """What the pipeline took from a topic, before it was killed and after."""
    facts = [fact for who in ("pipeline", "pipeline-2") for fact in stage.all(who) if fact["what"] == "takes a record"]
    return [fact["payload"] for fact in facts if fact["channel"] == channel.replace("/", ".")]


# -- what may be seen ------------------------------------------------------------------------------


def says(what: str) -> Any:
    return lambda fact: fact["what"] == what


def sees(channel: str) -> Any:
    return lambda fact: fact["what"] == "sees" and fact["channel"] == channel


def presence(state: str) -> Any:
    def seen(fact: Fact) -> bool:
        return sees(PRESENCE)(fact) and bool(fact["payload"]) and json.loads(fact["payload"])["state"] == state

    return seen


def reading(celsius: float) -> Any:
    return lambda fact: sees(READINGS)(fact) and json.loads(fact["payload"])["celsius"] == celsius


def acknowledged_after(stage: Stage, count: int) -> list[Any]:
    """So many more readings than there are now."""
    known = max(fact["n"] for fact in stage.all("thermostat") if fact["what"] == "is acknowledged")
    return [("thermostat", lambda f: f["what"] == "is acknowledged" and f["n"] >= known + count)]


def record(channel: str, value: object, offset: int | None = None) -> Any:
    def seen(fact: Fact) -> bool:
        if fact["what"] != "takes a record" or fact["channel"] != channel.replace("/", "."):
            return False
        found = fact["payload"] if isinstance(value, str) else json.loads(fact["payload"])["celsius"]
        return found == value and offset in (None, fact["offset"])

    return seen


def reads(channel: str, text: str) -> Any:
    return lambda fact: fact["what"].startswith("reads") and fact["channel"] == channel and fact["payload"] == text


# -- the director's own hands ----------------------------------------------------------------------


def post(stage: Stage, mesh: MeshProcess, channel: str, text: str) -> Fact:
    url = f"{mesh.url}/v1/channels/{urllib.parse.quote(channel)}"
    request = urllib.request.Request(url, text.encode(), {"Content-Type": "text/plain"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        kept: Fact = json.loads(answer.read() or b"{}")
    stage.act("publishes", channel, payload=text, acknowledged=kept.get("id"), kept=kept.get("kept"))
    return kept


if __name__ == "__main__":
    sys.exit(main())
