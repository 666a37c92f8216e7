"""Links to NATS servers, by nats-py: live subjects, or a JetStream stream.

Live subjects have no acknowledgement: what is said there while the link is down is not heard (at most once), and what
is pushed is finished once the server has answered a PING behind it. With ``stream``, a durable consumer pulls and is
told what is safe here, and what is pushed is finished by the stream's own acknowledgement; it is stored once, by its
``Nats-Msg-Id``. nats-py knows one header of a name: of several that come in, the last is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Final, final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from dragoman.adapters.links.intake import Done, HeldError
from dragoman.adapters.links.link import LinkError
from dragoman.adapters.links.pairs import envelope_from, pairs_from
from dragoman.adapters.links.places import InOrder, Places
from dragoman.routing.carriers import BASE64_SUFFIX, KEY, LOST, NULL, NULL_SUFFIX, header_of, text_pair
from dragoman.routing.message import Envelope, Header, Message
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from dragoman.adapters.links.link import Link
    from dragoman.adapters.links.naming import Naming
    from dragoman.adapters.links.outlet import Leaving

CONNECT_S: Final = 10.0
ANSWER_S: Final = 10.0
PING_S: Final = 15
FETCH_S: Final = 5.0
ACK_WAIT_S: Final = 30.0
BATCH_MAX: Final = 256
PENDING_MAX: Final = 8_192
PENDING_BYTES_MAX: Final = 32 << 20
"""What waits to be taken in. Nothing slows the senders of live subjects, so more is dropped, and counted."""

EVENT_PREFIX: Final = "ce-"
MSG_ID: Final = "Nats-Msg-Id"
RESERVED: Final = "nats-"
"""Headers that tell the server what to do: they do not cross."""

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MARKED: Final = re.compile(r"(.*?)(?:-mesh-(b64|null))?", re.DOTALL)


class _Headers(dict[str, str]):
    """What is sent: a client that reads ``items`` sends several of one name."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        """All of them, in order."""
        return self._pairs


def headers_of(message: Message, envelope: Envelope) -> _Headers:
    """The headers with which a message goes out. What does not fit is named, so that its reader knows of it."""
    pairs: list[Header] = pairs_from(message, envelope, EVENT_PREFIX)
    if envelope.key is not None:
        pairs.append((KEY, envelope.key))
    if message.payload is None:
        pairs.append((NULL, b"payload"))
    said: list[tuple[str, str]] = []
    for name, value in pairs:
        if not _NAME.fullmatch(name) or name.lower().startswith(RESERVED):
            said.append((LOST, name if _NAME.fullmatch(name) else "header"))
            continue
        said.append(_text(name, value))
    return _Headers(said)


def _text(name: str, value: bytes | None) -> tuple[str, str]:
    """As in every carrier of text, but a name here has no semicolon, and a value no line end and no space around."""
    marked, text = text_pair(name, value)
    plain = not marked.endswith((BASE64_SUFFIX, NULL_SUFFIX))
    if plain and (text != text.strip() or "\r" in text or "\n" in text or _unmarked(name) != name):
        marked, text = text_pair(name + BASE64_SUFFIX, value)
        marked = marked.removesuffix(BASE64_SUFFIX)
    return marked.replace(";", "-mesh-"), text


def message_of(said: Msg, name: str, wish: int) -> Message:
    """The message that was said outside, called ``name`` here."""
    if not said.headers:
        return Message(name, said.data, wish)
    pairs = [
        header_of(_unmarked(key), text) for key, text in said.headers.items() if not key.lower().startswith(RESERVED)
    ]
    envelope, retain = envelope_from(pairs, EVENT_PREFIX)
    payload = None if NULL in said.headers and not said.data else said.data
    return Message(name, payload, wish, "", retain, envelope)


def _unmarked(name: str) -> str:
    found = _MARKED.fullmatch(name)
    assert found is not None, "it matches anything"
    return f"{found[1]};{found[2]}" if found[2] else name


@final
class NatsOutside:
    """Implements ``link.Outside``."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._settings = link.settings
        self.lag: int | None = None
        self._places = Places(link.broker.log, link.settings.name)
        link.intake.undo = self._places.roll_back

    async def converse(self) -> None:
        """One connection."""
        client = Client()
        talk = _Conversation(self._link, client, self._places)
        try:
            async with self._connected(client, talk):
                work = [talk.push()]
                if self._settings.stream and self._link.pulls:
                    work.append(self._consume(client, talk))
                else:
                    await talk.subscribe()
                talk.open = True
                self._link.up()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(talk.watch())
                    for part in work:
                        tasks.create_task(part)
        except* (NatsError, OSError, TimeoutError) as group:
            why = talk.error or _text_of(group)
            raise LinkError(why if talk.open else f"cannot connect: {why}") from None

    @contextlib.asynccontextmanager
    async def _connected(self, client: Client, talk: _Conversation) -> AsyncIterator[None]:
        settings = self._settings
        scheme = "tls" if settings.tls else "nats"
        alone = bool(settings.password and not settings.username)
        connecting = client.connect(
            servers=[f"{scheme}://{host}:{port}" for host, port in settings.hosts],
            name=settings.known_as,
            user=settings.username or None,
            password=None if alone else settings.password or None,
            token=settings.password if alone else None,
            tls=ssl.create_default_context(cafile=settings.ca or None) if settings.tls else None,
            no_echo=True,
            # The link makes the attempts: what is on its way has to be known to it.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_S),
            ping_interval=PING_S,
            max_outstanding_pings=2,
            error_cb=talk.complained,
            closed_cb=talk.closed,
        )
        try:
            await asyncio.wait_for(connecting, CONNECT_S)
            yield
        finally:
            await client.close()

    async def _consume(self, client: Client, talk: _Conversation) -> None:
        """Pulls from the stream by a durable consumer of the link's name."""
        stream, durable = self._settings.stream, self._settings.known_as
        context = client.jetstream()
        # A stream made anew under its name counts from 1 again.
        source = f"{stream} {(await context.stream_info(stream)).created}"
        wanted = ConsumerConfig(
            durable_name=durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=self._settings.window,
            filter_subjects=[route.filter for route in self._link.pulls],
        )
        place = self._places.get(source)
        if place is not None:
            # We know better than the consumer what is here; and what it had given out would come late, out of order.
            with contextlib.suppress(NotFoundError):
                await context.delete_consumer(stream, durable)
            wanted.deliver_policy, wanted.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, max(1, place)
        await context.add_consumer(stream, wanted)
        reader = await context.pull_subscribe_bind(durable, stream)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(talk.acknowledge())
            while True:
                self.lag = await talk.fetch(reader, source)


@final
class _Conversation:
    """What is under way on one connection."""

    def __init__(self, link: Link, client: Client, places: Places) -> None:
        self._link = link
        self._client = client
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._safe: deque[Msg] = deque()
        self._line: InOrder[tuple[Msg, str, int]] = InOrder(self._kept)
        self._next = 0
        self._places = places
        self._news = asyncio.Event()
        #: the last thing the client library complained of
        self.error = ""
        #: the server has taken us in
        self.open = False

    async def complained(self, error: Exception) -> None:
        """Told by the client library."""
        if isinstance(error, SlowConsumerError):
            self._link.standing.drop("link-overrun")
            return
        self.error = str(error) or type(error).__name__

    async def closed(self) -> None:
        """Told by the client library: the connection is over."""
        self.end("the connection ended")

    def end(self, why: str) -> None:
        """Ends the conversation."""
        if not self._ended.done():
            self._ended.set_result(why)

    async def watch(self) -> None:
        """Ends with the connection, by raising why."""
        why = await asyncio.shield(self._ended)
        raise LinkError(self.error or why)

    # -- in --------------------------------------------------------------------------------------------

    async def subscribe(self) -> None:
        """Hears live subjects."""
        for route in self._link.pulls:
            await self._client.subscribe(
                route.filter,
                cb=partial(self._heard, route),
                pending_msgs_limit=PENDING_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
        await self._client.flush(int(ANSWER_S))

    async def _heard(self, route: Naming, said: Msg) -> None:
        """One message of a subscription, in turn. The library swallows what is raised here."""
        if self._deciding(said.subject) is not route:
            return
        try:
            await self._take(said, _nothing, None)
        except HeldError as error:
            self.end(f"what was pulled cannot be kept: {error}")

    async def fetch(self, reader: JetStreamContext.PullSubscription, source: str) -> int | None:
        """Takes the next messages of a stream; how many wait behind them."""
        try:
            found = await reader.fetch(min(self._link.settings.window, BATCH_MAX), FETCH_S)
        except NatsTimeoutError:
            return 0
        lag = None
        for said in found:
            about = said.metadata
            lag = about.num_pending
            number = about.sequence.stream
            done = self._line.enter((said, source, number + 1))
            if number < self._next:
                # Given out again since its acknowledgement took so long.
                self._link.standing.duplicates += 1
                done()
                continue
            self._next = number + 1
            await self._take(said, done, partial(self._places.put, source, number + 1))
        return lag

    async def _take(self, said: Msg, done: Done, beside: Done | None) -> None:
        route = self._deciding(said.subject)
        name = None if route is None else route.name_for(said.subject)
        if name is None or isinstance(name, Refusal):
            self._link.standing.drop("link-name")
            done()
            return
        settings = self._link.settings
        await self._link.intake.take(message_of(said, name, settings.qos), done, beside=beside, most=settings.window)

    def _deciding(self, subject: str) -> Naming | None:
        """The first route that matches decides, though each has a subscription of its own."""
        return next((route for route in self._link.pulls if route.name_for(subject) is not None), None)

    def _kept(self, entry: tuple[Msg, str, int]) -> None:
        said, source, after = entry
        self._places.confirm(source, after)
        self._safe.append(said)
        self._news.set()

    async def acknowledge(self) -> None:
        """Tells the stream what is safe here."""
        while True:
            while not self._safe:
                self._news.clear()
                await self._news.wait()
            await self._safe.popleft().ack()

    # -- out -------------------------------------------------------------------------------------------

    async def push(self) -> None:
        """Sends what is to go out, in order, some at a time."""
        outlet, stream = self._link.outlet, self._link.settings.stream
        context = self._client.jetstream() if stream else None
        while True:
            batch = [item for item in await outlet.batch(BATCH_MAX) if self._fits(item)]
            if context is not None:
                await asyncio.gather(*(self._store(context, item) for item in batch))
                continue
            for item in batch:
                headers = headers_of(item.message, item.envelope)
                await self._client.publish(item.name, item.message.payload or b"", headers=headers)
            await self._client.flush(int(ANSWER_S))
            for item in batch:
                outlet.settle(item)

    def _fits(self, item: Leaving) -> bool:
        headers = headers_of(item.message, item.envelope)
        size = len(item.message.payload or b"") + sum(len(n.encode()) + len(v.encode()) + 4 for n, v in headers.items())
        if size + 16 <= self._client.max_payload:
            return True
        self._link.outlet.drop(item, "link-too-large")
        return False

    async def _store(self, context: JetStreamContext, item: Leaving) -> None:
        """One message into the stream. What the stream will never take is dropped, by name."""
        headers = headers_of(item.message, item.envelope)
        if item.durable:
            said = [*headers.items(), (MSG_ID, f"{self._link.mesh}/{item.message.id}")]
            headers = _Headers(said)
        try:
            await context.publish(item.name, item.message.payload or b"", ANSWER_S, headers=headers)
        except NoStreamResponseError:
            self._link.standing.complain(f"no stream takes {item.name!r}")
            self._link.outlet.drop(item, "link-refused")
        except APIError as error:
            if error.code is not None and error.code >= 500:
                raise
            self._link.standing.complain(f"the stream refuses {item.name!r}: {error.description}")
            self._link.outlet.drop(item, "link-refused")
        else:
            self._link.outlet.settle(item)


def _nothing() -> None:
    """A live subject has nobody to tell."""


def _text_of(group: BaseExceptionGroup[BaseException]) -> str:
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return str(failure) or type(failure).__name__
