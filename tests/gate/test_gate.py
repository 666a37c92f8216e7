from __future__ import annotations

import pytest

from dragoman.broker.gate import Action, Gate, Verdict
from dragoman.broker.gate_settings import GateSettings, RateSettings, RuleSettings
from dragoman.broker.principal import ANONYMOUS, EMBEDDED, MESH, Principal
from dragoman.broker.rates import Limiter, overdraw, take
from dragoman.routing.refusals import Reason, Refusal

ANN = Principal("ann", frozenset({"ops"}))
BOB = Principal("bob")


def gate(*rules: RuleSettings, default: str = "allow", verdicts_max: int = 100) -> Gate:
    return Gate(GateSettings(rules=rules, default=default, verdicts_max=verdicts_max))


def allow(actions: str, *filters: str, who: str = "*") -> RuleSettings:
    return RuleSettings("allow", (who,), tuple(actions.split()), filters)


def deny(actions: str, *filters: str, who: str = "*") -> RuleSettings:
    return RuleSettings("deny", (who,), tuple(actions.split()), filters)


def may(judge: Gate, action: Action, resource: str, who: Principal = BOB, agent: str = "") -> bool:
    answer = judge.check(who, action, resource, agent)
    if isinstance(answer, Refusal):
        assert answer.reason is Reason.NOT_AUTHORIZED
        assert who.name in answer.detail
        return False
    return answer is Verdict.ALLOW


@pytest.mark.parametrize("action", [action for action in Action if action is not Action.ADMIN])
def test_without_rules_everybody_may_everything_but_administer(action: Action) -> None:
    assert may(gate(), action, "factory/line", ANONYMOUS)


def test_administration_is_for_admins_whatever_the_rules_say() -> None:
    for judge in (gate(), gate(allow("*", "#"))):
        assert not may(judge, Action.ADMIN, "", ANONYMOUS)
        assert not may(judge, Action.ADMIN, "", ANN)
        assert may(judge, Action.ADMIN, "", Principal("root", admin=True))
        # A remembered answer to one anonymous asker is not given to another.
        assert may(judge, Action.ADMIN, "", Principal("anonymous", admin=True))
        assert not may(judge, Action.ADMIN, "", ANONYMOUS)


@pytest.mark.parametrize("judge", [gate(), gate(allow("*", "#", "$mesh/#", "$SYS/#")), gate(default="deny")])
def test_the_mesh_alone_writes_its_own_names(judge: Gate) -> None:
    for who in (BOB, Principal("root", admin=True), EMBEDDED):
        for name in ("$mesh", "$mesh/v1/presence/pump", "$SYS/broker/uptime"):
            assert not may(judge, Action.PUBLISH, name, who)
            assert not may(judge, Action.CREATE, name, who)
    assert may(judge, Action.SUBSCRIBE, "$mesh/v1/#")
    assert may(judge, Action.READ, "$SYS/broker/uptime")


def test_other_names_with_a_dollar_are_ordinary() -> None:
    assert may(gate(), Action.PUBLISH, "$aws/things/pump")
    assert may(gate(), Action.PUBLISH, "$meshed/up")


def test_a_rule_can_hide_presence() -> None:
    judge = gate(deny("read", "$mesh/v1/presence/#"))
    assert not may(judge, Action.SUBSCRIBE, "$mesh/v1/presence/+")
    assert not may(judge, Action.READ, "$mesh/v1/presence/pump")
    assert may(judge, Action.SUBSCRIBE, "$mesh/v1/agents/+")


def test_the_first_rule_that_speaks_decides() -> None:
    judge = gate(allow("publish", "a/open"), deny("publish", "a/#"), allow("publish", "a/late"))
    assert may(judge, Action.PUBLISH, "a/open")
    assert not may(judge, Action.PUBLISH, "a/late")
    assert not may(judge, Action.PUBLISH, "a")
    assert may(judge, Action.PUBLISH, "b")
    assert may(judge, Action.READ, "a/late")


def test_default_deny_refuses_what_no_rule_allows_and_says_so() -> None:
    judge = gate(allow("read", "a/#"), default="deny")
    refusal = judge.check(BOB, Action.PUBLISH, "a/b")
    assert refusal == Refusal(
        Reason.NOT_AUTHORIZED, "'bob' may not publish to 'a/b': no rule allows it and the default is deny"
    )
    assert not may(gate(default="deny"), Action.PUBLISH, "a/b")


def test_who_is_a_name_a_group_or_everyone() -> None:
    judge = gate(allow("publish", "a", who="@ops"), allow("publish", "b", who="bob"), deny("publish", "#"))
    assert may(judge, Action.PUBLISH, "a", ANN)
    assert not may(judge, Action.PUBLISH, "a", BOB)
    assert may(judge, Action.PUBLISH, "b", BOB)
    assert not may(judge, Action.PUBLISH, "b", Principal("@ops"))


def test_a_covering_rule_decides_a_subscription() -> None:
    judge = gate(allow("read", "a/+"), default="deny")
    assert may(judge, Action.SUBSCRIBE, "a/+")
    assert may(judge, Action.SUBSCRIBE, "a/b")
    assert not may(judge, Action.SUBSCRIBE, "b/+")


def test_a_wildcard_over_some_readable_channels_is_let_in_and_shows_only_those() -> None:
    judge = gate(allow("read", "a/open"), default="deny")
    assert may(judge, Action.SUBSCRIBE, "#")
    assert may(judge, Action.READ, "a/open")
    assert not may(judge, Action.READ, "a/secret")
    judge = gate(deny("read", "a/secret"))
    assert may(judge, Action.SUBSCRIBE, "a/#")
    assert not may(judge, Action.SUBSCRIBE, "a/secret")
    assert not may(judge, Action.READ, "a/secret")


def test_an_exception_before_a_covering_deny_lets_the_wildcard_in() -> None:
    judge = gate(allow("read", "a/open"), deny("read", "a/#"))
    assert may(judge, Action.SUBSCRIBE, "a/#")
    assert not may(judge, Action.SUBSCRIBE, "a/secret/#")
    judge = gate(deny("read", "a/#"), allow("read", "a/open"))
    assert not may(judge, Action.SUBSCRIBE, "a/#")


def test_an_allow_carries_the_making_of_the_channel_and_a_deny_does_not_spread() -> None:
    judge = gate(allow("publish", "p/#"), allow("read", "r/#"), default="deny")
    assert may(judge, Action.CREATE, "p/x")
    assert may(judge, Action.CREATE, "r/x")
    assert may(judge, Action.JOIN, "r/x")
    assert not may(judge, Action.JOIN, "p/x")
    judge = gate(deny("publish", "a/#"))
    assert may(judge, Action.CREATE, "a/x")
    judge = gate(deny("join", "a/#"))
    assert may(judge, Action.READ, "a/x")
    assert not may(judge, Action.JOIN, "a/x")


def test_calls_are_judged_by_agent_and_skill() -> None:
    judge = gate(deny("call", "+/open_valve"), allow("call", "pump/#"), default="deny")
    assert may(judge, Action.CALL, "pump/start")
    assert not may(judge, Action.CALL, "pump/open_valve")
    assert not may(judge, Action.CALL, "/open_valve")
    assert not may(judge, Action.CALL, "fan/start")


def test_patterns_follow_the_asker_and_never_widen() -> None:
    judge = gate(allow("publish", "dev/%c/#"), allow("register", "%u"), default="deny")
    assert may(judge, Action.PUBLISH, "dev/pump/temp", agent="pump")
    assert not may(judge, Action.PUBLISH, "dev/pump/temp", agent="fan")
    assert not may(judge, Action.PUBLISH, "dev/pump/temp", agent="+")
    assert not may(judge, Action.PUBLISH, "dev//temp", agent="")
    assert may(judge, Action.REGISTER, "bob")
    assert not may(judge, Action.REGISTER, "bob", ANN)


def test_the_embedding_program_is_trusted() -> None:
    assert may(gate(default="deny"), Action.PUBLISH, "a", EMBEDDED)
    assert not may(gate(default="deny"), Action.PUBLISH, "a", Principal("embedded", admin=True))


def test_replacing_the_rules_forgets_every_answer() -> None:
    judge = gate(deny("publish", "a"))
    assert not may(judge, Action.PUBLISH, "a")
    before = judge.generation
    judge.replace(GateSettings(rules=(deny("publish", "b"),)))
    assert judge.generation > before
    assert may(judge, Action.PUBLISH, "a")
    assert not may(judge, Action.PUBLISH, "b")


def test_remembered_answers_are_bounded() -> None:
    judge = gate(deny("publish", "a/#"), verdicts_max=8)
    for number in range(100):
        assert not may(judge, Action.PUBLISH, f"a/{number}")
        assert len(judge._verdicts) <= 8


def test_a_remembered_answer_is_the_same_object() -> None:
    judge = gate(deny("publish", "a/#"))
    assert judge.check(BOB, Action.PUBLISH, "a/1") is judge.check(BOB, Action.PUBLISH, "a/1")


def test_a_limiter_lets_the_burst_through_then_the_rate() -> None:
    limiter = Limiter(10, 3)
    assert [limiter.take(5_000) for _ in range(4)] == [0, 0, 0, 100]
    assert limiter.take(5_099) == 1
    assert limiter.take(5_100) == 0
    assert limiter.take(5_100) == 100
    assert [limiter.take(999_999) for _ in range(4)] == [0, 0, 0, 100]


def test_a_limiter_with_a_clock_at_zero_or_standing_still() -> None:
    limiter = Limiter(1, 1)
    assert limiter.take(0) == 0
    assert limiter.take(0) == 1000
    assert limiter.take(999) == 1
    assert limiter.take(500) == 1
    assert limiter.take(1000) == 0


def test_more_than_the_burst_passes_on_credit() -> None:
    limiter = Limiter(10, 5)
    assert limiter.take(0, 20) == 0
    assert limiter.take(0, 1) == 1600
    assert limiter.take(1_600, 1) == 0


def test_no_refusal_to_wait_zero() -> None:
    limiter = Limiter(3000, 1)
    assert limiter.take(0) == 0
    assert limiter.take(0) == 1


def test_rates_are_per_principal_and_follow_a_reload() -> None:
    judge = Gate(GateSettings(messages_per_s=10, burst=2, rates=(RateSettings(("@ops",), 0),)))
    assert judge.limiters(ANN) == judge.limiters(EMBEDDED) == judge.limiters(MESH) == ()
    (limiter,) = judge.limiters(BOB)
    assert judge.limiters(Principal("bob")) == (limiter,)
    assert limiter not in judge.limiters(ANONYMOUS)
    assert [limiter.take(0) for _ in range(3)] == [0, 0, 100]
    judge.replace(GateSettings())
    assert [limiter.take(0) for _ in range(3)] == [0, 0, 0]
    judge.replace(GateSettings(rates=(RateSettings(("bob",), 1, 1),)))
    assert [limiter.take(0) for _ in range(3)] == [1000, 1000, 1000]


def test_bytes_and_the_whole_mesh_have_rates_too() -> None:
    judge = Gate(GateSettings(bytes_per_s=1_000, bytes_burst=100, total_messages_per_s=10, total_burst=3))
    mine, all_of_us = judge.limiters(BOB)
    assert (mine.weighs, all_of_us.weighs) == (True, False)
    assert judge.limiters(ANN)[1] is all_of_us
    assert take(judge.limiters(BOB), 0, 1, 90) == 0
    assert take(judge.limiters(BOB), 0, 1, 60) == 50
    assert take(judge.limiters(ANN), 0, 2, 0) == 0, "what was refused took nothing of the whole"
    assert take(judge.limiters(ANN), 0, 1, 0) == 100
    judge.replace(GateSettings(total_messages_per_s=10, total_burst=1))
    assert judge.limiters(BOB) == (all_of_us,)
    judge.replace(GateSettings())
    assert judge.limiters(BOB) == ()


def test_what_is_taken_on_credit_is_paid_off_by_waiting() -> None:
    judge = Gate(GateSettings(messages_per_s=10, burst=2, bytes_per_s=100, bytes_burst=10))
    both = judge.limiters(BOB)
    assert overdraw(both, 0, 2, 10) == 0
    assert overdraw(both, 0, 1, 20) == 200
    assert overdraw(both, 100, 1, 0) == 100
    assert overdraw(both, 1_000, 0, 0) == 0


def test_read_is_to_subscribe_and_to_receive_and_nothing_else() -> None:
    actions = (Action.SUBSCRIBE, Action.READ, Action.FOLLOW, Action.JOIN, Action.CREATE, Action.PUBLISH)
    whole = gate(allow("read", "a/#"), default="deny")
    halves = gate(allow("subscribe", "a/#"), allow("receive", "a/#"), default="deny")
    for name in ("a", "a/b", "b"):
        assert [may(whole, action, name) for action in actions] == [may(halves, action, name) for action in actions]
    for filter_ in ("a/+", "#", "b/#"):
        assert may(whole, Action.SUBSCRIBE, filter_) is may(halves, Action.SUBSCRIBE, filter_)
    assert may(whole, Action.FOLLOW, "a/b")


def test_who_may_subscribe_to_everything_is_given_only_what_he_may_receive() -> None:
    judge = gate(allow("subscribe", "#"), allow("receive", "plant/%c/#"), default="deny")
    assert may(judge, Action.SUBSCRIBE, "#", agent="pump")
    assert may(judge, Action.FOLLOW, "plant/pump/up", agent="pump")
    assert not may(judge, Action.FOLLOW, "plant/fan/up", agent="pump")
    assert not may(judge, Action.READ, "plant/fan/up", agent="pump")


def test_who_may_receive_everything_follows_only_what_he_may_subscribe_to() -> None:
    judge = gate(allow("receive", "#"), allow("subscribe", "a/open"), default="deny")
    assert may(judge, Action.READ, "a/other")
    assert not may(judge, Action.SUBSCRIBE, "a/other")
    # A wildcard lets in for the part that is allowed, and that part is all it shows.
    assert may(judge, Action.SUBSCRIBE, "a/+")
    assert may(judge, Action.FOLLOW, "a/open")
    assert not may(judge, Action.FOLLOW, "a/other")


def test_wildcards_can_be_denied_and_names_left() -> None:
    judge = gate(deny("wildcard", "#"), allow("read", "a/#"), default="deny")
    for filter_ in ("#", "a/+", "+/b", "a/#"):
        assert not may(judge, Action.SUBSCRIBE, filter_)
    assert may(judge, Action.SUBSCRIBE, "a/b")
    assert may(judge, Action.FOLLOW, "a/b")
    judge = gate(deny("wildcard", "#"))
    assert may(judge, Action.SUBSCRIBE, "$site/+")


def test_a_deny_of_one_half_leaves_the_other() -> None:
    judge = gate(deny("receive", "a/secret"), deny("subscribe", "a/quiet"))
    assert may(judge, Action.SUBSCRIBE, "a/secret")
    assert not may(judge, Action.FOLLOW, "a/secret")
    assert may(judge, Action.READ, "a/quiet")
    assert not may(judge, Action.FOLLOW, "a/quiet")
    assert not may(judge, Action.JOIN, "a/quiet")
    assert may(judge, Action.JOIN, "a/secret")


def test_mail_is_followed_by_nobody() -> None:
    assert not may(gate(), Action.FOLLOW, "$mail/ann")
