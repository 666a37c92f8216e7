"""SUBSCRIBE and UNSUBSCRIBE: filters to subscriptions, and back again when a session is resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from dragoman.adapters.mqtt import codes, exclusive, intake, kept_filters, mapping, replays
from dragoman.adapters.mqtt.codes import SUBACK_FAILURE, Code, ProtocolError
from dragoman.adapters.mqtt.encoders import encode_suback, encode_unsuback
from dragoman.adapters.mqtt.packets import Subscribe, Unsubscribe
from dragoman.adapters.mqtt.packets import Subscription as Wanted
from dragoman.adapters.mqtt.standing import FilterRow
from dragoman.broker.log.contract import Ticket
from dragoman.broker.queues import WISH
from dragoman.broker.streams import Stream
from dragoman.broker.subscription import Subscription
from dragoman.routing.names import parse_shared, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession

logger: Final = logging.getLogger("dragoman.mqtt")

SEND_RETAINED: Final = 0
SEND_RETAINED_IF_NEW: Final = 1


def subscribe(session: MqttSession, packet: Subscribe) -> None:
    """One reason code per filter, in order [3.8.4-6]; retained values follow the SUBACK."""
    numbers = packet.properties.subscription_identifiers
    identifier = numbers[0] if numbers else 0
    if identifier and not session.terms.identifiers:
        detail = "Subscription Identifiers are not available here (3.2.2.3.12)"
        session.fail(ProtocolError(Code.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, detail))
        return
    codes: list[int] = []
    after: list[Callable[[], None]] = []
    if not _answerable(session, len(packet.subscriptions)):
        return
    for wanted in packet.subscriptions:
        if session.rewrites.subscribes:
            made = _rewritten(session, wanted.filter)
            if isinstance(made, Refusal):
                codes.append(_told(session, made))
                continue
            wanted.filter = made
        if wanted.no_local and wanted.filter.startswith("$share/"):
            session.fail(ProtocolError(Code.PROTOCOL_ERROR, "No Local on a shared subscription [3.8.3-4]"))
            return
        codes.append(_one(session, wanted, identifier, packet, after))
    ticket = session.realm.standings.save(session.standing)
    frame = encode_suback(session.version, packet.packet_id, codes)
    session.answer(ticket, frame, lambda _: frame, lambda: _begin(after))


def subscribe_unasked(session: MqttSession, subscriptions: list[Wanted]) -> list[int]:
    """The same without a SUBSCRIBE, so without a SUBACK. The reason codes."""
    after: list[Callable[[], None]] = []
    codes = [_one(session, wanted, 0, None, after) for wanted in subscriptions]
    session.realm.standings.save(session.standing)
    _begin(after)
    return codes


def _answerable(session: MqttSession, count: int) -> bool:
    """Whether the client takes an answer with so many reason codes; if not, the connection ends."""
    if len(encode_suback(session.version, 1, [0] * count)) <= session.packet_max:
        return True
    session.fail(ProtocolError(Code.PACKET_TOO_LARGE, "the client takes no answer to so many filters [3.1.2-24]"))
    return False


def _begin(after: list[Callable[[], None]]) -> None:
    """Retained values and streams follow the SUBACK. What has ended meanwhile does not begin."""
    for each in after:
        each()


def _one(
    session: MqttSession, wanted: Wanted, identifier: int, packet: Subscribe | None, after: list[Callable[[], None]]
) -> int:
    """Takes one filter in; its reason code."""
    switched_off = session.terms.refuses_filter(wanted.filter)
    if switched_off is not None:
        session.realm.metrics.refuse(Reason.UNSUPPORTED)
        return switched_off if session.version == 5 else SUBACK_FAILURE
    row = FilterRow(
        qos=min(wanted.qos, session.terms.qos_max),
        no_local=wanted.no_local,
        keep_retain=wanted.retain_as_published,
        identifier=identifier,
    )
    old, backlog = session.standing.filters.get(wanted.filter), session.standing.backlog
    if old is not None and backlog is not None:
        row.replace(old, backlog.low, int(session.realm.core.log.end()))
    known = old is not None or wanted.filter in session.streams
    asked = kept_filters.parse(wanted.filter, packet)
    subscription = _unwanted(session, wanted.filter, known) or _enter(session, wanted.filter, row, asked)
    if isinstance(subscription, Refusal):
        return _told(session, subscription)
    if isinstance(subscription, Stream):
        after.append(subscription.begin)
        return row.qos
    session.realm.standings.keep_filter(session.standing, wanted.filter, row)
    if isinstance(asked, kept_filters.Asked):
        return min(row.qos, WISH)
    handling = wanted.retain_handling
    if subscription is not None and (handling == SEND_RETAINED or (handling == SEND_RETAINED_IF_NEW and not known)):
        replays.owe(session, subscription, row)
        after.append(partial(replays.begin, session, subscription, row))
    return row.qos


def _told(session: MqttSession, refusal: Refusal) -> int:
    """The reason code of a filter that was not taken in."""
    concealed = refusal.reason is Reason.NOT_AUTHORIZED and session.realm.settings.denied_subscribe == "conceal"
    told = session.version == 5 and not concealed
    return mapping.code_for(codes.SUBACK, refusal.reason) if told else SUBACK_FAILURE


def _rewritten(session: MqttSession, filter_: str) -> str | Refusal:
    """What the filter is for the mesh, now and when it is unsubscribed."""
    realm = session.realm
    made = session.rewrites.filter(filter_, session.standing.client_id, session.principal.name)
    if isinstance(made, Refusal):
        realm.metrics.refuse(made.reason)
    return made


def _unwanted(session: MqttSession, filter_: str, known: bool) -> Refusal | None:
    """Why a filter is not even looked at. Shared ones count too: the broker keeps those elsewhere."""
    realm = session.realm
    refusal = intake.unfit(realm.settings, filter_.encode(), Reason.FILTER_INVALID)
    most = realm.core.settings.subscriptions_per_session_max
    if refusal is None and not known and len(session.standing.filters) + len(session.streams) >= most:
        detail = f"the session has {most} subscriptions, broker.subscriptions_per_session_max allows no more"
        refusal = Refusal(Reason.QUOTA_EXCEEDED, detail)
    if refusal is not None:
        realm.metrics.refuse(refusal.reason)
    return refusal


def _enter(
    session: MqttSession, filter_: str, row: FilterRow, asked: kept_filters.Asked | Refusal | None
) -> Subscription | Stream | Refusal | None:
    """Makes or changes the subscription. None: taken in, but retained values are never for it (shared, queues)."""
    broker = session.realm.broker
    if isinstance(asked, Refusal):
        return asked
    if asked is not None:
        return kept_filters.enter(
            session, filter_, asked, qos=row.qos, identifier=row.identifier, keep_retain=row.keep_retain
        )
    shared = parse_shared(filter_)
    if isinstance(shared, Refusal):
        return shared
    if shared is not None and exclusive.is_exclusive(shared[1]):
        return Refusal(Reason.FILTER_INVALID, f"{shown(filter_)}: what is shared is not exclusive")
    if shared is not None:
        return broker.groups.share(
            session,
            *shared,
            wish=row.qos,
            identifier=row.identifier,
            keep_retain=row.keep_retain,
            kept=session.standing.kept,
        )
    refusal = exclusive.unfit(session, filter_) if exclusive.is_exclusive(filter_) else None
    if refusal is not None:
        return refusal
    matched = exclusive.plain(filter_)
    old = session.subscriptions.get(filter_)
    if old is not None:
        broker.change(old, wish=row.qos, no_local=row.no_local, keep_retain=row.keep_retain, identifier=row.identifier)
        subscription: Subscription | Refusal = old
    else:
        subscription = broker.subscribe(
            session,
            matched,
            wish=row.qos,
            no_local=row.no_local,
            keep_retain=row.keep_retain,
            identifier=row.identifier,
            retained=False,
        )
    if isinstance(subscription, Refusal):
        return subscription
    if not session.subscriptions:
        # What was held back for silent filters while there was no other goes on, see ``delivering.offer``.
        session.starved = True
    session.subscriptions[filter_] = subscription
    backlog = session.standing.backlog
    if backlog is not None and not broker.verbs.owns(matched):
        if row.qos or _wanted_by_twin(session, filter_):
            backlog.watch(matched)
        else:
            backlog.unwatch_new(matched)
    return subscription


def _wanted_by_twin(session: MqttSession, filter_: str) -> bool:
    """Whether the same filter in its other spelling is to be read for the session while it is away."""
    row = session.standing.filters.get(exclusive.twin(filter_))
    return row is not None and row.qos > 0


def restore(session: MqttSession) -> None:
    """Makes the subscriptions of a resumed session live again.

    What may not be subscribed to now is the session's still, with its options, its place in a share, what waits for
    it and its claim to be the only one; but nothing is heard for it before a resumption that finds it allowed again.
    """
    standing = session.standing
    silent: list[tuple[str, Refusal]] = []
    for filter_, row in standing.filters.items():
        entered = _enter(session, filter_, row, kept_filters.parse(filter_, None))
        if isinstance(entered, Refusal):
            silent.append((filter_, entered))
    if silent:
        first, refusal = silent[0]
        text = "%s resumes, and %d of its subscriptions are silent; the first is %s: %s"
        logger.info(text, shown(standing.client_id), len(silent), shown(first), refusal.detail)


def unsubscribe(session: MqttSession, packet: Unsubscribe) -> None:
    """One reason code per filter; what is in flight is still completed [3.10.4-2]."""
    if not _answerable(session, len(packet.filters)):
        return
    codes = [_out(session, filter_) for filter_ in packet.filters]
    ticket: Ticket = session.realm.standings.save(session.standing)
    frame = encode_unsuback(session.version, packet.packet_id, codes)
    session.answer(ticket, frame, lambda _: frame)


def _out(session: MqttSession, filter_: str) -> int:
    if session.rewrites.subscribes:
        made = _rewritten(session, filter_)
        if isinstance(made, Refusal):
            return Code.NO_SUBSCRIPTION_EXISTED
        filter_ = made
    if kept_filters.leave_stream(session, filter_):
        return Code.SUCCESS
    return Code.SUCCESS if _end(session, filter_) else Code.NO_SUBSCRIPTION_EXISTED


def _end(session: MqttSession, filter_: str) -> bool:
    """The session has the filter no more, and nothing is kept for it; whether it had it. Not written."""
    if not session.realm.standings.drop_filter(session.standing, filter_):
        return False
    asked = kept_filters.parse(filter_, None)
    if asked is not None:
        assert isinstance(asked, kept_filters.Asked), "it was taken in"
        assert asked.queue is not None, "streams end with their connection"
        kept_filters.leave_queue(session, asked.queue)
        return True
    shared = parse_shared(filter_)
    if shared is not None:
        assert not isinstance(shared, Refusal), "it was taken in"
        session.realm.broker.groups.unshare(session, *shared)
        return True
    subscription = session.subscriptions.pop(filter_, None)
    if subscription is not None:
        session.realm.broker.unsubscribe(subscription)
    if session.standing.backlog is not None and not _wanted_by_twin(session, filter_):
        session.standing.backlog.unwatch(exclusive.plain(filter_))
    return True
