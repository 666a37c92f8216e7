"""``$exclusive/{filter}``: a subscription to ``filter`` that one client at a time may hold, as with EMQX.

It belongs to the client's session: whoever is kept while away keeps it, also over a restart and a takeover. It is free
again when it is unsubscribed or the session ends. Who subscribes to the plain filter is not concerned. Filters are
compared as they are spelt: ``$exclusive/a/#`` and ``$exclusive/a/b`` are two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.broker.gate import Action
from dragoman.routing.names import check_filter, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.standing import Standing

PREFIX: Final = "$exclusive/"
_OTHERS: Final = ("$share/", "$queue/", "$q/", "$stream/", "$s/", PREFIX)


@final
class Exclusives:
    """Whose each exclusive filter is. Follows the filters of the sessions, so it needs no rows of its own."""

    def __init__(self) -> None:
        self._holders: dict[str, Standing] = {}

    def holder(self, text: str) -> Standing | None:
        """Who holds a filter, spelt with its prefix; None: nobody."""
        return self._holders.get(text)

    def held(self, standing: Standing, text: str) -> None:
        """It is the session's from now on; the caller has seen that it was nobody else's."""
        self._holders[text] = standing

    def free(self, standing: Standing, text: str) -> None:
        """The session has it no longer."""
        if self._holders.get(text) is standing:
            del self._holders[text]


def is_exclusive(text: str) -> bool:
    """Whether a filter is spelt so."""
    return text.startswith(PREFIX)


def plain(text: str) -> str:
    """The filter that messages are matched by."""
    return text.removeprefix(PREFIX)


def twin(text: str) -> str:
    """The other spelling of the same: a client may have both, and messages for either come once."""
    return plain(text) if is_exclusive(text) else PREFIX + text


def unfit(session: MqttSession, text: str) -> Refusal | None:
    """Why the client may not have it; whoever may not read the filter at all does not learn that it is held."""
    realm = session.realm
    inner = plain(text)
    if not realm.settings.exclusive_subscriptions:
        refusal: Refusal | None = Refusal(Reason.FILTER_INVALID, "mqtt.exclusive_subscriptions is off")
    elif inner.startswith(_OTHERS):
        refusal = Refusal(Reason.FILTER_INVALID, f"{shown(text)} holds another such filter")
    else:
        refusal = check_filter(inner)
    if refusal is None and realm.standings.exclusives.holder(text) not in (None, session.standing):
        verdict = realm.gate.check(session.principal, Action.SUBSCRIBE, inner, session.agent)
        taken = Refusal(Reason.QUOTA_EXCEEDED, f"another client holds {shown(text)}")
        refusal = verdict if isinstance(verdict, Refusal) else taken
    if refusal is not None:
        realm.metrics.refuse(refusal.reason)
    return refusal
