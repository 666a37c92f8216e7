"""Links as they are configured: what cannot work is a sentence, and what the page on links shows can."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dragoman.adapters.links.settings import LinkSettings, RouteSettings
from dragoman.config import ConfigError, in_force, load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "links.md"
GOOD = """
[[links]]
name = "l"
kind = "mqtt"
address = "mqtt://h"
password = "secret-word"
push = [{filter = "a/#"}]
"""


def faults(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    return [str(fault) for fault in caught.value.faults]


def test_the_page_shows_what_works(tmp_path: Path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "c.toml"
    file.write_text(text)
    links = load(file).links
    assert [link.hosts for link in links] == [
        (("broker.example", 8883),),
        (("k1", 9092), ("k2", 9092)),
        (("n1", 4222),),
        (("planner.example", 443),),
    ]
    assert links[0].pull == (RouteSettings("line/+/temp", "factory/{1}/temperature"),)
    assert (links[0].tls, links[1].tls, links[0].known_as) == (True, False, "dragoman-plant")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"mqtt"', '"amqp"'), "must be one of"),
        (("mqtt://h", "kafka://h"), "begins with mqtt:// or mqtts://"),
        (("mqtt://h", "mqtt://ann:no@h"), "credentials go into username and password"),
        (("mqtt://h", "mqtt://a,b"), "has one address"),
        (("mqtt://h", "mqtt://h/path"), "is not HOST:PORT"),
        (("mqtt://h", "mqtt://h:99999"), "is not HOST:PORT"),
        (('name = "l"', 'name = "a/b"'), "cannot be a link's name"),
        (("push = ", "pull = [] # "), "neither pull nor push"),
        (("a/#", "a/#/b"), "# must be the last level"),
        (('"a/#"}', '"a/#", to = "{2}"}'), "there are {name}, {1}"),
        (('name = "l"', 'name = "l"\nstream = "s"'), "links of kind nats"),
        (('"a/#"}', '"a/#", into = "x"}'), "no such key"),
    ],
)
def test_what_cannot_work_is_a_sentence(tmp_path: Path, change: tuple[str, str], says: str):
    found = faults(tmp_path, GOOD.replace(*change))
    assert any(says in fault for fault in found), found


def test_two_of_one_name_are_refused(tmp_path: Path):
    assert any("two links are called 'l'" in fault for fault in faults(tmp_path, GOOD + GOOD))


def test_the_password_is_nobodys_to_see(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text(GOOD)
    config = load(file)
    assert "secret-word" not in repr(config)
    assert "secret-word" not in repr(list(in_force(config)))


def test_a_link_is_made_whole():
    with pytest.raises(ValueError, match="no Kafka topic"):
        LinkSettings("l", "kafka", "kafka://h", push=(RouteSettings("a", "b/c"),))
