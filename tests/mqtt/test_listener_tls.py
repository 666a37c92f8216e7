"""Client certificates: who is let in, as whom, and what the others cost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dragoman import Mesh
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.serving.certificates import Certificate, certificate_names
from dragoman.adapters.serving.credentials import Credentials, hash_password
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings, TlsSettings, UserSettings
from dragoman.mesh import CannotStartError
from tests.mqtt.certificates import Authority
from tests.mqtt.listener_play import ANYWHERE, LOOPS, Peer, context, play, sessions, until
from tests.mqtt.wire import World

LINE = b"PROXY TCP4 203.0.113.9 10.0.0.1 50000 1883\r\n"
NOT_IN = (0x86, 0x87)

Pair = tuple[Path, Path]


class Pki:
    """An authority, the mesh's certificate, a device's, and one that somebody else has signed."""

    def __init__(self, openssl: str, folder: Path) -> None:
        self.authority = Authority(openssl, folder)
        self.server = self.authority.sign("server", "/CN=mesh", "IP:127.0.0.1,DNS:localhost")
        self.device = self.authority.sign("device", "/CN=dev1", "DNS:dev1.plant.example,URI:urn:dev:1")
        self.nameless = self.authority.sign("nameless", "/O=Acme")
        self.foreign = Authority(openssl, folder / "foreign").sign("foreign", "/CN=dev1")

    def tls(self) -> TlsSettings:
        return TlsSettings(certificate=str(self.server[0]), private_key=str(self.server[1]))

    def listener(self, **settings: Any) -> ListenerSettings:
        given = {"tls": True, "client_certificates": "required", "client_ca": str(self.authority.ca), **settings}
        return ListenerSettings("devices", ANYWHERE, **given)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Pki:
    return Pki(require("openssl"), tmp_path_factory.mktemp("pki"))


async def shown(mesh: Mesh, pki: Pki, certificate: Pair | None, *login: Any) -> tuple[int, str]:
    """The CONNACK's code and as whom the client came in."""
    return await shown_by(mesh, context(pki.authority, certificate), *login)


async def shown_by(mesh: Mesh, tls: ssl.SSLContext, *login: Any) -> tuple[int, str]:
    peer = await Peer.open(mesh, "devices", tls=tls)
    try:
        # A client id belongs to who used it first.
        code = (await peer.connect(f"c-{id(tls)}", *login)).code
        who = sessions(mesh)[0].principal.name if not code else ""
    finally:
        peer.close()
    await until(lambda: not mesh.broker.metrics.wire("mqtt").open)
    return code, who


# -- handshakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_a_certificate_of_the_right_authority_there_is_no_tls(
    loop: str, newest: ssl.TLSVersion, pki: Pki
) -> None:
    async def scene(mesh: Mesh) -> None:
        for certificate in (None, pki.foreign):
            tls = context(pki.authority, certificate)
            tls.maximum_version = newest
            with pytest.raises((OSError, EOFError)):
                await shown_by(mesh, tls)
        wire = mesh.broker.metrics.wire("mqtt")
        await until(lambda: wire.errors == 2)
        assert wire.connections == 0
        assert (await shown(mesh, pki, pki.device))[0] == 0

    users = (UserSettings(name="dev1", certificates=("cn:dev1",)),)
    play(scene, pki.listener(), loop=loop, tls=pki.tls(), login=LoginSettings(users=users))


@pytest.mark.parametrize("loop", LOOPS)
def test_who_stalls_in_the_handshake_is_cut_in_time(loop: str, pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01"):
            peer = await Peer.open(mesh, "devices")
            peer.writer.write(said)
            await peer.ended()
        assert mesh.broker.metrics.wire("mqtt").errors == 2

    play(scene, pki.listener(), loop=loop, tls=pki.tls(), limits=LimitSettings(connect_deadline_s=0.2))


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_no_tls_is_counted_and_takes_up_no_room(loop: str, pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        for count in (1, 2):
            peer = await Peer.open(mesh, "devices")
            peer.writer.write(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00")
            await peer.ended()
            assert mesh.broker.metrics.wire("mqtt").errors == count
        assert await shown(mesh, pki, pki.device) == (0, "dev1")
        assert mesh.broker.metrics.wire("mqtt").turned_away == 0

    listener = pki.listener(certificate_users="any")
    play(scene, listener, loop=loop, tls=pki.tls(), limits=LimitSettings(connections_max=1))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_relay_that_passes_tls_on_says_first_for_whom(loop: str, pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        peer = await Peer.open(mesh, "devices", LINE, tls=context(pki.authority, pki.device))
        assert (await peer.connect()).code == 0
        (session,) = sessions(mesh)
        assert (session.peer, session.principal.name) == ("203.0.113.9:50000", "dev1")
        peer.close()
        await until(lambda: not mesh.broker.metrics.wire("mqtt").open)

    users = (UserSettings(name="dev1", certificates=("cn:dev1",)),)
    listener = pki.listener(proxy_protocol=True)
    play(scene, listener, loop=loop, tls=pki.tls(), login=LoginSettings(users=users))


def test_a_certificate_that_was_taken_back_is_none(pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        assert (await shown(mesh, pki, pki.device))[0] == 0
        with pytest.raises((OSError, EOFError)):
            await shown(mesh, pki, stolen)

    stolen = pki.authority.sign("stolen", "/CN=dev2")
    listener = pki.listener(certificate_users="any", client_crl=str(pki.authority.revoke(stolen[0])))
    play(scene, listener, tls=pki.tls())


# -- as whom -----------------------------------------------------------------------------------------

USERS = (
    UserSettings(name="pump", certificates=("cn:dev1",)),
    UserSettings(name="valve", certificates=("uri:urn:dev:1",)),
    UserSettings(name="ann", password=hash_password(b"right")),
)


@pytest.mark.parametrize(
    ("settings", "login", "code", "who"),
    [
        ({}, (), 0, "pump"),
        ({}, ("ann", b"right"), 0, "pump"),
        ({"identity": "san"}, (), 0, "valve"),
        ({"identity": "none"}, ("ann", b"right"), 0, "ann"),
        ({"identity": "none"}, ("ann", b"wrong"), NOT_IN, ""),
        ({"identity": "none", "anonymous": "never"}, (), NOT_IN, ""),
    ],
)
def test_which_name_of_a_certificate_is_whose(
    settings: dict[str, str], login: tuple[Any, ...], code: Any, who: str, pki: Pki
) -> None:
    async def scene(mesh: Mesh) -> None:
        found = await shown(mesh, pki, pki.device, *login)
        assert found[1] == who
        assert found[0] == code or found[0] in NOT_IN

    play(scene, pki.listener(**settings), tls=pki.tls(), login=LoginSettings(users=USERS))


def test_a_user_need_not_list_the_certificate_that_bears_its_name(pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        assert await shown(mesh, pki, pki.device) == (0, "dev1")

    users = (UserSettings(name="dev1", password=hash_password(b"x")),)
    play(scene, pki.listener(), tls=pki.tls(), login=LoginSettings(users=users))


@pytest.mark.parametrize("any_name", [False, True])
def test_whom_no_user_is_meant_by(any_name: bool, pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        code, who = await shown(mesh, pki, pki.device)
        assert (code == 0, who) == (any_name, "dev1" if any_name else "")
        assert (await shown(mesh, pki, pki.nameless))[0] in NOT_IN

    listener = pki.listener(certificate_users="any" if any_name else "listed")
    play(scene, listener, tls=pki.tls(), login=LoginSettings(users=USERS[2:], anonymous="always"))


def test_where_certificates_are_optional_others_log_in_as_ever(pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        assert await shown(mesh, pki, pki.device) == (0, "pump")
        assert await shown(mesh, pki, None, "ann", b"right") == (0, "ann")
        assert (await shown(mesh, pki, None))[0] in NOT_IN
        with pytest.raises((OSError, EOFError)):
            await shown(mesh, pki, pki.foreign)

    login = LoginSettings(users=USERS, anonymous="never")
    play(scene, pki.listener(client_certificates="optional"), tls=pki.tls(), login=login)


def test_certificates_over_websocket(pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        url = f"wss://{mesh.addresses['devices']}/"
        async with aiohttp.ClientSession() as web:
            options: dict[str, Any] = {"protocols": ("mqtt",), "ssl": context(pki.authority, pki.device)}
            async with web.ws_connect(url, **options) as socket:
                await socket.send_bytes(bytes.fromhex("101200044d51545405020014000005") + b"frame")
                assert (await socket.receive_bytes())[3] == 0
                assert sessions(mesh)[0].principal.name == "pump"
            with pytest.raises((OSError, aiohttp.ClientError)):
                await web.ws_connect(url, protocols=("mqtt",), ssl=context(pki.authority))
        await until(lambda: mesh.broker.metrics.wire("mqtt").errors >= 1)  # aiohttp tries twice

    listener = pki.listener(transport="websocket")
    play(scene, listener, tls=pki.tls(), login=LoginSettings(users=USERS))


def test_a_relay_that_ends_tls_tells_the_name_it_has_verified() -> None:
    listener = ListenerSettings("devices", ANYWHERE, proxy_protocol=True, client_certificates="required")
    world = World(listener=listener, login=LoginSettings(users=USERS))
    for names, code in ((("cn:dev1",), 0), ((), 0x87)):
        client = world.client()
        client.connection.session.arrival.certificate = names  # type: ignore[union-attr]
        answer = client.connect(f"c{code}").code
        assert answer == code or (code and answer in NOT_IN)
    assert [session.principal.name for session in world.broker.sessions() if session.protocol == "mqtt"] == ["pump"]


@pytest.mark.parametrize("name", ["anonymous", "embedded", "*", "@ops", "$mesh", "link:plant", "a\nb", "x" * 257])
def test_a_name_that_means_something_else_is_nobodys(name: str) -> None:
    world = World()
    answers: list[object] = []
    shown = Credentials(None, None, None, True, Certificate((f"cn:{name}",), any_name=True))
    world.authenticator.check(shown, answers.append)
    assert "cannot be a user's" in str(answers[0])


def test_every_name_of_a_certificate_is_known_with_its_kind() -> None:
    certificate = {
        "subject": (
            (("countryName", "DE"),),
            (("organizationName", "Acme"), ("commonName", "a")),
            (("commonName", "b"),),
        ),
        "subjectAltName": (
            ("DNS", "a.example"),
            ("email", "a@b"),
            ("URI", "urn:x"),
            ("IP Address", "10.0.0.1"),
            ("Registered ID", "1.2"),
        ),
    }
    names = ("cn:a", "cn:b", "dns:a.example", "email:a@b", "uri:urn:x", "ip:10.0.0.1")
    assert certificate_names(certificate) == names
    assert certificate_names({}) == ()
    assert certificate_names(None) == ()


# -- files -------------------------------------------------------------------------------------------


def test_an_authority_that_is_none_is_said_at_the_start(pki: Pki, tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> None:
        raise AssertionError("it has started")

    none = tmp_path / "none.pem"
    with pytest.raises(CannotStartError, match=r"cannot read .*none\.pem for TLS: No such file"):
        play(scene, pki.listener(client_ca=str(none)), tls=pki.tls())
    none.write_text("no certificate")
    with pytest.raises(CannotStartError, match=r"none\.pem holds no PEM certificates"):
        play(scene, pki.listener(client_ca=str(none)), tls=pki.tls())
    with pytest.raises(CannotStartError, match=r"none\.pem holds no PEM list of revoked certificates"):
        play(scene, pki.listener(client_crl=str(none)), tls=pki.tls())


def test_a_plain_tls_listener_asks_for_no_certificate(pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        assert await shown(mesh, pki, pki.device) == (0, "anonymous")
        await asyncio.sleep(0)

    play(scene, replace(pki.listener(), client_certificates="off", client_ca=""), tls=pki.tls())
