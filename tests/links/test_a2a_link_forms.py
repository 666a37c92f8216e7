"""What A2A agents say, as answers: cards, parts, tasks as they go on, and events from any bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.links import a2a_wire
from dragoman.adapters.links.a2a_cards import card_of
from dragoman.adapters.links.a2a_wire import Events
from dragoman.adapters.serving import a2a_following
from dragoman.adapters.serving.a2a_following import Following
from dragoman.adapters.serving.a2a_forms import FormError, answer_of
from dragoman.routing.cards import LINKED
from dragoman.routing.refusals import Reason

JSONRPC = {"url": "http://h:1/rpc/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
REST = {"url": "https://h/rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0", "tenant": "t"}


def card(*interfaces: Any, **more: Any) -> dict[str, Any]:
    return {"name": "n", "supportedInterfaces": list(interfaces), "skills": [], **more}


# -- cards ---------------------------------------------------------------------------------------


def test_the_interface_we_speak_is_found() -> None:
    old = {**JSONRPC, "protocolVersion": "0.3"}
    assert card_of(card(REST, JSONRPC), "a").interface == ("http://h:1/rpc", "JSONRPC", None, False)
    streaming = card(old, REST, capabilities={"streaming": True})
    assert card_of(streaming, "a").interface == ("https://h/rest", "HTTP+JSON", "t", True)
    for interfaces in ((), (old,), ({**JSONRPC, "protocolBinding": "GRPC"},), ({**JSONRPC, "url": "file:///x"},)):
        with pytest.raises(FormError, match="no interface"):
            card_of(card(*interfaces), "a")


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("http://h/", "JSONRPC"),
        ("https://h/", "HTTP+JSON"),
        ("https://other/", None),
    ],
)
def test_a_token_goes_only_where_its_card_is_and_never_in_the_clear(address: str, taken: str | None) -> None:
    given = card(JSONRPC, REST)
    assert card_of(given, "a", address).interface.binding == "JSONRPC", "without a token it may go anywhere"
    if taken is None:
        with pytest.raises(FormError, match="nowhere else"):
            card_of(given, "a", address, secret=True)
    else:
        assert card_of(given, "a", address, secret=True).interface.binding == taken


def test_skills_are_taken_one_by_one() -> None:
    skills = [
        {"id": "good", "name": "Good\u0007", "tags": ["t"] * 64},
        {"id": "good", "name": "again"},
        {"id": ""},
        7,
        {"id": "round", "tags": [LINKED]},
    ]
    read = card_of(card(JSONRPC, skills=skills), "a")
    (skill,) = read.card.skills
    assert (skill.name, skill.title, skill.tags[:2]) == ("good", "Good", ("a2a", LINKED))
    assert len(read.faults) == 2


@pytest.mark.parametrize("junk", [None, 7, "x", [], {"name": "n", "skills": 7}, {"skills": [7]}])
def test_no_card_is_no_card(junk: object) -> None:
    with pytest.raises(FormError):
        card_of(junk, "a")


# -- answers -------------------------------------------------------------------------------------


def test_answers_are_what_the_agent_wrote() -> None:
    assert answer_of([]) == (b"", None, None)
    assert answer_of([{"text": "grün"}]) == ("grün".encode(), None, None)
    assert answer_of([{"data": [1.0, 2.5]}]) == (b"[1,2.5]", "application/json", None)
    assert answer_of([{"raw": "AP8=", "mediaType": "image/png"}]) == (b"\x00\xff", "image/png", None)
    assert answer_of([{"url": "http://x/"}])[1] == "application/json"


def update(text: str, *, append: bool = False, name: str = "a", partial: bool = False) -> dict[str, Any]:
    part: dict[str, Any] = {"text": text}
    if partial:
        part["metadata"] = {"partial": True}
    return {"artifactUpdate": {"taskId": "t", "artifact": {"artifactId": name, "parts": [part]}, "append": append}}


DONE = {"statusUpdate": {"taskId": "t", "status": {"state": "TASK_STATE_COMPLETED"}}}


@pytest.mark.parametrize(
    ("items", "told", "answer"),
    [
        ([update("x")], [], b"x"),
        ([update("x"), update("y")], [b"x"], b"y"),
        ([update("x"), update("y", append=True)], [b"x", b"y"], b"xy"),
        ([update("x"), update("", append=True)], [b"x"], b"x"),
        ([update("x", append=True)], [], b"x"),
        ([update("x", partial=True), update("y", append=True)], [b"x"], b"y"),
        ([update("x", partial=True)], [b"x"], b""),
        ([update("x"), update("y", name="b")], [b"x"], b'{"parts":[{"text":"x"},{"text":"y"}]}'),
        ([update("x"), {"task": {"id": "t", "artifacts": [{"artifactId": "a", "parts": [{"text": "x"}]}]}}], [], b"x"),
    ],
)
def test_pieces(items: list[Any], told: list[bytes], answer: bytes) -> None:
    following = Following()
    assert [piece.payload for item in items for piece in following.take(item)] == told
    assert following.ended is None
    following.take(DONE)
    assert following.ended is not None
    assert following.ended.payload == answer
    assert following.task == "t"


def test_texts_of_other_types_are_not_joined() -> None:
    following = Following()
    following.take(update("x"))
    following.take(update("y", append=True))
    other = update("z", append=True)
    other["artifactUpdate"]["artifact"]["parts"][0]["mediaType"] = "text/html"
    following.take(other)
    following.take(DONE)
    assert following.ended is not None
    assert following.ended.payload == b'{"parts":[{"text":"xy"},{"text":"z","mediaType":"text/html"}]}'


def test_artifacts_have_a_bound_and_what_replaces_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2a_following, "CONTENT_BYTES_MAX", 100)
    following = Following()
    for _ in range(10):
        following.take(update("x" * 50))
    for _ in range(10):
        following.take(update("x" * 50, append=True, partial=True))
    with pytest.raises(FormError, match="more than 100 bytes"):
        following.take(update("x" * 50, append=True))


def test_what_fails_after_pieces_has_failed() -> None:
    following = Following()
    following.take(update("x"))
    message = {"parts": [{"text": "why"}], "metadata": {"reason": "no such reason"}}
    following.take({"statusUpdate": {"taskId": "t", "status": {"state": "TASK_STATE_FAILED", "message": message}}})
    assert following.ended is not None
    assert following.ended.failure is not None
    assert (following.ended.failure.reason, following.ended.failure.detail) == (Reason.FAILED, "why")


@pytest.mark.parametrize("junk", [None, 7, [], "x"])
def test_no_item_is_no_item(junk: object) -> None:
    with pytest.raises(FormError):
        Following().take(junk)
    with pytest.raises(FormError):
        Following().snapshot(junk)


WORDS = st.sampled_from(
    """
    id name skills tags url supportedInterfaces protocolBinding protocolVersion tenant capabilities extensions uri
    params message task artifactUpdate statusUpdate artifact artifacts artifactId parts text data raw mediaType
    metadata partial append status state reason
    """.split()  # noqa: SIM905 - thirty lines otherwise
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "1.0", "JSONRPC", "http://h", "http://["])
    | st.sampled_from(["TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_INPUT_REQUIRED", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
ITEMS = st.dictionaries(st.sampled_from(["message", "task", "artifactUpdate", "statusUpdate"]), VALUES, max_size=2)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(ITEMS, max_size=3), VALUES, st.dictionaries(WORDS, VALUES))
def test_nothing_that_is_said_is_a_fault_of_ours(items: list[object], task: object, said: dict[str, Any]) -> None:
    following = Following()
    with contextlib.suppress(FormError):
        for item in items:
            following.take(item)
        following.snapshot(task)
    for given_card in (said, card(JSONRPC, **{**said, "supportedInterfaces": [JSONRPC, *_listed(said.get("params"))]})):
        with contextlib.suppress(FormError):
            card_of(given_card, "a", "http://h/", secret=True)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


# -- events --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_events_however_they_are_cut(end: bytes, size: int) -> None:
    lines = [
        b": hello",
        b"",
        b"id: 1",
        b"data: {",
        b"data:}",
        b"",
        b"",
        b"event: x",
        b"data: two",
        b"",
        b"data: cut",
        b"",
    ]
    stream = end.join(lines)
    events = Events()
    told = [event for at in range(0, len(stream), size) for event in events.feed(stream[at : at + size])]
    assert told == [b"{\n}", b"two"]


def test_an_event_has_a_bound_and_a_stream_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2a_wire, "ANSWER_BYTES_MAX", 100)
    events = Events()
    for _ in range(10):
        assert list(events.feed(b"data: " + b"x" * 80 + b"\n\n")) == [b"x" * 80]
    list(events.feed(b"data: " + b"x" * 80))
    with pytest.raises(FormError, match="more than 100 bytes"):
        list(events.feed(b"x" * 80))
