"""Several certificates on one port: which of them a client is shown that asks for a host by name (SNI)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragoman import Mesh
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.host_names import HostNames, certificate_hosts, host_problem
from dragoman.adapters.serving.settings import CertificateSettings, ListenSettings, LoginSettings, TlsSettings
from dragoman.config import Config
from dragoman.mesh import CannotStartError
from tests.mqtt.certificates import Authority
from tests.mqtt.listener_play import ANYWHERE, LOOPS, Peer, context, sessions

NAMES = {
    "first": "DNS:mesh.example,IP:127.0.0.1",
    "local": "DNS:localhost",
    "plant": "DNS:*.plant.example,DNS:plant.example",
    "pump": "DNS:pump.plant.example",
    "own": "DNS:own.example",
    "bare": "",
}


class Pki:
    def __init__(self, openssl: str, folder: Path) -> None:
        self.authority = Authority(openssl, folder)
        self.files = {name: self.authority.sign(name, f"/CN={name}", names) for name, names in NAMES.items()}
        self.device = self.authority.sign("device", "/CN=dev1")

    def row(self, name: str, *hosts: str) -> CertificateSettings:
        certificate, private_key = self.files[name]
        return CertificateSettings(str(certificate), str(private_key), hosts)

    def tls(self, *rows: CertificateSettings, **settings: Any) -> TlsSettings:
        certificate, private_key = self.files["first"]
        return TlsSettings(str(certificate), str(private_key), certificates=rows, **settings)

    async def shown(self, address: str, host: str | None) -> str:
        """The common name of what is shown to who asks for this host; "" where there is no handshake."""
        tls = ssl.create_default_context(cafile=str(self.authority.ca))
        tls.check_hostname = False
        at, _, port = address.rpartition(":")
        try:
            # An empty name is none: asyncio wants one said or denied.
            _, writer = await asyncio.open_connection(at, int(port), ssl=tls, server_hostname=host or "")
        except OSError:
            return ""
        certificate = writer.get_extra_info("peercert")
        writer.close()
        (((_, name),),) = certificate["subject"]
        return str(name)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Pki:
    return Pki(require("openssl"), tmp_path_factory.mktemp("pki"))


def config(tls: TlsSettings, *listeners: ListenerSettings, **listen: str) -> Config:
    off: dict[str, str] = {"mqtt": "off", "kafka": "off", "http": "off", **listen}
    return Config(data=":memory:", listen=ListenSettings(**off), tls=tls, mqtt=MqttSettings(listeners=listeners))


def play(config: Config, scene: Callable[[Mesh], Any], loop: str = "asyncio") -> None:
    async def main() -> None:
        async with asyncio.timeout(20), Mesh(config) as mesh:
            await scene(mesh)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_every_tls_listener_shows_the_certificate_of_the_host_that_is_asked_for(loop: str, pki: Pki) -> None:
    asked = {
        None: "first",
        "mesh.example": "first",
        "unheard-of.example": "first",
        "localhost": "local",
        "PLANT.example": "plant",
        "valve.plant.example": "plant",
        "a.valve.plant.example": "first",
        "pump.plant.example": "pump",
        "other.example": "bare",
    }

    async def scene(mesh: Mesh) -> None:
        assert set(mesh.addresses) == {"mqtts", "kafkas", "https", "devices", "pages"}
        for address in mesh.addresses.values():
            for host, expected in asked.items():
                assert (host, await pki.shown(address, host)) == (host, expected)

    rows = (pki.row("local"), pki.row("plant"), pki.row("pump"), pki.row("bare", "other.example"))
    listeners = [
        ListenerSettings("devices", ANYWHERE, tls=True),
        ListenerSettings("pages", ANYWHERE, "websocket", tls=True),
    ]
    play(config(pki.tls(*rows), *listeners, mqtts=ANYWHERE, kafkas=ANYWHERE, https=ANYWHERE), scene, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_host_nobody_has_a_certificate_for_is_refused_where_that_is_wanted(loop: str, pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        address = mesh.addresses["mqtts"]
        for host, expected in {None: "first", "mesh.example": "first", "localhost": "local", "x.example": ""}.items():
            assert (host, await pki.shown(address, host)) == (host, expected)

    play(config(pki.tls(pki.row("local"), unknown_host="refuse"), mqtts=ANYWHERE), scene, loop)


def test_a_listener_has_a_first_certificate_of_its_own(pki: Pki) -> None:
    async def scene(mesh: Mesh) -> None:
        address = mesh.addresses["devices"]
        for host, expected in {None: "own", "own.example": "own", "mesh.example": "own", "localhost": "local"}.items():
            assert (host, await pki.shown(address, host)) == (host, expected)
        assert await pki.shown(mesh.addresses["mqtts"], "own.example") == "first"

    own = dict(zip(("certificate", "private_key"), map(str, pki.files["own"]), strict=True))
    listener = ListenerSettings("devices", ANYWHERE, tls=True, **own)
    play(config(pki.tls(pki.row("local")), listener, mqtts=ANYWHERE), scene)
    # Enough for TLS there, also without any in [tls].
    with pytest.raises(ValueError, match="say tls = true"):
        ListenerSettings("devices", ANYWHERE, **own)
    with pytest.raises(ValueError, match="both or neither"):
        ListenerSettings("devices", ANYWHERE, tls=True, certificate="own.pem")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_has_to_show_its_certificate_whatever_host_it_asks_for(
    host: str, newest: ssl.TLSVersion, pki: Pki
) -> None:
    async def scene(mesh: Mesh) -> None:
        _, _, port = mesh.addresses["devices"].rpartition(":")
        for certificate in (pki.device, None):
            tls = context(pki.authority, certificate)
            tls.maximum_version = newest
            peer = None
            answered = ""
            try:
                streams = await asyncio.open_connection("127.0.0.1", int(port), ssl=tls, server_hostname=host)
                peer = Peer(*streams, version=5)
                assert (await peer.connect()).code == 0
                answered = sessions(mesh)[0].principal.name
            except (OSError, EOFError):
                pass
            finally:
                if peer is not None:
                    peer.close()
            assert answered == ("dev1" if certificate is not None else "")

    listener = ListenerSettings(
        "devices",
        ANYWHERE,
        tls=True,
        client_certificates="required",
        client_ca=str(pki.authority.ca),
        certificate_users="any",
    )
    play(config(pki.tls(pki.row("local")), listener), scene)


def test_mosquitto_asks_for_the_host_it_was_told(pki: Pki, require: Callable[[str], str]) -> None:
    async def scene(mesh: Mesh) -> None:
        port = mesh.addresses["mqtts"].rpartition(":")[2]
        for host in ("localhost", "127.0.0.1"):
            words = [mosquitto_pub, "-h", host, "-p", port, "--cafile", pki.authority.ca, "-t", "a", "-m", "b"]
            said = await asyncio.create_subprocess_exec(*map(str, words))
            assert await said.wait() == 0

    mosquitto_pub = require("mosquitto_pub")
    tls = pki.tls(pki.row("local"))
    play(Config(**{**vars_of(config(tls, mqtts=ANYWHERE)), "login": LoginSettings(anonymous="always")}), scene)


def vars_of(made: Config) -> dict[str, Any]:
    return {name: getattr(made, name) for name in ("data", "listen", "tls", "mqtt")}


# -- files and names ---------------------------------------------------------------------------------


def test_a_further_certificate_that_does_not_serve_is_said_with_its_row(pki: Pki, tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> None:
        raise AssertionError("it has started")

    with pytest.raises(CannotStartError, match=r"bare\.pem is for no DNS name: say which by hosts"):
        play(config(pki.tls(pki.row("bare")), mqtts=ANYWHERE), scene)
    mixed = CertificateSettings(str(pki.files["local"][0]), str(pki.files["plant"][1]))
    assert [key for key, _ in pki.tls(pki.row("local"), mixed).faults()] == ["certificates[2].private_key"]
    absent = CertificateSettings(str(tmp_path / "absent.pem"), "absent.key")
    found = [f"certificates[{number}].{key}" for number in (1, 2) for key in ("certificate", "private_key")]
    assert [key for key, _ in pki.tls(absent, absent).faults()] == found
    assert [key for key, _ in pki.tls(pki.row("bare")).faults()] == ["certificates[1].certificate"]
    assert pki.tls(pki.row("local"), pki.row("bare", "b.example")).faults() == []


@pytest.mark.parametrize("name", NAMES)
def test_the_hosts_of_a_certificate_are_its_dns_names(name: str, pki: Pki) -> None:
    expected = [text.removeprefix("DNS:") for text in NAMES[name].split(",") if text.startswith("DNS:")]
    pem = pki.files[name][0].read_text()
    assert list(certificate_hosts(pem)) == expected
    # The chain that follows is not what it is for.
    assert list(certificate_hosts("leading words\n" + pem + pki.files["own"][0].read_text())) == expected


def test_the_hosts_of_a_certificate_with_many_and_critical_names(pki: Pki) -> None:
    many = [f"host-{number}.example" for number in range(60)]
    names = "critical," + ",".join(f"DNS:{host},email:a@{host}" for host in many)
    certificate, _ = pki.authority.sign("many", "/CN=many", names)
    assert list(certificate_hosts(certificate.read_text())) == many
    assert certificate_hosts("no certificate") == ()


def test_a_name_in_full_goes_before_a_wildcard_and_the_first_before_the_next() -> None:
    hosts: HostNames[int] = HostNames()
    hosts.add(("*.a.example", "b.example"), 1)
    hosts.add(("x.a.example", "b.example", "*.b.example"), 2)
    found = {
        name: hosts.find(name) for name in ("x.a.example", "y.a.example", "b.example", "c.b.example.", "a.example")
    }
    assert found == {"x.a.example": 2, "y.a.example": 1, "b.example": 1, "c.b.example.": 2, "a.example": None}
    assert hosts.find("d.c.b.example") is None


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        ("b.example", True),
        ("*.b.example", True),
        ("localhost", True),
        ("xn--bcher-kva.example", True),
        ("", False),
        ("*", False),
        ("a.*.example", False),
        ("*b.example", False),
        ("B.example", False),
        ("b.example.", False),
        ("-b.example", False),
        ("b..example", False),
        ("x" * 254, False),
    ],
)
def test_what_can_be_a_host(host: str, fine: bool) -> None:
    assert (host_problem(host) is None) is fine
