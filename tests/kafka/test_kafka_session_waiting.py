"""What a connection has to wait for: a password, a peer that does not read, a disk; and what strangers are answered."""

from __future__ import annotations

import pytest

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.apis import ApiKey
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.session import OWED_BYTES_MAX
from dragoman.broker.principal import Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Reason, Refusal
from tests.kafka.batch_forms import Record, by_aiokafka
from tests.kafka.data_mesh import ALICE, BOB, Client, DataMesh, fetching, producing, values_in

NOBODY = Refusal(Reason.NOT_AUTHENTICATED, "who are you?")
ANY = data.MetadataRequest(topics=[])
PASSWORD = data.SaslAuthenticateRequest(auth_bytes=b"\0bob\0secret")
PLAIN = data.SaslHandshakeRequest(mechanism="PLAIN")


def said(*values: bytes) -> bytes:
    return by_aiokafka([Record(value=value) for value in values])


def stranger(mesh: DataMesh) -> Client:
    mesh.principal = NOBODY
    return Client(mesh)


def head(key: int, version: int, correlation: int = 1) -> bytes:
    return key.to_bytes(2, "big") + version.to_bytes(2, "big") + correlation.to_bytes(4, "big")


# -- who it is -------------------------------------------------------------------------------------


def test_a_password_lets_a_stranger_in() -> None:
    mesh = DataMesh()
    client = stranger(mesh)
    assert (client.session.admitted, client.wire.accepted_count) == (False, 0)
    assert client.answer(PLAIN, 1).error_code == 0
    mesh.principal = BOB
    answer = client.answer(PASSWORD, 2)
    assert (answer.error_code, answer.error_message) == (0, None)
    assert (client.session.principal, client.wire.accepted_count) == (BOB, 1)
    assert client.session.request_bytes_max == mesh.settings.request_bytes_max
    assert client.answer(ANY, 12).cluster_id


def test_what_is_asked_while_a_password_is_checked_waits() -> None:
    mesh = DataMesh()
    client = stranger(mesh)
    client.answer(PLAIN, 1)
    mesh.principal, mesh.unchecked = BOB, []
    first = client.ask(PASSWORD, 2)
    second = client.ask(ANY, 12)
    third = client.ask(producing("a", said(b"x")), 9)
    mesh.commit()
    assert client.read() == []
    assert client.wire.held
    assert not client.session.idle
    assert mesh.broker.channels.find("a") is None
    (check,) = mesh.unchecked
    check()
    mesh.commit()
    assert [correlation for correlation, _ in client.read()] == [first, second, third]
    assert not client.wire.held
    assert mesh.channel("a").creator == "bob"


def test_a_wrong_password_leaves_a_stranger() -> None:
    mesh = DataMesh()
    client = stranger(mesh)
    client.answer(PLAIN, 1)
    answer = client.answer(PASSWORD, 2)
    assert (answer.error_code, answer.error_message) == (ErrorCode.SASL_AUTHENTICATION_FAILED, "who are you?")
    assert not client.session.admitted
    again = client.answer(PASSWORD, 2)
    assert again.error_code == ErrorCode.ILLEGAL_SASL_STATE, "each try names its mechanism"
    client.ask(ANY, 12)
    assert client.session.closing


@pytest.mark.parametrize(
    "token", [b"", b"bob", b"\0bob", b"\0\xff\0x", b"\0bob\0secret\0more", b"alice\0bob\0secret"], ids=repr
)
def test_a_token_of_another_kind_is_refused(token: bytes) -> None:
    mesh = DataMesh()
    client = stranger(mesh)
    client.answer(PLAIN, 1)
    mesh.principal = BOB
    answer = client.answer(data.SaslAuthenticateRequest(auth_bytes=token), 2)
    assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
    assert answer.error_message
    assert not client.session.admitted


def test_other_mechanisms_are_refused_with_ours() -> None:
    client = stranger(DataMesh())
    answer = client.answer(data.SaslHandshakeRequest(mechanism="SCRAM-SHA-256"), 1)
    assert (answer.error_code, answer.mechanisms) == (ErrorCode.UNSUPPORTED_SASL_MECHANISM, ["PLAIN"])
    assert client.answer(PASSWORD, 2).error_code == ErrorCode.ILLEGAL_SASL_STATE


def test_who_goes_away_while_its_password_is_checked_is_not_let_in() -> None:
    mesh = DataMesh()
    client = stranger(mesh)
    client.answer(PLAIN, 1)
    mesh.principal, mesh.unchecked = BOB, []
    client.ask(PASSWORD, 2)
    client.session.gone()
    for check in mesh.unchecked:
        check()
    assert not client.session.admitted
    assert client.session not in list(mesh.broker.sessions())


def test_another_password_is_another_principal_at_once() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", said(b"x"))
    route = client.session.route("a")
    client.answer(PLAIN, 1)
    mesh.principal = Principal("carol")
    client.answer(PASSWORD, 2)
    assert client.session.principal.name == "carol"
    assert client.session.route("a") is not route, "the way in is judged anew"
    assert len(list(mesh.broker.sessions())) == 1


# -- what cannot be read ---------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", [b"", b"\0", b"\0\x03\0\x0c\0\0\0", head(3, 12) + b"\0\x05c"], ids=repr)
def test_without_a_head_there_is_nothing_to_answer(request_bytes: bytes) -> None:
    client = DataMesh().client()
    client.send(request_bytes)
    assert client.session.closing
    assert client.session.take_out() == []


@pytest.mark.parametrize(("key", "version"), [(3, 99), (999, 0), (1, 3), (71, 0), (-1, 0)])
def test_what_is_not_offered_cuts_the_connection(key: int, version: int) -> None:
    client = DataMesh().client()
    client.send(head(key & 0xFFFF, version) + b"\xff\xff\0")
    assert client.session.closing
    assert client.session.take_out() == []


def test_versions_nobody_speaks_are_answered_in_version_0() -> None:
    client = DataMesh().client()
    client.send(head(int(ApiKey.API_VERSIONS), 99, 7) + b"\xff\xff\0")
    out = b"".join(client.session.take_out())
    assert out[4:8] == (7).to_bytes(4, "big")
    assert int.from_bytes(out[8:10], "big") == ErrorCode.UNSUPPORTED_VERSION
    assert int.from_bytes(out[10:14], "big") > 20
    assert not client.session.closing


def test_produce_in_a_version_that_is_offered_and_not_served_is_answered() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client._asked[1] = (ApiKey.PRODUCE, 0)
    client.send(head(0, 0) + b"\0\x01c" + b"\0\x01\0\0\0\0\0\0\0\0")
    assert len(client.session.take_out()) > 0
    assert not client.session.closing


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_request_that_is_cut_is_answered_in_its_shape_and_in_its_turn(cut: int) -> None:
    mesh = DataMesh()
    client = mesh.client()
    sent: list[bytes] = []
    client.session.received, whole = sent.append, client.session.received  # type: ignore[method-assign]
    client.ask(producing("topic", said(b"x")), 9)
    client.session.received = whole  # type: ignore[method-assign]
    client.send(bytes(sent[0])[:-cut])
    last = client.ask(ANY, 12)
    (_, refused), (correlation, _) = client.read()
    assert isinstance(refused, data.ProduceResponse)
    assert correlation == last
    assert mesh.broker.topics.find("topic") is None


# -- reading and not reading -----------------------------------------------------------------------


def test_a_peer_that_does_not_read_is_not_read_and_not_worked_for() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.session.backed_up(True)
    assert client.wire.held
    client.ask(producing("a", said(b"x")), 9)
    mesh.commit()
    assert mesh.broker.channels.find("a") is None
    client.session.backed_up(False)
    mesh.commit()
    assert not client.wire.held
    assert client.got().responses[0].partition_responses[0].error_code == 0


def test_answers_that_nobody_has_taken_are_owed_up_to_a_bound() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.produce("a", said(b"x" * 700_000))
    asked = []
    for _ in range(4):
        asked.append(client.ask(fetching(("a", 0, 0)), 12))
        mesh.commit()
    owed = sum(map(len, client.session._out))
    assert OWED_BYTES_MAX < owed < OWED_BYTES_MAX + 800_000
    assert client.wire.held
    found = []
    for _ in range(4):
        found += client.read()
        mesh.commit()
    assert [correlation for correlation, _ in found] == asked
    assert {values_in(answer.responses[0].partitions[0])[0][0] for _, answer in found} == {0}
    assert not client.wire.held
    assert client.session.idle


def test_behind_a_fetch_that_waits_the_next_fetch_is_not_even_read() -> None:
    mesh = DataMesh()
    client, writer = mesh.client(), mesh.client()
    mesh.topic("a")
    first = client.ask(fetching(("a", 0, 0)), 12)
    between = client.ask(ANY, 12)
    assert not client.wire.held
    second = client.ask(fetching(("a", 0, 0)), 12)
    assert client.wire.held
    writer.produce("a", said(b"x"))
    assert [correlation for correlation, _ in client.read()] == [first, between, second]
    assert not client.wire.held


def test_what_is_not_safe_holds_a_connection_and_no_other() -> None:
    mesh = DataMesh(broker=BrokerSettings(uncommitted_session_bytes_max=5_000))
    client, other = mesh.client(), mesh.client(ALICE)
    for count in (1, 2):
        client.ask(producing("a", said(b"x" * 4_000)), 9)
        assert client.wire.held is (count == 2)
    assert not other.wire.held
    mesh.refuse()
    assert not client.wire.held
    codes = [answer.responses[0].partition_responses[0].error_code for _, answer in client.read()]
    assert codes == [ErrorCode.KAFKA_STORAGE_ERROR] * 2


def test_a_disk_that_is_behind_holds_whoever_gives_it_more() -> None:
    mesh = DataMesh(broker=BrokerSettings(uncommitted_bytes_max=1 << 16))
    client, reader = mesh.client(), mesh.client()
    client.ask(producing("a", said(b"x" * 70_000)), 9)
    reader.ask(ANY, 12)
    assert client.wire.held
    assert not reader.wire.held
    mesh.commit()
    assert not client.wire.held


def test_the_mesh_that_ends_says_all_it_has_answered() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.ask(ANY, 12)
    client.session.close(Refusal(Reason.SHUTTING_DOWN, "the mesh stops"))
    assert client.session.closing
    assert len(client.read()) == 1
    client.ask(ANY, 12)
    assert client.read() == []


def test_a_commit_that_comes_after_the_connection_has_ended_is_nobodys() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.ask(producing("a", said(b"x")), 9)
    client.session.gone()
    mesh.commit()
    assert client.read() == []
    assert values_in(mesh.client().fetch("a", 0)) == [(0, b"x")]
