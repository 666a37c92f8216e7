"""Reading a page of a channel, for every protocol whose readers ask for one: what has expired is not in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman.broker.pump import Page
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.session import Session
    from dragoman.routing.message import Message


async def read_page(
    broker: Broker, session: Session, name: str, offset: int | None, *, limit: int, bytes_max: int, patience_s: float
) -> Page | Refusal:
    """Reads on until the page is full or caught up; one read ends where the log's batch or the log itself does.

    ``offset`` None is the oldest. At most ``limit`` messages are looked at, and about ``bytes_max`` of payload; those
    that have expired are left out. ``next_offset`` is behind the last that was looked at, given or not.
    """
    first = await _read(broker, session, name, offset, bytes_max, patience_s)
    if isinstance(first, Refusal):
        return first
    seen: list[Message] = []
    page, lost, budget = first, first.lost, bytes_max
    while True:
        taken = page.messages[: limit - len(seen)]
        following = page.next_offset if len(taken) == len(page.messages) else taken[-1].offset + 1
        seen += taken
        budget -= sum(len(message.payload or b"") for message in taken)
        if not taken or len(seen) >= limit or budget <= 0:
            break
        more = await _read(broker, session, name, following, budget, patience_s)
        if isinstance(more, Refusal) or more.number != first.number:
            break
        page, lost = more, lost + more.lost
    now_ms = broker.clock.now_ms()
    live = [message for message in seen if not message.expired(now_ms)]
    return Page(live, number=first.number, next_offset=following, first_offset=first.first_offset, lost=lost)


async def _read(
    broker: Broker, session: Session, name: str, offset: int | None, bytes_max: int, patience_s: float
) -> Page | Refusal:
    found: asyncio.Future[Page | Refusal] = asyncio.get_running_loop().create_future()
    broker.read(session, name, offset, bytes_max, lambda page: None if found.done() else found.set_result(page))
    try:
        async with asyncio.timeout(patience_s):
            return await found
    except TimeoutError:
        return Refusal(Reason.BUSY, "the log takes too long to read", 1_000)
