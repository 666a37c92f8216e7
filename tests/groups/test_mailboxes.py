"""Mailboxes: mail waits for its agent, is pushed or pulled, and is gone when acknowledged; nobody else sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from groups_world import ALICE, BOB, ROOT, Party, World, payloads, play

from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.mailbox import Attachment, Mailbox
from dragoman.broker.presence import State
from dragoman.broker.settings_groups import GroupSettings
from dragoman.routing.message import EMPTY, Envelope, Message
from dragoman.routing.refusals import Reason, Refusal


@pytest.fixture(params=["memory", "disk"])
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def make(**options: Any) -> World:
        world = World(**options)
        if request.param == "disk":
            settings = LogSettings(
                folder=tmp_path / "log",
                budget_bytes=1 << 22,
                headroom_bytes=0,
                reserve_free_bytes=0,
                map_bytes=1 << 30,
                threads=False,
            )
            world.log = DiskLog(settings, world.clock)
        return world

    return make


class Inbox:
    """A live connection that is pushed to; ``window`` is how much it takes unacknowledged."""

    def __init__(self, world: World, agent: str, window: int = 1_000) -> None:
        self.got: list[Message] = []
        self.open: list[Message] = []
        self.window = window
        attachment = world.mailboxes.attach(agent, self.deliver)
        assert attachment is not None
        self.attachment: Attachment = attachment

    def deliver(self, message: Message) -> bool:
        if len(self.open) >= self.window:
            return False
        self.got.append(message)
        self.open.append(message)
        return True

    def ack(self) -> None:
        self.attachment.settled(self.open.pop(0))
        self.attachment.resume()

    def payloads(self) -> list[bytes | None]:
        return [message.payload for message in self.got]


def box(world: World, agent: str = "bot") -> Mailbox:
    mailbox = world.mailboxes.open(agent)
    assert isinstance(mailbox, Mailbox)
    return mailbox


async def mail(world: World, *contents: bytes, agent: str = "bot", **facts: Any) -> list[Message]:
    messages = [
        Message("mesh/me/in", content, 0, "", False, Envelope(**facts) if facts else None) for content in contents
    ]
    for message in messages:
        answer = world.mailboxes.mail(world.writer, agent, message)
        assert not isinstance(answer, Refusal), answer
        assert answer > 0, "mail is kept whatever its wish"
    await world.turn()
    return messages


def test_mail_waits_while_its_agent_sleeps_and_is_pushed_when_it_wakes() -> None:
    async def scene(world: World) -> None:
        box(world)
        (first, _) = await mail(world, b"1", b"2")
        assert world.writer.safe > 0
        inbox = Inbox(world, "bot")
        await world.turn()
        assert inbox.payloads() == [b"1", b"2"]
        heard = inbox.got[0]
        assert (heard.name, heard.id, heard.wish, heard.sender) == ("mesh/me/in", first.id, 1, world.writer.agent)
        await mail(world, b"3")
        assert inbox.payloads() == [b"1", b"2", b"3"]

    play(scene)


def test_mail_that_is_heard_under_another_name_keeps_it() -> None:
    async def scene(world: World) -> None:
        box(world)
        message = Message("mesh/me/reply/7", b"1", 1, "", False, Envelope(headers=(("a", b"1"),), correlation=b"c"))
        assert not isinstance(world.mailboxes.mail(world.writer, "bot", message), Refusal)
        inbox = Inbox(world, "bot")
        await world.turn()
        (heard,) = inbox.got
        assert heard.name == "mesh/me/reply/7"
        facts = heard.envelope or EMPTY
        assert (facts.headers, facts.correlation) == ((("a", b"1"),), b"c")

    play(scene)


def test_unacknowledged_mail_comes_again_with_the_next_connection() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        await mail(world, b"1", b"2", b"3")
        inbox = Inbox(world, "bot")
        await world.turn()
        inbox.attachment.settled(inbox.got[1])
        inbox.attachment.detach()
        inbox.attachment.settled(inbox.got[0])
        await world.turn()
        again = Inbox(world, "bot")
        await world.turn()
        assert again.payloads() == [b"1", b"3"], "an acknowledgement after the end comes too late"
        again.ack()
        again.ack()
        assert (mailbox.count, mailbox.bytes) == (0, 0)

    play(scene)


def test_a_connection_gives_one_piece_of_mail_back() -> None:
    async def scene(world: World) -> None:
        box(world)
        await mail(world, b"1")
        inbox = Inbox(world, "bot")
        await world.turn()
        inbox.attachment.returned(inbox.got[0])
        await world.turn()
        assert inbox.payloads() == [b"1", b"1"]

    play(scene)


def test_a_connection_without_credit_gets_the_rest_when_it_has_some() -> None:
    async def scene(world: World) -> None:
        box(world)
        await mail(world, *[b"%d" % n for n in range(10)])
        inbox = Inbox(world, "bot", window=2)
        await world.turn()
        assert len(inbox.got) == 2
        while inbox.open:
            inbox.ack()
            await world.turn()
        assert inbox.payloads() == [b"%d" % n for n in range(10)]

    play(scene, lambda: World(settings=GroupSettings(open_max=4)))


def test_mail_is_pulled_like_from_any_work_group_by_its_agent_alone() -> None:
    async def scene(world: World) -> None:
        mine = world.mailboxes.of(world.party(agent="bot"), "bot")
        assert isinstance(mine, Mailbox)
        await mail(world, b"1")
        for stranger in (world.party(BOB, "eve"), world.party(ALICE, "")):
            refusal = world.mailboxes.of(stranger, "bot")
            assert isinstance(refusal, Refusal)
            assert refusal.reason is Reason.NOT_AUTHORIZED
            refusal = mine.group.pull(stranger, 1, lambda answer: None)
            assert isinstance(refusal, Refusal)
            assert refusal.reason is Reason.NOT_AUTHORIZED
        bot = world.party(agent="bot")
        (delivery,) = world.pull(mine.group, bot)
        assert delivery.message.payload == b"1"
        assert mine.group.ack(bot, [delivery.id]) == {}
        assert mine.count == 0
        assert isinstance(world.mailboxes.of(world.party(ROOT), "bot"), Mailbox)

    play(scene)


def test_the_channel_of_a_mailbox_is_nobody_s() -> None:
    async def scene(world: World) -> None:
        box(world)
        await mail(world, b"secret")
        for party in (world.party(agent="bot"), world.party(ROOT)):
            broker = world.broker
            answers: list[Any] = [
                broker.publish(party, Message("$mail/bot", b"forged", 1)),
                *[broker.subscribe(party, f) for f in ("$mail/bot", "$mail/#", "$mail/+", "$mail")],
                world.groups.open(party, "thief", "$mail/#"),
                world.groups.share(party, "thief", "$mail/bot", wish=1),
                world.groups.open(party, "forger", "jobs", dead_letter="$mail/bot"),
            ]
            broker.read(party, "$mail/bot", None, 1_000, answers.append)
            assert [answer.reason for answer in answers] == [Reason.NOT_AUTHORIZED] * 9
            assert not isinstance(broker.subscribe(party, "#"), Refusal)
            assert not isinstance(broker.subscribe(party, "+/bot"), Refusal)
        await mail(world, b"more")
        assert party.got == []

    play(scene)


def test_a_full_mailbox_refuses_until_something_is_acknowledged() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        await mail(world, b"1", b"2", b"3")
        refusal = world.mailboxes.mail(world.writer, "bot", Message("mesh/me/in", b"4"))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.MAILBOX_FULL
        assert refusal.retry_after_ms > 0
        assert world.metrics.refused == {"mailbox-full": 1}
        bot = world.party(agent="bot")
        deliveries = world.pull(mailbox.group, bot, 2)
        await world.turn()
        assert isinstance(world.mailboxes.mail(world.writer, "bot", Message("mesh/me/in", b"4")), Refusal), (
            "only leased"
        )
        mailbox.group.ack(bot, [deliveries[1].id])
        await mail(world, b"4")
        assert mailbox.count == 3

    play(scene, lambda: World(settings=GroupSettings(mail_max=3)))


def test_a_mailbox_is_full_by_bytes_too() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        await mail(world, b"x" * 700)
        refusal = world.mailboxes.mail(world.writer, "bot", Message("mesh/me/in", b"y" * 700))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.MAILBOX_FULL
        bot = world.party(agent="bot")
        mailbox.group.ack(bot, [d.id for d in world.pull(mailbox.group, bot)])
        await mail(world, b"y" * 700)

    play(scene, lambda: World(settings=GroupSettings(mail_bytes_max=1_000)))


def test_expired_mail_takes_no_room() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        await mail(world, *[b"%d" % n for n in range(4)], expires_ms=world.clock.now_ms() + 50)
        await world.wait(100)
        await mail(world, b"new")
        assert mailbox.count == 1
        inbox = Inbox(world, "bot")
        await world.turn()
        assert inbox.payloads() == [b"new"]
        assert world.metrics.dropped == {"expired": 4}

    play(scene, lambda: World(settings=GroupSettings(mail_max=4, open_max=2)))


def test_mail_whose_commit_failed_takes_no_room() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        answer = world.mailboxes.mail(world.writer, "bot", Message("mesh/me/in", b"1"))
        assert not isinstance(answer, Refusal)
        assert mailbox.count == 1
        world.broker.core.commits.refused(Ticket(answer), Refusal(Reason.STORAGE_FAILED, "the disk failed"))
        assert (mailbox.count, mailbox.bytes) == (0, 0)
        assert world.writer.failed == [answer]

    play(scene)


def test_after_a_restart_mail_is_there_and_acknowledged_mail_is_not(worlds: Any) -> None:
    async def scene(world: World) -> None:
        mailbox = box(world, "my bot/1")
        await mail(world, b"1", b"2", b"3", b"4", agent="my bot/1")
        inbox = Inbox(world, "my bot/1")
        await world.turn()
        inbox.attachment.finish(inbox.got[0].position)
        inbox.attachment.finish(inbox.got[2].position)
        size = mailbox.bytes
        world = await world.stopped()
        assert world.mailboxes.exists("my bot/1")
        again = box(world, "my bot/1")
        assert again.count == 2
        assert again.bytes >= size
        (last,) = await mail(world, b"5", agent="my bot/1")
        assert last.offset == 4
        inbox = Inbox(world, "my bot/1")
        await world.turn()
        assert inbox.payloads() == [b"2", b"4", b"5"]
        for _ in range(3):
            inbox.ack()
        assert (again.count, again.bytes) == (0, 0)
        await world.turn()
        number = again.channel.number
        assert world.log.bytes_of(number) == 0, "the log is freed at once, not when the slowest reader is done"
        world = await world.stopped()
        inbox = Inbox(world, "my bot/1")
        await world.turn()
        assert inbox.got == []
        await world.broker.log.close()

    play(scene, worlds)


def test_poison_mail_goes_to_the_agent_s_own_dead_letters() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        await mail(world, b"poison")
        bot = world.party(agent="bot")
        (delivery,) = world.pull(mailbox.group, bot)
        mailbox.group.reject(bot, [delivery.id])
        await world.turn()
        pages: list[Any] = []
        mailbox.group.dead_letters(bot, None, 1_000, pages.append)
        mailbox.group.dead_letters(world.party(BOB, "eve"), None, 1_000, pages.append)
        assert [letter.payload for letter in pages[0].messages] == [b"poison"]
        assert pages[1].reason is Reason.NOT_AUTHORIZED
        assert mailbox.count == 0
        assert pages[0].messages[0].name == "$mail/bot/dead"

    play(scene, lambda: World(settings=GroupSettings(deliveries_max=1)))


def test_connections_that_come_and_go_do_not_make_mail_poison() -> None:
    async def scene(world: World) -> None:
        box(world)
        await mail(world, b"1")
        for _ in range(5):
            inbox = Inbox(world, "bot")
            await world.turn()
            assert inbox.payloads() == [b"1"]
            inbox.attachment.detach()
            inbox.attachment.detach()

    play(scene, lambda: World(settings=GroupSettings(deliveries_max=2)))


def test_without_a_mailbox_there_is_nowhere_to_leave_mail() -> None:
    async def scene(world: World) -> None:
        assert world.mailboxes.post("nobody", Message("mesh/me/in", b"1")) is None
        assert world.mailboxes.attach("nobody", lambda message: True) is None
        refusal = world.mailboxes.mail(world.writer, "nobody", Message("mesh/me/in", b"1"))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.AGENT_UNREACHABLE

    play(scene)


def test_mailboxes_are_bounded_and_closing_one_leaves_nothing() -> None:
    async def scene(world: World) -> None:
        box(world)
        await mail(world, b"1", b"2")
        for agent, reason in (("other", Reason.QUOTA_EXCEEDED), ("", Reason.NAME_INVALID)):
            refusal = world.mailboxes.open(agent)
            assert isinstance(refusal, Refusal)
            assert refusal.reason is reason
        world.mailboxes.close("bot")
        assert not world.mailboxes.exists("bot")
        assert world.metrics.dropped == {"mailbox-closed": 2}
        await world.turn()
        world.broker.channels.sweep()
        await world.turn()
        for table in (Table.GROUPS, Table.CURSORS, Table.CHANNELS):
            assert list(world.log.rows(table)) == []
        world.mailboxes.close("bot")
        inbox_after = box(world)
        assert inbox_after.count == 0

    play(scene, lambda: World(settings=GroupSettings(mailboxes_max=1)))


def test_an_agent_with_a_mailbox_is_asleep_when_it_leaves_and_gone_when_it_has_none() -> None:
    async def scene(world: World) -> None:
        directory = world.broker.directory
        bot = world.party(agent="bot")
        assert isinstance(directory.arrive(bot, "bot", keeps=False), int)
        box(world)
        directory.depart(bot, clean=True, keeps=False)
        agent = directory.get("bot")
        assert agent is not None
        assert agent.state is State.ASLEEP
        world.mailboxes.close("bot")
        assert agent.state is State.GONE

    play(scene)


def test_two_connections_of_one_agent_share_its_mail() -> None:
    async def scene(world: World) -> None:
        box(world)
        one, two = Inbox(world, "bot", window=1), Inbox(world, "bot", window=1)
        await mail(world, b"1", b"2", b"3")
        assert (one.payloads(), two.payloads()) == ([b"1"], [b"2"])
        two.ack()
        await world.turn()
        assert two.payloads() == [b"2", b"3"]

    play(scene)


def test_a_connection_may_settle_within_the_delivery() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        taken: list[Message] = []
        attachments: list[Attachment] = []

        def deliver(message: Message) -> bool:
            taken.append(message)
            attachments[0].settled(message)
            return True

        attachment = world.mailboxes.attach("bot", deliver)
        assert attachment is not None
        attachments.append(attachment)
        await mail(world, b"1", b"2")
        assert [message.payload for message in taken] == [b"1", b"2"]
        assert mailbox.count == 0

    play(scene)


def test_a_pull_waits_for_mail() -> None:
    async def scene(world: World) -> None:
        mailbox = box(world)
        bot: Party = world.party(agent="bot")
        world.pull(mailbox.group, bot, 1, wait_ms=1_000)
        await mail(world, b"1")
        assert [payloads(answer) for answer in bot.pulled] == [[b"1"]]
        world.leave(bot)

    play(scene)
