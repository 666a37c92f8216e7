"""Random publishing, reading, committing, failing and crashing, compared with what each reader must see.

Exact for durable readers and for whoever keeps up; for live readers out of credit: in order, with every missing message
in a counted gap. A failing seed is a parameter of the test.
"""

from __future__ import annotations

import random
from collections import deque

import pytest
from mesh_fakes import Durable, Party, World

from dragoman.broker.channel import Keep
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.message import Message
from dragoman.routing.names import matches
from dragoman.routing.refusals import Refusal

CHANNELS = {"all/a": Keep.ALL, "all/b": Keep.ALL, "acked/a": Keep.ACKED, "read/a": Keep.NONE, "none/a": Keep.NONE}
DURABLE = {b"everything": ("#",), b"some": ("read/+", "all/a")}
STEPS = 220


class Live:
    """A live reader with little credit, and from where on it reads which channel."""

    def __init__(self, game: Game, filter_: str) -> None:
        self.party = game.world.party(credit=game.dice.randrange(3))
        self.filter = filter_
        self.from_: dict[str, int] = {}
        for name in CHANNELS:
            channel = game.world.broker.channels.find(name)
            self.from_[name] = channel.visible if channel is not None else 0
        self.subscription = self.party.read(filter_)

    def check(self, game: Game) -> None:
        missing = 0
        for name in CHANNELS:
            got = [m.offset for m in self.party.got if m.name == name]
            if not matches(self.filter, name):
                assert got == []
                continue
            assert got == sorted(set(got)), f"{name}: {got}"
            said = [m.offset for m in game.observer.got if m.name == name and m.offset >= self.from_[name]]
            assert set(got) <= set(said)
            if got:
                missing += len([offset for offset in said if offset < got[-1]]) - len(got) + 1
        told = sum(self.party.lost_counts)
        assert told >= missing
        # What a failed commit left empty cannot be told from what was lost, where the log keeps a part only.
        assert told <= missing + len(game.refused) + self.trailing(game)

    def trailing(self, game: Game) -> int:
        """Messages lost behind the last one it got: told already, but with nothing after them to see."""
        count = 0
        for name in CHANNELS:
            got = [m.offset for m in self.party.got if m.name == name]
            last = got[-1] if got else self.from_[name] - 1
            count += len([m for m in game.observer.got if m.name == name and m.offset > last])
        return count


class Game:
    def __init__(self, seed: int, *, late: bool = False) -> None:
        self.dice = random.Random(seed)
        self.late = late
        self.world = World(BrokerSettings(ring_bytes_max=1 << 16, sweep_ms=1_000, channel_idle_ms=10_000_000))
        self.count = 0
        self.accepted: dict[bytes, Message] = {}
        self.refused: set[bytes] = set()
        self.tickets: dict[bytes, tuple[Party, int]] = {}
        self.acknowledged: set[bytes] = set()
        self.finished: dict[bytes, set[bytes]] = {key: set() for key in DURABLE}
        self.seen_offsets: dict[tuple[str, int], int] = {}
        owner = self.world.party("owner")
        for name, keep in CHANNELS.items():
            if keep:
                self.world.broker.declare(owner, name, keep)
        self.begin()
        self.world.commit()
        self.hold_reads()

    def hold_reads(self) -> None:
        if self.late:
            self.world.log.held_reads = deque()

    def answer_reads(self) -> None:
        while self.late and self.world.log.answer():
            self.world.loop.run()

    def begin(self) -> None:
        world = self.world
        self.observer = world.party("observer")
        self.observer.read("#")
        self.publishers = [world.party("p1"), world.party("p2")]
        self.durables: dict[bytes, Durable] = {}
        for key, filters in DURABLE.items():
            self.durables[key] = world.durable(key, *filters, credit=self.dice.randrange(4))
        self.lives = [Live(self, filter_) for filter_ in ("#", "all/+", "none/a", "acked/a")]

    # -- steps ---------------------------------------------------------------------------------------

    def say(self) -> None:
        name = self.dice.choice(list(CHANNELS))
        party = self.dice.choice(self.publishers)
        self.count += 1
        payload = b"%06d" % self.count + b"." * self.dice.choice((10, 3_000))
        answer = party.say(name, payload, wish=self.dice.randrange(3), retain=self.dice.random() < 0.1)
        assert not isinstance(answer, Refusal)
        self.accepted[payload] = party.said
        if answer:
            self.tickets[payload] = (party, answer)

    def commit(self) -> None:
        self.world.log.commit()
        self.settle()

    def refuse(self) -> None:
        before = {m.payload or b"" for group in self.world.log.groups for m in group.messages}
        self.world.log.refuse()
        self.refused |= before
        # Rows ride with the next commit; a disk on which none works before a crash may forget a promise of offsets.
        self.world.log.commit()
        self.settle()

    def settle(self) -> None:
        """Each ticket has exactly one answer, the right one, told to its session."""
        waiting = {group.ticket for group in self.world.log.groups}
        for payload, (party, ticket) in list(self.tickets.items()):
            if ticket in waiting:
                assert ticket > party.safe_up_to
                continue
            refused = [t for t, _ in party.refusals].count(ticket)
            assert refused <= 1
            assert (payload in self.refused) <= bool(refused)
            if not refused:
                assert ticket <= party.safe_up_to
                self.acknowledged.add(payload)
            del self.tickets[payload]

    def live(self) -> None:
        live = self.dice.choice(self.lives)
        live.party.give(self.dice.randrange(1, 12))

    def durable(self) -> None:
        self.dice.choice(list(self.durables.values())).give(self.dice.randrange(1, 6))

    def finish(self) -> None:
        key = self.dice.choice(list(self.durables))
        reader = self.durables[key]
        if reader.got:
            reader.finish(self.dice.randrange(len(reader.got)))

    def change(self) -> None:
        """A live reader goes, another comes."""
        index = self.dice.randrange(len(self.lives))
        live = self.lives[index]
        live.check(self)
        if self.dice.random() < 0.5:
            self.world.broker.unsubscribe(live.subscription)
            got = len(live.party.got)
            live.party.give(100)
            assert len(live.party.got) == got
        live.party.end()
        self.lives[index] = Live(self, live.filter)

    def crash(self) -> None:
        self.note_offsets()
        flushed = {m.position: m.payload for m in self.accepted.values() if m.position}
        safe = {m.payload or b"" for m in self.world.log.safe}
        before = {key: {flushed[p] or b"" for p in self.done_in_row(key)} for key in DURABLE}
        expected = {key: self.wanted(key) for key in DURABLE}
        self.world = self.world.after_crash()
        self.tickets.clear()
        self.begin()
        self.hold_reads()
        for key, reader in self.durables.items():
            reader.give(10_000)
            self.answer_reads()
            assert reader.payloads == [p for p in expected[key] if p not in before[key]]
        for payload in self.acknowledged:
            message = self.accepted[payload]
            if CHANNELS[message.name] is Keep.ALL:
                assert payload in safe, "acknowledged, and gone"

    def done_in_row(self, key: bytes) -> set[int]:
        """What the log would tell a restart that the reader is done with."""
        from dragoman.broker.log.contract import Table
        from dragoman.broker.rows import CursorRow, decode_row

        data = self.world.log.safe_rows.get((Table.CURSORS, key))
        assert data is not None
        row = decode_row(data, CursorRow)
        below = {m.position for m in self.accepted.values() if 0 < m.position < row.low}
        return below | set(row.done)

    def wanted(self, key: bytes) -> list[bytes | None]:
        return [m.payload for m in self.world.log.safe if any(matches(f, m.name) for f in DURABLE[key])]

    def note_offsets(self) -> None:
        for message in self.observer.got:
            place = (message.name, message.number)
            self.seen_offsets[place] = max(self.seen_offsets.get(place, -1), message.offset)

    # -- what must hold ------------------------------------------------------------------------------

    def check(self) -> None:
        self.world.check()
        waiting = {m.payload for group in self.world.log.groups for m in group.messages}
        seen = [m.payload for m in self.observer.got]
        assert len(seen) == len(set(seen))
        assert not waiting & set(seen), "seen before its commit"
        assert not self.refused & set(seen), "seen, and refused"
        for name in CHANNELS:
            offsets = [m.offset for m in self.observer.got if m.name == name]
            assert offsets == sorted(offsets)
        for reader in self.durables.values():
            positions = [m.position for m in reader.got]
            assert positions == sorted(set(positions))
            assert not waiting & set(reader.payloads)

    def after_crash_offsets(self) -> None:
        for message in self.observer.got:
            before = self.seen_offsets.get((message.name, message.number), -1)
            assert message.offset > before, f"{message.name} says {message.offset} again"

    def play(self) -> None:
        steps = [(self.say, 40), (self.world.log.split, 0), (self.commit, 14), (self.refuse, 2), (self.live, 12)]
        steps += [(self.durable, 8), (self.finish, 8), (self.change, 2), (self.crash, 1)]
        weights = [weight for _, weight in steps]
        for _ in range(STEPS):
            (step,) = self.dice.choices([step for step, _ in steps], weights)
            step()
            if self.dice.random() < 0.2:
                self.world.log.split()
            if self.dice.random() < 0.1:
                self.world.loop.advance(300)
            if self.late and self.dice.random() < 0.3:
                self.world.log.answer()
            self.world.loop.run()
            self.check()
            self.after_crash_offsets()
        self.finale()

    def finale(self) -> None:
        """Everything is committed and everybody reads to the end."""
        while self.world.log.groups:
            self.commit()
        for live in self.lives:
            live.party.give(10_000)
            self.world.loop.run()
            self.answer_reads()
            live.check(self)
        for reader in self.durables.values():
            reader.give(10_000)
            self.answer_reads()
            assert reader.backlog.behind is False
            reader.finish(*range(len(reader.got)))
        self.world.sweep(3)
        left = {m.name for m in self.world.log.safe if m.offset >= self.world.log.seen_first.get(m.number, 0)}
        assert left <= {"all/a", "all/b"}, "all have read it, and it is still kept"
        self.check()


@pytest.mark.parametrize("seed", range(30))
def test_random_play(seed: int):
    Game(seed).play()


@pytest.mark.parametrize("seed", range(1_000, 1_010))
def test_random_play_with_a_log_that_answers_late(seed: int):
    Game(seed, late=True).play()
