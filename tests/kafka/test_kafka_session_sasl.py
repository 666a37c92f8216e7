"""Logins in steps over Kafka: SaslHandshake names the mechanism, SaslAuthenticate carries its messages (KIP-152)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.serving.credentials import Authenticator, new_token, scram_verifier
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.metrics import Metrics
from tests.kafka.data_mesh import Client, DataMesh
from tests.serving.sasl_clients import ScramClient, bearer

SCRAM, BEARER = "SCRAM-SHA-256", "OAUTHBEARER"
TOKEN, DIGEST = new_token()
USERS = LoginSettings(
    anonymous="never",
    users=(UserSettings("ann", scram=scram_verifier(b"secret"), tokens=(DIGEST,)),),
)
ANY = data.MetadataRequest(topics=[])


@pytest.fixture
def client() -> Iterator[Client]:
    """A stranger, where users log in by SCRAM and by token."""
    mesh = DataMesh()
    mesh.realm.authenticator = Authenticator(USERS, mesh.loop, Metrics())  # type: ignore[arg-type]
    yield Client(mesh)
    mesh.realm.authenticator.close()


def named(client: Client, mechanism: str) -> data.SaslHandshakeResponse:
    return client.answer(data.SaslHandshakeRequest(mechanism=mechanism), 1)


def told(client: Client, message: bytes) -> data.SaslAuthenticateResponse:
    return client.answer(data.SaslAuthenticateRequest(auth_bytes=message), 2)


def test_the_mechanisms_are_those_somebody_can_use(client: Client) -> None:
    answer = named(client, "SCRAM-SHA-512")
    assert answer.error_code == ErrorCode.UNSUPPORTED_SASL_MECHANISM
    assert answer.mechanisms == ["PLAIN", SCRAM, BEARER]
    assert named(client, SCRAM).error_code == 0


def test_scram_takes_two_messages_and_tells_the_server_s_proof(client: Client) -> None:
    scram = ScramClient("ann", "secret")
    named(client, SCRAM)
    challenge = told(client, scram.first())
    assert challenge.error_code == 0
    assert not client.session.admitted
    last = told(client, scram.final(bytes(challenge.auth_bytes)))
    assert last.error_code == 0
    assert scram.trusts(bytes(last.auth_bytes))
    assert (client.session.admitted, client.session.principal.name) == (True, "ann")
    assert client.answer(ANY, 12).cluster_id


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", "secret")])
def test_a_wrong_proof_and_the_next_try_names_its_mechanism(client: Client, user: str, password: str) -> None:
    scram = ScramClient(user, password)
    named(client, SCRAM)
    challenge = told(client, scram.first())
    last = told(client, scram.final(bytes(challenge.auth_bytes)))
    assert last.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
    assert last.error_message == "the user name or the password is wrong"
    assert told(client, scram.first()).error_code == ErrorCode.ILLEGAL_SASL_STATE
    assert not client.session.admitted


def test_within_the_steps_nothing_else_is_answered(client: Client) -> None:
    named(client, SCRAM)
    told(client, ScramClient("ann", "secret").first())
    client.ask(ANY, 12)
    assert client.session.closing


def test_another_mechanism_within_the_steps_begins_anew(client: Client) -> None:
    scram = ScramClient("ann", "secret")
    named(client, SCRAM)
    challenge = told(client, scram.first())
    named(client, SCRAM)
    assert told(client, scram.final(bytes(challenge.auth_bytes))).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
    named(client, SCRAM)
    named(client, "PLAIN")
    assert told(client, scram.first()).error_message == "PLAIN is: authorization id, NUL, user, NUL, password"


def test_a_token_in_one_message(client: Client) -> None:
    named(client, BEARER)
    assert told(client, bearer(TOKEN + "x")).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
    named(client, BEARER)
    answer = told(client, bearer(TOKEN))
    assert (answer.error_code, bytes(answer.auth_bytes)) == (0, b"")
    assert client.session.principal.name == "ann"
