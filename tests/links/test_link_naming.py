"""Names across a link: filters, what their wildcards catch, templates, each side in its own spelling."""

from __future__ import annotations

import re

import pytest

from dragoman.adapters.links.naming import Naming, RuleError
from dragoman.routing.refusals import Reason, Refusal


@pytest.mark.parametrize(
    ("source", "filter_", "template", "target", "name", "becomes"),
    [
        ("mqtt", "#", "{name}", "mesh", "a//b/", "a//b/"),
        ("mqtt", "f/+/temp", "in/{1}", "mesh", "f/l1/temp", "in/l1"),
        ("mqtt", "f/+/temp", "in/{1}", "mesh", "f//temp", "in/"),
        ("mqtt", "f/+/#", "{2}/of/{1}", "mesh", "f/l1/a/b", "a/b/of/l1"),
        ("mqtt", "f/#", "in/{1}", "mesh", "f", "in"),
        ("mqtt", "f/#", "in/{1}", "mesh", "f/", "in/"),
        ("mqtt", "f/+", "{name}", "mesh", "f/a/b", None),
        ("mqtt", "+/a", "{name}", "mesh", "$SYS/a", None),
        ("mqtt", "#", "{name}", "mesh", "$SYS/a", None),
        ("mqtt", "$SYS/#", "sys/{1}", "mesh", "$SYS/a", "sys/a"),
        ("nats", "f.*.temp", "in/{1}", "mesh", "f.l//1.temp", "in/l.1"),
        ("nats", "f.>", "{name}", "mesh", "f.a.b", "f/a/b"),
        ("nats", "f.>", "{1}", "mesh", "g.a", None),
        ("kafka", "orders", "shop/{name}", "mesh", "orders", "shop/orders"),
        ("kafka", "orders", "{name}", "mesh", "orders2", None),
        ("kafka", r"^factory\.(.+)\.temp$", "{1}/t", "mesh", "factory.l1.x.temp", "l1/x/t"),
        ("kafka", "^.*$", "{name}", "mesh", "a..b_xyz", "a..b_xyz"),
        ("kafka", "^a(-.*)?$", "x/{1}", "mesh", "a", "x"),
        ("mesh", "f/+/temp", "plant.{1}", "nats", "f/l.1/temp", "plant.l//1"),
        ("mesh", "f/#", "{name}", "nats", "f//b", "f./.b"),
        ("mesh", "f/#", "p.{1}", "kafka", "f/l 1/t", "p.l_x201.t"),
        ("mesh", "f/+", "p.{1}", "kafka", "f/", "p._x"),
        ("mesh", "f/#", "all", "kafka", "f/x", "all"),
    ],
)
def test_names(source, filter_, template, target, name, becomes):
    assert Naming(source, filter_, template, target).name_for(name) == becomes


@pytest.mark.parametrize(
    ("source", "filter_", "template", "target", "name"),
    [
        ("mesh", "#", "{name}", "nats", "a b/c"),
        ("mesh", "#", "{name}", "nats", "a/>"),
        ("mesh", "#", "{name}", "kafka", "ß" * 100),
        ("mesh", "a/#", "{1}", "nats", "a"),
        ("nats", ">", "{name}", "mesh", "a.b/c"),
    ],
)
def test_a_name_that_cannot_be_said_there_is_a_refusal(source, filter_, template, target, name):
    answer = Naming(source, filter_, template, target).name_for(name)
    assert isinstance(answer, Refusal)
    assert answer.reason in (Reason.NAME_NOT_EXPRESSIBLE, Reason.NAME_INVALID)


@pytest.mark.parametrize(
    ("source", "filter_", "template", "target", "says"),
    [
        ("mqtt", "a/#/b", "{name}", "mesh", "# must be the last level"),
        ("mqtt", "a/+", "{2}", "mesh", "there are {name}, {1}"),
        ("mqtt", "a/+", "{nam}", "mesh", "{nam}"),
        ("mqtt", "a", "x{", "mesh", "brace"),
        ("mqtt", "a", "x/+", "mesh", "wildcard"),
        ("nats", "a..b", "{name}", "mesh", "no NATS subject"),
        ("nats", "a.>.b", "{name}", "mesh", "no NATS subject"),
        ("nats", "a.+", "{name}", "mesh", "wildcard"),
        ("mesh", "a", "x.*", "nats", "no NATS subject"),
        ("kafka", "a/b", "{name}", "mesh", "neither a Kafka topic"),
        ("kafka", "^(", "{name}", "mesh", "no regular expression"),
        ("mesh", "a", "a/b", "kafka", "no Kafka topic"),
    ],
)
def test_a_rule_that_cannot_work_is_a_sentence(source, filter_, template, target, says):
    with pytest.raises(RuleError, match=re.escape(says)):
        Naming(source, filter_, template, target)
