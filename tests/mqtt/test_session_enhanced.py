"""Enhanced authentication rule by rule (§4.12): AUTH before the CONNACK, and again in the middle of a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from dragoman.adapters.mqtt.encoders import encode_auth
from dragoman.adapters.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Subscription,
    Will,
)
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import hash_password, new_token, scram_verifier
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from tests.mqtt.wire import Client, World, pub
from tests.serving.sasl_clients import ScramClient, bearer

SCRAM, BEARER = "SCRAM-SHA-256", "OAUTHBEARER"
TOKEN, DIGEST = new_token()
OTHER_TOKEN, OTHER_DIGEST = new_token()
USERS = LoginSettings(
    anonymous="never",
    users=(
        UserSettings("ann", scram=scram_verifier(b"secret"), tokens=(DIGEST,)),
        UserSettings("bob", hash_password(b"bobs"), scram=scram_verifier(b"bobs"), tokens=(OTHER_DIGEST,)),
    ),
)
LIMITS = {"receive_maximum": 1_024, "maximum_packet_size": 16 << 20, "topic_alias_maximum": 16}
CONTINUE, AGAIN = 0x18, 0x19


def world(**settings: object) -> World:
    return World(MqttSettings(**settings), login=USERS)  # type: ignore[arg-type]


def connecting(method: str | None = SCRAM, data: bytes | None = None, **options: object) -> Connect:
    properties = Properties(authentication_method=method, authentication_data=data)
    return Connect(5, "c", True, properties=properties, **options)  # type: ignore[arg-type]


def auth(data: bytes | None = None, code: int = CONTINUE, method: str = SCRAM) -> Auth:
    return Auth(code, Properties(authentication_method=method, authentication_data=data))


def challenge(client: Client, method: str = SCRAM) -> bytes | None:
    """The one packet that came: AUTH 0x18 of the method, which has data unless it asks for the first."""
    (packet,) = client.packets()
    assert isinstance(packet, Auth)
    assert (packet.code, packet.properties.authentication_method) == (CONTINUE, method)
    assert not client.closed
    return packet.properties.authentication_data


def asked(client: Client, packet: Packet) -> bytes:
    """Says a packet that is answered by a challenge with data."""
    client.say(packet)
    data = challenge(client)
    assert data is not None
    return data


def proven(world: World, user: str = "ann", secret: str = "secret", **options: object) -> Client:
    """A client that is in by SCRAM, with its CONNACK read and the server's word checked."""
    client, scram = world.client(), ScramClient(user, secret)
    client.say(auth(scram.final(asked(client, connecting(data=scram.first(), **options)))))
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    assert packet.code == 0, packet.properties.reason_string
    assert packet.properties.authentication_method == SCRAM
    assert scram.trusts(packet.properties.authentication_data)
    return client


# -- CONNECT to CONNACK ------------------------------------------------------------------------------


def test_scram_with_its_first_data_in_connect() -> None:
    """The non-normative example of §4.12."""
    mesh = world()
    client = proven(mesh)
    session = client.connection.session
    assert session is not None
    assert session.principal.name == "ann"
    client.say(Subscribe(1, [Subscription("a")]), pub("a", b"x"))
    assert pub("a", b"x").payload in [p.payload for p in client.packets() if isinstance(p, Publish)]
    assert mesh.metrics.logins == 1


@pytest.mark.parametrize("none", [None, b""])
def test_scram_without_data_in_connect_is_asked_for_it(none: bytes | None) -> None:
    client, scram = world().client(), ScramClient("ann", "secret")
    client.say(connecting(data=none))
    assert challenge(client) is None
    client.say(auth(scram.final(asked(client, auth(scram.first())))))
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    assert scram.trusts(packet.properties.authentication_data)


@pytest.mark.parametrize("first", [True, False])
def test_a_bearer_token_is_in_with_one_message(first: bool) -> None:
    client = world().client()
    client.say(connecting(BEARER, bearer(TOKEN) if first else None))
    if not first:
        assert challenge(client, BEARER) is None
        client.say(auth(bearer(TOKEN), method=BEARER))
    client.expect(Connack(False, 0, Properties(**LIMITS, authentication_method=BEARER)))


@pytest.mark.parametrize("method", ["SCRAM-SHA-1", "scram-sha-256", "PLAIN", "", "X" * 5_000])
def test_a_method_that_is_not_offered(method: str) -> None:
    """[4.12.0-1]"""
    client = world().client()
    client.say(connecting(method, b"data"))
    client.expect(Connack(False, 0x8C), closed=True)


def test_no_method_is_offered_where_nobody_could_use_it() -> None:
    for method in (SCRAM, BEARER):
        client = World().client()
        client.say(connecting(method))
        client.expect(Connack(False, 0x8C), closed=True)


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", "secret"), ("bob", "secret")])
def test_a_wrong_proof_is_not_let_in(user: str, password: str) -> None:
    """[4.12.0-4]"""
    mesh = world()
    client, scram = mesh.client(), ScramClient(user, password)
    client.say(auth(scram.final(asked(client, connecting(data=scram.first())))))
    client.expect(Connack(False, 0x87), closed=True)
    assert (mesh.metrics.logins, mesh.metrics.logins_failed) == (0, 1)
    assert not mesh.realm.standings.by_client


@pytest.mark.parametrize("data", [b"x", b"n,,n=ann,r=", b"p=tls-unique,,n=ann,r=abc", b"n,,n=ann,r=" + b"a" * 5_000])
def test_a_message_of_no_form_is_not_let_in(data: bytes) -> None:
    for method in (SCRAM, BEARER):
        client = world().client()
        client.say(connecting(method, data))
        client.expect(Connack(False, 0x87), closed=True)


def test_an_unknown_token_is_not_let_in() -> None:
    client = world().client()
    client.say(connecting(BEARER, bearer(TOKEN + "x")))
    client.expect(Connack(False, 0x87), closed=True)


def test_no_data_where_data_is_due() -> None:
    client = world().client()
    client.say(connecting())
    assert challenge(client) is None
    client.say(auth(None))
    client.expect(Connack(False, 0x87), closed=True)


@pytest.mark.parametrize(
    "packet",
    [Pingreq(), pub("a", b"x"), Subscribe(1, [Subscription("a")]), Puback(1), auth(b"x", AGAIN)],
    ids=lambda packet: type(packet).__name__,
)
def test_nothing_but_auth_and_disconnect_before_the_connack(packet: Packet) -> None:
    """[3.1.2-30]"""
    for together in (True, False):
        client, connect = world().client(), connecting(data=ScramClient("ann", "secret").first())
        if together:
            client.say(connect, packet)
            assert isinstance(client.packets(1)[0], Auth)
        else:
            asked(client, connect)
            client.say(packet)
        client.expect(Connack(False, 0x82), closed=True)


@pytest.mark.parametrize("shut", [False, True])
def test_auth_behind_the_proof_while_the_old_session_goes(shut: bool) -> None:
    """Who it is is known, and the CONNACK waits for the commit that ends the kept session."""
    mesh, data = world(), bearer(TOKEN)
    options = {"authentication_method": BEARER, "authentication_data": data, "session_expiry_interval": 100}
    connect = Connect(5, "c", True, properties=Properties(**options))  # type: ignore[arg-type]
    old, new = mesh.client(), mesh.client()
    old.say(connect)
    mesh.door.shut = shut
    new.say(connect, auth(b"x", method=BEARER))
    (connack,) = new.packets()
    assert isinstance(connack, Connack)
    assert (connack.code, new.closed) == (0x82, True)
    mesh.commit()
    assert new.packets() == []
    mesh.door.shut = False
    again = mesh.client()
    again.say(connect)
    (connack,) = again.packets()
    assert isinstance(connack, Connack)
    assert (connack.code, connack.session_present) == (0, False)


def test_auth_of_another_method_before_the_connack() -> None:
    """[4.12.0-5]"""
    client, scram = world().client(), ScramClient("ann", "secret")
    data = asked(client, connecting(data=scram.first()))
    client.say(auth(scram.final(data), method=BEARER))
    client.expect(Connack(False, 0x8C), closed=True)


def test_auth_without_a_method_before_the_connack() -> None:
    """§3.15.2.2.2"""
    client = world().client()
    asked(client, connecting(data=ScramClient("ann", "secret").first()))
    client.raw(b"\xf0\x02\x18\x00")
    client.expect(Connack(False, 0x82), closed=True)


@pytest.mark.parametrize(("data", "code"), [(encode_auth(0), 0x82), (b"\xf1\x00", 0x81), (b"\xf0\x01\x77", 0x82)])
def test_a_malformed_auth_before_the_connack_is_answered_at_once(data: bytes, code: int) -> None:
    client = world().client()
    asked(client, connecting(data=ScramClient("ann", "secret").first()))
    client.raw(data)
    client.expect(Connack(False, code), closed=True)


def test_disconnect_ends_it_without_a_word_and_without_a_will() -> None:
    """[3.1.2-30] allows it."""
    mesh = world()
    watcher = proven(mesh, "bob", "bobs")
    watcher.subscribe("will")
    client = mesh.client()
    will = Will(b"will", b"gone")
    client.say(Connect(5, "d", True, will=will, properties=connecting(data=b"n,,n=ann,r=abc").properties))
    challenge(client)
    client.disconnect()
    client.expect(closed=True)
    watcher.expect()
    assert "d" not in mesh.realm.standings.by_client


def test_who_goes_away_meanwhile_leaves_nothing() -> None:
    mesh = world()
    client = mesh.client()
    asked(client, connecting(data=ScramClient("ann", "secret").first()))
    client.vanish()
    assert not mesh.realm.standings.by_client
    assert not list(mesh.broker.sessions())


def test_the_connect_deadline_covers_the_exchange() -> None:
    mesh = world()
    client, scram = mesh.client(), ScramClient("ann", "secret")
    mesh.advance(6_000)
    asked(client, connecting(data=scram.first()))
    mesh.advance(3_999)
    assert not client.closed
    mesh.advance(2)
    client.expect(Connack(False, 0x87), closed=True)
    assert not client.transport.aborted
    assert not mesh.realm.standings.by_client


def test_a_stranger_within_the_exchange_may_send_no_more_than_a_connect() -> None:
    mesh = world(connect_bytes_max=1_024)
    for together in (True, False):
        client, scram = mesh.client(), ScramClient("ann", "secret")
        connect = connecting(data=scram.first())
        large = auth(b"x" * 2_000)
        if together:
            client.say(connect, large)
            assert isinstance(client.packets(1)[0], Auth)
        else:
            asked(client, connect)
            client.say(large)
        client.expect(Connack(False, 0x95), closed=True)
    client = proven(mesh)
    client.say(Publish(b"a", b"x" * 2_000, 1, False, False, 1))
    client.expect(Puback(1, 0x10))


def test_a_client_that_takes_no_packet_as_large_as_the_challenge() -> None:
    """[3.1.2-24]"""
    client = world().client()
    properties = Properties(
        authentication_method=SCRAM, authentication_data=ScramClient("ann", "secret").first(), maximum_packet_size=60
    )
    client.say(Connect(5, "c", True, properties=properties))
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    assert packet.code == 0x95
    assert client.closed


def test_the_user_name_of_connect_may_not_contradict_the_proof() -> None:
    client, scram = world().client(), ScramClient("ann", "secret")
    client.say(auth(scram.final(asked(client, connecting(data=scram.first(), username="bob")))))
    client.expect(Connack(False, 0x87), closed=True)
    proven(world(), username="ann", password=b"never looked at")


def test_an_agent_named_by_its_user_is_named_by_the_proof() -> None:
    mesh = world(agents_from_username=True)
    session = proven(mesh).connection.session
    assert session is not None
    assert session.agent == "ann"


def test_a_client_id_of_another_user_is_not_had_by_a_proof() -> None:
    mesh = world()
    proven(mesh)
    client, scram = mesh.client(), ScramClient("bob", "bobs")
    client.say(auth(scram.final(asked(client, connecting(data=scram.first())))))
    client.expect(Connack(False, 0x85), closed=True)


def test_a_banned_user_proves_in_vain() -> None:
    mesh = world()
    proven(mesh)
    mesh.broker.bans.add("principal", "ann", reason="", by="ops", duration_ms=0)
    mesh.turn()
    client, scram = mesh.client(), ScramClient("ann", "secret")
    client.say(auth(scram.final(asked(client, connecting(data=scram.first())))))
    client.expect(Connack(False, 0x8A), closed=True)
    client = mesh.client()
    client.say(connecting(BEARER, bearer(TOKEN)))
    client.expect(Connack(False, 0x8A), closed=True)


def test_a_bad_client_id_is_said_before_anything_is_proven() -> None:
    client = world().client()
    client.say(Connect(5, "x" * 2_000, True, properties=connecting(data=b"n,,n=ann,r=abc").properties))
    client.expect(Connack(False, 0x85), closed=True)


def test_the_plain_way_in_is_open_beside_it() -> None:
    mesh = world()
    client = mesh.client()
    client.say(Connect(5, "c", True, username="bob", password=b"bobs"))
    mesh.login()
    client.expect(Connack(False, 0, Properties(**LIMITS)))


@examples(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((SCRAM, BEARER)), st.binary(max_size=40), st.booleans()), max_size=4))
def test_no_made_up_exchange_lets_anybody_in(steps: list[tuple[str, bytes, bool]]) -> None:
    mesh = world()
    client = mesh.client()
    client.say(connecting(data=b"n,,n=ann,r=abc"))
    for method, data, right in steps:
        client.say(auth(b"c=biws,r=" + data if right else data, method=method))
    assert not [p for p in client.packets() if isinstance(p, Connack) and p.code == 0]
    assert not list(mesh.broker.sessions())


# -- again, in the middle ----------------------------------------------------------------------------


def test_reauthentication_while_traffic_goes_on() -> None:
    """§4.12.1"""
    client, scram = proven(world()), ScramClient("ann", "secret")
    client.subscribe("a")
    data = asked(client, auth(scram.first(), AGAIN))
    client.say(Publish(b"a", b"x", 1, False, False, 1), Pingreq())
    client.expect(pub("a", b"x"), Puback(1), Pingresp())
    client.say(auth(scram.final(data)))
    (packet,) = client.packets()
    assert isinstance(packet, Auth)
    assert (packet.code, packet.properties.authentication_method) == (0, SCRAM)
    assert scram.trusts(packet.properties.authentication_data)
    client.say(pub("a", b"y"))
    client.expect(pub("a", b"y"))


def test_reauthentication_without_data_is_asked_for_it_and_may_be_repeated() -> None:
    client = proven(world())
    for _ in range(3):
        scram = ScramClient("ann", "secret")
        client.say(auth(None, AGAIN))
        assert challenge(client) is None
        client.say(auth(scram.final(asked(client, auth(scram.first())))))
        (packet,) = client.packets()
        assert isinstance(packet, Auth)
        assert packet.code == 0


def test_reauthentication_with_a_token_in_one_packet() -> None:
    client = world().client()
    client.say(connecting(BEARER, bearer(TOKEN)))
    client.packets()
    client.say(auth(bearer(TOKEN), AGAIN, BEARER))
    client.expect(Auth(0, Properties(authentication_method=BEARER)))


def test_reauthentication_that_fails_ends_the_connection_and_says_its_will() -> None:
    """[4.12.1-2]"""
    mesh = world()
    watcher = mesh.client()
    properties = Properties(authentication_method=BEARER, authentication_data=bearer(OTHER_TOKEN))
    watcher.say(Connect(5, "watcher", True, properties=properties))
    watcher.packets()
    watcher.subscribe("will")
    client, scram = proven(mesh, will=Will(b"will", b"gone")), ScramClient("ann", "wrong")
    client.say(auth(scram.final(asked(client, auth(scram.first(), AGAIN)))))
    client.expect(Disconnect(0x87), closed=True)
    watcher.expect(pub("will", b"gone"))


def test_reauthentication_as_somebody_else_is_refused() -> None:
    client, scram = proven(world()), ScramClient("bob", "bobs")
    client.say(auth(scram.final(asked(client, auth(scram.first(), AGAIN)))))
    client.expect(Disconnect(0x87), closed=True)


def test_reauthentication_when_the_users_have_changed() -> None:
    for users in ((UserSettings("ann", scram=scram_verifier(b"new")),), ()):
        mesh = world()
        client, scram = proven(mesh), ScramClient("ann", "secret")
        mesh.authenticator.replace(LoginSettings(users=users))
        client.say(auth(scram.first(), AGAIN))
        if users:
            data = challenge(client)
            assert data is not None
            client.say(auth(scram.final(data)))
        client.expect(Disconnect(0x87), closed=True)


def test_reauthentication_by_another_method() -> None:
    """[4.12.1-1]"""
    client = proven(world())
    client.say(auth(bearer(TOKEN), AGAIN, BEARER))
    client.expect(Disconnect(0x8C), closed=True)
    client, scram = proven(world()), ScramClient("ann", "secret")
    asked(client, auth(scram.first(), AGAIN))
    client.say(auth(bearer(TOKEN), CONTINUE, BEARER))
    client.expect(Disconnect(0x8C), closed=True)


def test_auth_where_none_is_due() -> None:
    client = proven(world())
    client.say(auth(b"x"))
    client.expect(Disconnect(0x82), closed=True)
    client = proven(world())
    asked(client, auth(ScramClient("ann", "secret").first(), AGAIN))
    client.say(auth(b"x", AGAIN))
    client.expect(Disconnect(0x82), closed=True)


@pytest.mark.parametrize("code", [CONTINUE, AGAIN])
def test_auth_of_a_client_whose_connect_named_no_method(code: int) -> None:
    """[4.12.0-6], [4.12.0-7]"""
    client = World().connected("c")
    client.say(auth(b"x", code))
    client.expect(Disconnect(0x82), closed=True)


def test_auth_is_unknown_before_5() -> None:
    client = World().connected("c", version=4)
    client.raw(b"\xf0\x00")
    assert client.closed


def test_a_challenge_says_no_more_than_its_method_and_data() -> None:
    """[3.15.2-1] [3.15.2-2] [3.15.2-3]: no reason string and no user property, which could make it too large."""
    client, scram = world().client(), ScramClient("ann", "secret")
    for packet in (connecting(), auth(scram.first())):
        client.say(packet)
        (asks,) = client.packets()
        assert isinstance(asks, Auth)
        assert asks.code == CONTINUE
        data = asks.properties.authentication_data
        assert asks.properties.encode() == auth(data).properties.encode()
    assert data is not None
    client.say(auth(scram.final(data)))
    client.packets()
    scram = ScramClient("ann", "secret")
    client.say(auth(scram.final(asked(client, auth(scram.first(), AGAIN)))))
    (done,) = client.packets()
    assert isinstance(done, Auth)
    assert done.code == 0
    assert done.properties.encode() == auth(done.properties.authentication_data).properties.encode()
