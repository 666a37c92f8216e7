"""Retained values that a kept session's new subscription is owed: they go on after a reconnect, and after a crash.

What has been sent and not acknowledged are flights with rows of their own (``promises``). What has not been sent
yet is known by the process alone; the session's row only says of a filter that something is owed. So a reconnect
goes on with the next value, and a restart begins with the first again, but for those that are in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from dragoman.broker.subscription import Subscription

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.standing import FilterRow, Standing, Standings
    from dragoman.broker.broker import Broker
    from dragoman.routing.message import Message


def owe(session: MqttSession, subscription: Subscription, row: FilterRow) -> None:
    """Before the SUBACK: says so in the filter's row, if there is anything that a kept session must not miss."""
    broker = session.realm.broker
    if session.standing.backlog is not None and row.qos and not broker.verbs.owns(subscription.filter):
        row.owed = next(broker.retained_for(subscription), None) is not None


def begin(session: MqttSession, subscription: Subscription, row: FilterRow) -> None:
    """After the SUBACK: gives the retained values, as the client's window allows."""
    broker = session.realm.broker
    if subscription not in broker.subscriptions(session):
        # It has ended before its SUBACK was out: nothing begins after that [3.10.4-2].
        return
    if not row.owed:
        broker.replay(subscription)
    else:
        _give(session, subscription, row, broker.retained_for(subscription))


def part(session: MqttSession) -> None:
    """The connection is over, its subscriptions are not yet: keeps what is still owed for the next one."""
    standing = session.standing
    for subscription, held, values in session.realm.core.pump.owed(session):
        if standing.kept and subscription.filter in standing.filters and standing.filters[subscription.filter].owed:
            again = () if held is None else _now(session.realm.broker, held.name)
            standing.owed[subscription.filter] = chain(again, values)


def resume(session: MqttSession) -> None:
    """A resumed session: what is owed comes after what was in flight."""
    standing, broker = session.standing, session.realm.broker
    for filter_, row in standing.filters.items():
        subscription = session.subscriptions.get(filter_)
        if subscription is None:
            # Silent now, and owed still.
            continue
        rest = standing.owed.pop(filter_, None)
        if not row.owed:
            continue
        if rest is not None:
            session.realm.core.pump.replay(subscription, rest)
        else:
            _give(session, subscription, row, _but_in_flight(standing, broker.retained_for(subscription)))


def _give(session: MqttSession, subscription: Subscription, row: FilterRow, values: Iterator[Message]) -> None:
    whole = _to_the_end(values, session.realm.standings, session.standing, row)
    session.realm.core.pump.replay(subscription, whole)


def _to_the_end(
    values: Iterator[Message], standings: Standings, standing: Standing, row: FilterRow
) -> Iterator[Message]:
    """Asked for more than there is, the last one is in flight, with its row: nothing is owed any more."""
    yield from values
    row.owed = False
    standings.save(standing)


def _now(broker: Broker, name: str) -> Iterator[Message]:
    """The value of today, if there is one, of a name whose value was not taken then."""
    value = broker.retained_of(name)
    if value is not None:
        yield value


def _but_in_flight(standing: Standing, values: Iterator[Message]) -> Iterator[Message]:
    flying = {
        (flight.message.number, flight.message.offset)
        for flight in standing.flights.values()
        if flight.beside and flight.message is not None
    }
    return (value for value in values if (value.number, value.offset) not in flying)
