"""Auto-subscribe (``[[mqtt.auto_subscribe]]``): what each MQTT client subscribes to without asking, as with EMQX.

It happens when a session begins, and not when one is resumed: that has its subscriptions, and the client may have ended
some. Each is judged as if the client had asked for it, and one it may not have is left out, with a line in the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dragoman.adapters.mqtt import subscribing
from dragoman.adapters.mqtt.codes import SUBACK_FAILURE
from dragoman.adapters.mqtt.exclusive import is_exclusive, plain
from dragoman.adapters.mqtt.packets import Subscription
from dragoman.broker.settings_key import key, required
from dragoman.routing.names import check_filter, parse_shared, shown

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession

SHARE: Final = "$share/"
_NEVER: Final = ("$stream/", "$s/", "$delayed/")
_PLACE: Final = re.compile(r"%(.?)", re.DOTALL)
_UNFIT: Final = "/+#\x00"


def _topic_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if any(found[1] not in ("c", "u", "h", "%") for found in _PLACE.finditer(value)):
        return f"{value!r}: after % comes c (the client id), u (the user), h (its address) or another %"
    if value.startswith(_NEVER):
        return f"{value!r} cannot be subscribed to for a client: a stream ends with its connection"
    text = _PLACE.sub("x", value)
    refusal = parse_shared(text)
    if not isinstance(refusal, tuple):
        refusal = refusal or check_filter(plain(text) if is_exclusive(text) else text)
    return None if refusal is None or isinstance(refusal, tuple) else refusal.detail


@dataclass(frozen=True, slots=True)
class AutoSubscribeSettings:
    """What each MQTT client subscribes to when its session begins. Options as in SUBSCRIBE; before 5.0 only the QoS."""

    topic: str = required(
        example="inbox/%c",
        why="a filter; %c is the client id, %u the user, %h the client's address; $share/ and the like too",
        check=_topic_problem,
    )
    qos: int = key(0, low=0, high=2, why="the most that is sent")
    no_local: bool = key(False, why="whether the client's own messages are left out")
    retain_as_published: bool = key(False, why="whether messages keep the retain flag they were said with")
    retain_handling: int = key(0, low=0, high=2, why="retained values at the beginning: 0 and 1 = sent, 2 = not")

    def __post_init__(self) -> None:
        """What only makes sense together."""
        if self.no_local and self.topic.startswith(SHARE):
            raise ValueError("no_local is not for shared subscriptions (MQTT-3.8.3-4)")


def begin(session: MqttSession) -> None:
    """The client's session has begun with this connection. Links of other meshes ask for what they want themselves."""
    rows = session.realm.settings.auto_subscribe
    if not rows or (session.own_frames is not None and session.own_frames.mesh):
        return
    words = {"c": session.standing.client_id, "u": session.principal.name, "h": session.arrival.host, "%": "%"}
    wanted: list[Subscription] = []
    for row in rows:
        places = (found[1] for found in _PLACE.finditer(row.topic))
        unfit = [words[place] for place in places if not _fits(words[place])]
        if unfit:
            _left_out(session, row.topic, f"{shown(unfit[0])} cannot be a level")
            continue
        text = _PLACE.sub(lambda found: words[found[1]], row.topic)
        if session.version < 5:
            wanted.append(Subscription(text, row.qos))
        else:
            options = (row.no_local, row.retain_as_published, row.retain_handling)
            wanted.append(Subscription(text, row.qos, *options))
    for each, code in zip(wanted, subscribing.subscribe_unasked(session, wanted), strict=True):
        if code >= SUBACK_FAILURE:
            _left_out(session, each.filter, f"0x{code:02X}")


def _fits(word: str) -> bool:
    return word != "" and not any(sign in word for sign in _UNFIT)


def _left_out(session: MqttSession, topic: str, why: str) -> None:
    session.realm.metrics.drop("auto-subscription-refused")
    # A line at the default level: the row is the operator's, and its client is told nothing.
    session.realm.complaints.say(
        "client not subscribed to what it should be",
        f"{shown(topic)}: {why}",
        peer=session.peer,
        client=session.standing.client_id,
    )
