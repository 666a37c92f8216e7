"""Who of a share gets the next message, by each strategy that can be configured."""

from __future__ import annotations

import pytest
from groups_world import Party, World, play

from dragoman.broker.settings_groups import GroupSettings
from dragoman.routing.message import Envelope


def join(world: World, party: Party, *, filter_: str = "jobs") -> None:
    refusal = world.groups.share(party, "crew", filter_, wish=1, kept=False)
    assert refusal is None, refusal


@pytest.mark.parametrize("strategy", ["round-robin", "sticky"])
def test_other_strategies(strategy: str) -> None:
    async def scene(world: World) -> None:
        members = [world.party(agent=f"m{n}") for n in range(3)]
        for member in members:
            join(world, member)
        for n in range(12):
            await world.say("jobs", b"%d" % n, envelope=Envelope(key=b"k%d" % (n % 4)))
        assert sorted(p or b"" for m in members for p in m.payloads()) == sorted(b"%d" % n for n in range(12))
        if strategy == "round-robin":
            assert [len(member.got) for member in members] == [4, 4, 4]
        else:
            for member in members:
                keys = {m.envelope.key for m in member.got if m.envelope}
                assert len(member.got) == 3 * len(keys), "a key stays with one member"

    play(scene, lambda: World(settings=GroupSettings(share_strategy=strategy)))


def test_hash_keeps_a_channel_with_one_member_and_moves_only_the_channels_of_one_that_left() -> None:
    async def scene(world: World) -> None:
        members = [world.party(agent=f"m{n}") for n in range(3)]
        for member in members:
            join(world, member, filter_="jobs/+")

        async def homes() -> dict[str, int]:
            for n in range(20):
                for count in range(3):
                    # A key that differs each time: it is the channel that counts.
                    await world.say(f"jobs/{n}", b"%d" % n, envelope=Envelope(key=b"%d" % count))
            found: dict[str, int] = {}
            for at, member in enumerate(members):
                for message in member.got:
                    assert found.setdefault(message.name, at) == at, "a channel stays with one member"
                world.ack(member)
                member.got.clear()
            assert len(found) == 20
            return found

        before = await homes()
        assert set(before.values()) == {0, 1, 2}, "channels are spread"
        assert await homes() == before
        world.leave(members[1])
        after = await homes()
        assert all((after[name] != home) == (home == 1) for name, home in before.items())

    play(scene, lambda: World(settings=GroupSettings(share_strategy="hash")))
