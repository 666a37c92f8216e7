"""Certificates that are renewed and revoked while a mesh runs: who comes next sees them, who is in stays in."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.reloading import OPS, WAIT_S, Client, Operator, user
from tests.clients.mesh import MeshProcess
from tests.mqtt.certificates import Authority

pytestmark = pytest.mark.slow

CONFIG = """
[listen]
mqtt = "127.0.0.1:0"
mqtts = "127.0.0.1:0"
kafka = "off"
kafkas = "127.0.0.1:0"
http = "127.0.0.1:0"
https = "127.0.0.1:0"

[tls]
certificate = "{folder}/shown.pem"
private_key = "{folder}/shown.key"

[[mqtt.listeners]]
name = "devices"
address = "127.0.0.1:0"
tls = true
client_certificates = "required"
client_ca = "{ca}"
client_crl = "{folder}/crl.pem"
certificate_users = "any"

[[mqtt.listeners]]
name = "pages"
address = "127.0.0.1:0"
transport = "websocket"
tls = true

"""
ENCRYPTED = ("mqtts", "devices", "pages", "kafkas", "https")


class Plant(Operator):
    """An operator with a certificate authority."""

    def __init__(self, folder: Path, openssl: str) -> None:
        self.authority = Authority(openssl, folder / "pki")
        self.files = folder / "pki"
        self.show("first")
        self.device = [str(path) for path in self.authority.sign("device", "/CN=dev1")]
        self.authority.revoke()
        self.config = OPS + user("ann") + CONFIG.format(folder=self.files, ca=self.authority.ca)
        super().__init__(MeshProcess(folder / "mesh", self.config, memory=True, listeners={}))

    def show(self, name: str) -> None:
        """Puts another certificate in the place of the one that is shown."""
        made = self.authority.sign(name, f"/CN={name}", "IP:127.0.0.1")
        for path, kind in zip(made, ("pem", "key"), strict=True):
            shutil.copyfile(path, self.files / f"shown.{kind}")

    def handshake(self, listener: str) -> ssl.SSLSocket:
        """A connection that has just been made, with the device's certificate."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.load_cert_chain(*self.device)
        with socket.create_connection(self.mesh.address(listener), timeout=WAIT_S) as plain:
            return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def lets_in(self, listener: str) -> bool:
        """Whether a CONNECT is answered. Since TLS 1.3 a client has done its own part before it can be refused."""
        with self.handshake(listener) as encrypted:
            try:
                encrypted.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
                return encrypted.recv(1) == b"\x20"
            except OSError:
                return False

    def seen(self, listener: str) -> str:
        """The common name of the certificate that a new handshake is shown."""
        with self.handshake(listener) as encrypted:
            certificate = encrypted.getpeercert()
        assert certificate is not None
        return str(dict(pair for row in certificate["subject"] for pair in row)["commonName"])


@pytest.fixture
def plant(tmp_path: Path, require: Callable[[str], str]) -> Plant:
    return Plant(tmp_path, require("openssl"))


def test_a_renewed_certificate_is_shown_to_who_comes_next(plant: Plant) -> None:
    with plant.mesh, Client(plant.mesh, "ann", "", "mqtts", str(plant.authority.ca)) as ann:
        assert {plant.seen(name) for name in ENCRYPTED} == {"first"}
        plant.show("second")
        assert {plant.seen(name) for name in ENCRYPTED} == {"first"}, "nobody has said that it is to be read"
        said = plant.hup(plant.config)
        assert "no setting in force changes; files of TLS read again for: mqtts, devices, pages, https, kafkas" in said
        assert {plant.seen(name) for name in ENCRYPTED} == {"second"}
        ann.say("still", "here")
        assert ann.heard.get(timeout=WAIT_S) == "still here"

        # What is no certificate changes nothing, also not for the listeners whose own files are fine.
        (plant.files / "shown.pem").write_text("none")
        said = plant.hup(plant.config)
        assert "was not reloaded" in said
        assert "tls.certificate: " in said
        assert {plant.seen(name) for name in ENCRYPTED} == {"second"}
        assert ann.ended.empty()


def test_a_certificate_of_a_listeners_own_comes_and_goes(plant: Plant) -> None:
    own = [str(path) for path in plant.authority.sign("own", "/CN=own", "IP:127.0.0.1")]
    with plant.mesh:
        row = f'name = "pages"\ncertificate = "{own[0]}"\nprivate_key = "{own[1]}"'
        said = plant.hup(plant.config.replace('name = "pages"', row))
        assert "changed: mqtt.listeners[2].certificate, mqtt.listeners[2].private_key; files" in said
        assert (plant.seen("pages"), plant.seen("devices")) == ("own", "first")
        plant.hup(plant.config)
        assert plant.seen("pages") == "first"


def test_a_revoked_certificate_lets_nobody_in_any_more(plant: Plant) -> None:
    with plant.mesh, Client(plant.mesh, "dev1", "", "devices", str(plant.authority.ca), *plant.device) as device:
        assert plant.lets_in("devices")
        plant.authority.revoke(Path(plant.device[0]))
        plant.hup(plant.config)
        assert not plant.lets_in("devices")
        # Who is in stays in: that is for a ban, or for a kick.
        device.say("still", "here")
        assert device.heard.get(timeout=WAIT_S) == "still here"


def test_what_still_listens_keeps_its_certificate(plant: Plant) -> None:
    """A file without TLS is right in itself, but its listeners go only with a restart."""
    with plant.mesh:
        bare = OPS + user("ann") + '[listen]\nmqtt = "127.0.0.1:0"\nkafka = "off"\nhttp = "127.0.0.1:0"\n'
        assert "nothing has changed: " in plant.hup(bare)
        assert plant.seen("mqtts") == "first"
        assert plant.value("tls.certificate")[0] == f"{plant.files}/shown.pem"
