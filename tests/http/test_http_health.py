"""Health, readiness through a real commit, metrics and administration."""

from __future__ import annotations

import asyncio
import re

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from dragoman.adapters.http.health import READY_CHANNEL
from dragoman.adapters.http.session import StreamSession
from dragoman.adapters.http.settings import HttpSettings
from dragoman.broker import metrics as metrics_module
from dragoman.broker.log.contract import Ticket
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.subscription import Subscription
from dragoman.routing.refusals import Reason, Refusal
from tests.clients.tools import ROOT
from tests.http.http_mesh import HttpMesh, eventually, http_mesh


class StoppedLog(MemoryLog):
    """A log whose writer has stopped: nothing is ever committed, and nothing fails."""

    stopped = False

    def open(self, on_commit, on_refused):
        def commit(ticket: Ticket) -> None:
            if not self.stopped:
                on_commit(ticket)

        super().open(commit, on_refused)


class FullLog(MemoryLog):
    """A log that takes nothing."""

    full = False

    def append(self, message):
        return Refusal(Reason.STORAGE_FULL, "the log's budget is used up") if self.full else super().append(message)


class RefusingLog(MemoryLog):
    """A log whose commits fail."""

    failing = False

    def open(self, on_commit, on_refused):
        def commit(ticket: Ticket) -> None:
            if self.failing:
                on_refused(ticket, Refusal(Reason.STORAGE_FAILED, "the disk said no"))
            else:
                on_commit(ticket)

        super().open(commit, on_refused)


def test_ready_means_that_a_message_went_through_a_commit():
    async def main():
        async with http_mesh() as mesh:
            commits = mesh.broker.channels.by_name.get(READY_CHANNEL)
            assert commits is None
            status, answer, _ = await mesh.ask("GET", "/readyz")
            assert (status, answer["status"]) == (200, "ready")
            channel = mesh.broker.channels.by_name[READY_CHANNEL]
            assert channel.visible == 1
            assert mesh.broker.log.bounds(channel.number) == (1, 1)
            await mesh.ask("GET", "/readyz")
            assert channel.visible == 1, "a second probe at once costs no second commit"
            _, listed, _ = await mesh.ask("GET", "/v1/channels")
            assert listed["channels"] == []

    asyncio.run(main())


def test_not_ready_when_the_writer_has_stopped():
    async def main():
        log = StoppedLog()
        async with http_mesh(HttpSettings(ready_max_ms=200), log=log) as mesh:
            log.stopped = True
            status, problem, _ = await mesh.ask("GET", "/readyz")
            assert (status, problem["type"]) == (503, "not-ready")
            assert "not committed within 200 ms" in problem["detail"]
            assert (await mesh.ask("GET", "/healthz"))[:2] == (200, {"status": "up"})
            log.stopped = False

    asyncio.run(main())


def test_not_ready_says_what_our_own_listener_said():
    async def main():
        log = FullLog()
        async with http_mesh(log=log) as mesh:
            log.full = True
            status, problem, _ = await mesh.ask("GET", "/readyz")
            assert status == 503
            assert "507" in problem["detail"]
            assert "storage-full" in problem["detail"]

    asyncio.run(main())


def test_a_listener_that_does_not_accept_is_not_ready():
    async def main():
        async with http_mesh() as mesh:
            assert (await mesh.ask("GET", "/healthz"))[0] == 200
            mesh.listener.stop_accepting()
            status, problem, _ = await mesh.ask("GET", "/readyz")
            assert status == 503
            assert "does not answer" in problem["detail"]

    asyncio.run(main())


def test_a_publisher_is_not_kept_waiting_for_ever():
    async def main():
        log = StoppedLog()
        async with http_mesh(HttpSettings(confirm_max_ms=100), log=log) as mesh:
            await mesh.ask("GET", "/readyz")
            log.stopped = True
            status, problem, _ = await mesh.ask("POST", f"/v1/channels?name={READY_CHANNEL}", token="root")
            assert (status, problem["type"]) == (504, "deadline-passed")
            log.stopped = False

    asyncio.run(main())


def test_a_full_log_is_507_and_a_refused_commit_too():
    async def main():
        failing = RefusingLog()
        async with http_mesh(log=failing) as mesh:
            await mesh.ask("GET", "/readyz")
            failing.failing = True
            status, problem, _ = await mesh.ask("POST", f"/v1/channels?name={READY_CHANNEL}")
            assert (status, problem["type"]) == (507, "storage-failed")
            failing.failing = False
        log = FullLog()
        async with http_mesh(log=log) as mesh:
            await mesh.ask("GET", "/readyz")
            log.full = True
            status, problem, _ = await mesh.ask("POST", f"/v1/channels?name={READY_CHANNEL}")
            assert (status, problem["type"]) == (507, "storage-full")

    asyncio.run(main())


def test_metrics_are_what_prometheus_reads():
    async def main():
        async with http_mesh() as mesh:
            for _ in range(3):
                await mesh.publish("c", "12345")
            await mesh.ask("POST", "/v1/channels/$mesh/x")
            status, text, head = await mesh.ask("GET", "/metrics")
            assert (status, head["content-type"].partition(";")[0]) == (200, "text/plain")
            lines = text.decode().splitlines()
            assert "dragoman_messages_in_total 3.0" in lines
            assert "# TYPE dragoman_messages_in_total counter" in lines
            assert 'dragoman_connections{protocol="http"} 1.0' in lines
            assert 'dragoman_refused_total{reason="not-authorized"} 1.0' in lines

    asyncio.run(main())


def test_every_counter_is_shown_under_its_name_and_kind():
    async def main():
        async with http_mesh() as mesh:
            mesh.broker.metrics.drop("expired")
            await mesh.ask("POST", "/v1/channels/$mesh/x")
            _, text, head = await mesh.ask("GET", "/metrics")
            assert head["content-type"] == CONTENT_TYPE_LATEST
            shown = {family.name: family.type for family in text_string_to_metric_families(text.decode())}
            expected = {name: kind for _, name, kind, _ in (*metrics_module._BROKER, *metrics_module._WIRE)}
            source = (ROOT / "broker" / "metrics.py").read_text("utf-8")
            literal = set(re.findall(r'"(dragoman_[a-z_]*[a-z])"', source))
            assert literal >= expected.keys()
            expected |= dict.fromkeys(literal - expected.keys(), "counter")
            counters = ("calls", "calls_failed", "answers_late", "verbs_unheard", "verbs_dropped", "bans_refused")
            counters = (*counters, "slow_readers_ended", "delayed", "delayed_said")
            gauges = ("log_oldest_uncommitted_ms", "log_uncommitted_bytes", "log_used_bytes", "bans", "slow_readers")
            gauges = (*gauges, "delayed_waiting", "delayed_bytes")
            expected |= {f"dragoman_{name}": "counter" for name in counters}
            expected |= {f"dragoman_{name}": "gauge" for name in (*gauges, "ring_bytes", "retained", "calls_pending")}
            assert shown == expected

    asyncio.run(main())


def test_what_others_know_is_asked_when_the_metrics_are():
    async def main():
        log = StoppedLog()
        async with http_mesh(log=log) as mesh:
            await mesh.publish("kept", "12345", retain="true")
            before = await _metrics(mesh)
            assert (before["dragoman_retained"], before["dragoman_calls_total"]) == (1, 0)
            assert before["dragoman_ring_bytes"] > 0
            assert before["dragoman_log_oldest_uncommitted_ms"] == 0
            await mesh.ask("PUT", "/v1/agents/w", token="alice", json={"card": {"name": "w"}})
            token = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/w/asks?skill=write", headers=token) as asks:
                await eventually(lambda: mesh.broker.directory.offers("write") != [])
                headers = {"Prefer": "wait=0"}
                _, call, _ = await mesh.ask("POST", "/v1/calls", json={"skill": "write"}, headers=headers)
                await asks.next()
                assert (await _metrics(mesh))["dragoman_calls_pending"] == 1
                await mesh.ask("DELETE", f"/v1/calls/{call['id']}")
                status, _, _ = await mesh.ask("POST", f"/v1/calls/{call['id']}/answer", token="alice", json={})
                assert status == 409
            after = await _metrics(mesh)
            assert [after[f"dragoman_{name}"] for name in ("calls_total", "calls_pending")] == [1, 0]
            assert (after["dragoman_calls_failed_total"], after["dragoman_answers_late_total"]) == (1, 1)

    asyncio.run(main())


async def _metrics(mesh: HttpMesh) -> dict[str, float]:
    _, text, _ = await mesh.ask("GET", "/metrics")
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_administration_is_for_administrators():
    async def main():
        async with http_mesh() as mesh:
            await mesh.publish("c", "x")
            paths = (
                "status",
                "channels",
                "agents",
                "connections",
                "log",
                "config",
                "sessions",
                "groups",
                "dead-letters",
                "slow",
                "bans",
            )
            for path in paths:
                assert (await mesh.ask("GET", f"/v1/admin/{path}"))[0] == 403, path
                assert (await mesh.ask("GET", f"/v1/admin/{path}", token="root"))[0] == 200, path
            _, status, _ = await mesh.ask("GET", "/v1/admin/status", token="root")
            assert (status["channels"], status["version"], status["durable"]) == (1, "9.9", False)
            _, channels, _ = await mesh.ask("GET", "/v1/admin/channels?prefix=c", token="root")
            assert [c["name"] for c in channels["channels"]] == ["c"]
            _, config, _ = await mesh.ask("GET", "/v1/admin/config", token="root")
            assert config["settings"] == [{"key": "listen.http", "value": "127.0.0.1:0", "origin": "default"}]
            status, problem, _ = await mesh.ask("POST", "/v1/admin/backup", token="root", json={"target": "/x"})
            assert (status, problem["type"]) == (501, "unsupported")

    asyncio.run(main())


def test_a_connection_is_named_and_ended():
    async def main():
        async with http_mesh() as mesh:
            headers = {"Authorization": "Bearer alice", "Mesh-Agent": "desk"}
            async with mesh.events("/v1/channels/c", headers=headers) as events:
                _, answer, _ = await mesh.ask("GET", "/v1/admin/connections?agent=desk", token="root")
                (one,) = answer["connections"]
                assert (one["protocol"], one["principal"], one["subscriptions"]) == ("http", "alice", ["c"])
                path = f"/v1/admin/connections/{one['id']}/disconnect"
                assert (await mesh.ask("POST", path, token="bob"))[0] == 403
                assert (await mesh.ask("POST", path, token="root"))[0] == 204
                end = await events.next()
                assert (end.kind, end.data["type"]) == ("end", "disconnected")
            await eventually(lambda: mesh.broker.metrics.subscriptions == 0)
            assert (await mesh.ask("POST", path, token="root"))[0] == 410

    asyncio.run(main())


def test_slow_readers_are_told_apart():
    async def main():
        async with http_mesh() as mesh:
            slow = StreamSession(mesh.broker, mesh.people.known["bob"], "", HttpSettings(stream_max_messages=1))
            quick = StreamSession(mesh.broker, mesh.people.known["alice"], "", HttpSettings())
            with mesh.surface.attached(slow), mesh.surface.attached(quick):
                for session in (slow, quick):
                    assert isinstance(mesh.broker.subscribe(session, "c"), Subscription)
                await _behind(mesh, [])
                await mesh.publish("c", "1")
                await mesh.publish("c", "2")
                await _behind(mesh, ["bob"])
                _, others, _ = await mesh.ask("GET", "/v1/admin/connections?behind=false", token="root")
                assert "bob" not in [one["principal"] for one in others["connections"]]
                slow.take()
                slow.replenish()
                await _behind(mesh, [])

    asyncio.run(main())


async def _behind(mesh: HttpMesh, principals: list[str]) -> None:
    _, slow, _ = await mesh.ask("GET", "/v1/admin/connections?behind=true", token="root")
    assert [(one["principal"], one["behind"]) for one in slow["connections"]] == [(name, True) for name in principals]


def test_a_backup_goes_where_it_is_told():
    async def main():
        async with http_mesh() as mesh:
            told: list[str] = []

            async def backup(target: str) -> None:
                told.append(target)

            mesh.surface.backup = backup
            status, _, _ = await mesh.ask("POST", "/v1/admin/backup", token="root", json={"target": "/x"})
            assert (status, told) == (204, ["/x"])
            assert (await mesh.ask("POST", "/v1/admin/backup", token="root", json={"target": ""}))[0] == 400
            assert (await mesh.ask("POST", "/v1/admin/backup", token="bob", json={"target": "/y"}))[0] == 403
            assert told == ["/x"]

    asyncio.run(main())
