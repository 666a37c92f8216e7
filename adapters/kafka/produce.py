"""Produce: record batches into channels. A batch is taken in as it is, unread, unless something in it asks to be read.

Answered when everything in the request is safe (acks 1 and all are the same in a cluster of one); with acks 0
nothing is answered and nothing waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.kafka import batches
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.errors import code_of
from dragoman.adapters.kafka.shapes_data import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from dragoman.broker.log.contract import DONE
from dragoman.broker.producers import Out, Said
from dragoman.broker.route import Route
from dragoman.routing.carriers import RETAIN
from dragoman.routing.message import Bundle
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask
    from dragoman.broker.channel import Channel
    from dragoman.broker.log.contract import Ticket

ACKS: Final = (0, 1, -1)

NO_PRODUCER: Final = -1

_OUT: Final = {
    Out.OF_ORDER: ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    Out.OF_EPOCH: ErrorCode.INVALID_PRODUCER_EPOCH,
}


def produce(ask: Ask) -> None:
    """Says what the request says."""
    request = ask.request
    assert isinstance(request, ProduceRequest)
    if request.acks not in ACKS:
        ask.error(ErrorCode.INVALID_REQUIRED_ACKS)
        return
    if request.transactional_id is not None:
        ask.error(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        return
    saying = _Saying(ask, request)
    saying.say()


def too_large(ask: Ask) -> None:
    """Refuses all of a request that could not be kept while it came."""
    request = ask.request
    assert isinstance(request, ProduceRequest)
    detail = f"a request of more than {ask.session.request_bytes_max} bytes; no more are taken at once"
    ask.session.realm.complain("request refused", detail, ask.session)
    if request.acks:
        ask.error(ErrorCode.MESSAGE_TOO_LARGE)
    else:
        ask.nothing()


@final
class _Saying:
    """One request under way: its answer is complete when the last of its commits is."""

    def __init__(self, ask: Ask, request: ProduceRequest) -> None:
        self._ask = ask
        self._request = request
        self._waits = 1

    def say(self) -> None:
        ask, request = self._ask, self._request
        names = ask.session.realm.names
        response = ProduceResponse()
        for topic in request.topic_data:
            name: str | None = topic.name
            if ask.version >= 13:
                name = names.of_id(topic.topic_id)
            answers = [self._partition(name, data) for data in topic.partition_data]
            response.responses.append(TopicProduceResponse(topic.name, topic.topic_id, answers))
        self._response = response
        if not request.acks:
            ask.nothing()
        self._settled()

    def _settled(self) -> None:
        self._waits -= 1
        if not self._waits and not self._ask.answered:
            self._ask.answer(self._response)

    def _partition(self, topic: str | None, data: PartitionProduceData) -> PartitionProduceResponse:
        answer = PartitionProduceResponse(index=data.index)
        if topic is None:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_ID
            return answer
        refusal = self._take(topic, data, answer)
        if refusal is not None:
            _refuse(answer, refusal)
        return answer

    def _take(
        self, topic: str, data: PartitionProduceData, answer: PartitionProduceResponse
    ) -> Refusal | ErrorCode | None:
        session = self._ask.session
        realm = session.realm
        name = realm.names.channel(topic)
        if isinstance(name, Refusal):
            return name
        records = data.records
        if not isinstance(records, memoryview):
            return ErrorCode.INVALID_RECORD
        if realm.broker.acts(name):
            return self._do(name, records, answer)
        if not realm.settings.auto_create and realm.topics.find(name) is None:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        route = session.route(name)
        if isinstance(route, Refusal):
            return route
        found = realm.topics.ensure(session, name, realm.settings.partitions)
        if isinstance(found, Refusal):
            return found
        if not 0 <= data.index < len(found.partitions):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        largest = int(found.options.get("max.message.bytes", realm.settings.batch_bytes_max))
        checked = batches.check(records, max_bytes=largest, produce_version=self._ask.version)
        if isinstance(checked, ErrorCode):
            return checked
        channel = found.partitions[data.index]
        answer.log_start_offset = channel.oldest
        if checked.producer_id == NO_PRODUCER:
            return self._append(route, channel, checked, records, answer)
        first = checked.base_sequence
        last = (first + checked.record_count - 1) % (1 << 31)
        judged = realm.broker.producers.judge(channel.number, checked.producer_id, checked.producer_epoch, first, last)
        if isinstance(judged, Out):
            return _OUT[judged]
        if isinstance(judged, Said):
            realm.broker.metrics.duplicates += 1
            answer.base_offset = judged.offset
            if judged.ticket > realm.broker.producers.safe:
                realm.core.commits.tell(judged.ticket, session)
                self._wait(judged.ticket, 0, answer)
            return None
        refused = self._append(route, channel, checked, records, answer)
        if refused is None:
            said = Said(first, last, answer.base_offset, self._ticket)
            realm.broker.producers.remember(channel.number, checked.producer_id, checked.producer_epoch, said)
        return refused

    def _append(
        self,
        route: Route,
        channel: Channel,
        checked: batches.Checked,
        records: memoryview,
        answer: PartitionProduceResponse,
    ) -> Refusal | ErrorCode | None:
        session = self._ask.session
        bundle = Bundle(channel.name, bytes(records), batches.KIND, checked.record_count, session.agent)
        self._ticket: Ticket = DONE
        if not batches.contains_header(checked, records, RETAIN.encode()):
            ticket = route.publish_bundle(session, bundle, channel)
            if isinstance(ticket, Refusal):
                return ticket
            answer.base_offset = bundle.offset
            self._ticket = ticket
            self._wait(ticket, len(bundle.body), answer)
            return None
        return self._one_by_one(bundle, answer)

    def _one_by_one(self, bundle: Bundle, answer: PartitionProduceResponse) -> Refusal | ErrorCode | None:
        """Says each record by itself: something in them asks the mesh for more than to be kept."""
        session = self._ask.session
        broker = session.realm.broker
        try:
            messages = batches.open_bundle(bundle, keep_form=True)
        except ValueError:
            return ErrorCode.INVALID_RECORD
        verb = broker.acts(bundle.name)
        for message in messages:
            message.position = 0
            ticket = session.realm.agents.act(session, message) if verb else broker.publish(session, message)
            if isinstance(ticket, Refusal):
                return ticket
            if answer.base_offset < 0:
                answer.base_offset = message.offset
            self._ticket = ticket
            if ticket:
                self._wait(ticket, len(message.payload or b""), answer)
        return None

    def _do(self, name: str, records: memoryview, answer: PartitionProduceResponse) -> Refusal | ErrorCode | None:
        """Verbs: every record is an act of its own."""
        checked = batches.check(
            records,
            max_bytes=self._ask.session.realm.settings.batch_bytes_max,
            produce_version=self._ask.version,
        )
        if isinstance(checked, ErrorCode):
            return checked
        answer.base_offset = -1
        refused = self._one_by_one(Bundle(name, bytes(records), batches.KIND, checked.record_count), answer)
        answer.base_offset = max(answer.base_offset, 0)
        return refused

    def _wait(self, ticket: Ticket, size: int, answer: PartitionProduceResponse) -> None:
        """Also with acks 0: what is not safe yet counts, so that nobody is read faster than the disk writes."""
        self._waits += 1

        def safe(refusal: Refusal | None) -> None:
            if refusal is not None:
                _refuse(answer, refusal)
            self._settled()

        self._ask.session.when_safe(ticket, size, safe)


def _refuse(answer: PartitionProduceResponse, why: Refusal | ErrorCode) -> None:
    answer.base_offset = -1
    if isinstance(why, Refusal):
        answer.error_code = code_of(why)
        answer.error_message = why.detail
    else:
        answer.error_code = why
