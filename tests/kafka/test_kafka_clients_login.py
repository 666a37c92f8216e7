"""Foreign Kafka clients that have to say who they are, over TLS and without."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragoman.adapters.serving.credentials import hash_password, new_token, scram_verifier
from tests.clients.mesh import MeshProcess
from tests.kafka.kafka_clients import Client, Record, Refused, Where
from tests.kafka.kafka_clients_aiokafka import Aiokafka
from tests.kafka.kafka_clients_foreign import Java, KafkaJs, Kcat, Platformatic
from tests.kafka.kafka_clients_python import Confluent, KafkaPython

pytestmark = pytest.mark.slow

CLIENTS = (Aiokafka(), KafkaPython(), Confluent(), KafkaJs(), Platformatic(), Java())

CONFIG = """
[listen]
mqtt = "off"
http = "off"
kafka = "127.0.0.1:0"
kafkas = "127.0.0.1:0"
[tls]
certificate = "{certificate}"
private_key = "{key}"
[login]
anonymous = "never"
[[login.users]]
name = "ann"
password = "{password}"
scram = "{scram}"
tokens = ["{digest}"]
"""
TOKEN, DIGEST = new_token()
WRONG = "the user name or the password is wrong"
RECORDS = [Record(b"k", b"secret")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Path:
    """Of this machine, signed by itself; its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    found, key = folder / "certificate.pem", folder / "key.pem"
    make = [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-days", "2"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(found)], check=True, capture_output=True)
    key.chmod(0o600)
    return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[MeshProcess]:
    """Nobody comes in without a password."""
    key = certificate.with_name("key.pem")
    secrets = {"password": hash_password(b"right"), "scram": scram_verifier(b"right"), "digest": DIGEST}
    config = CONFIG.format(certificate=certificate, key=key, **secrets)
    with MeshProcess(tmp_path_factory.mktemp("kafka"), config, memory=True, listeners={}) as process:
        yield process


def at(mesh: MeshProcess, listener: str, password: str, certificate: Path, mechanism: str = "PLAIN") -> Where:
    host, port = mesh.address(listener)
    ca = str(certificate) if listener == "kafkas" else ""
    return Where(f"{host}:{port}", "ann" if password else "", password, ca, mechanism)


@pytest.mark.parametrize("listener", ["kafka", "kafkas"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_right_password(
    mesh: MeshProcess, certificate: Path, ready: Callable[[Client], Client], client: Client, listener: str
):
    where = at(mesh, listener, "right", certificate)
    topic = f"{listener}.{client.name}"
    ready(client).produce(where, topic, RECORDS)
    assert client.read(where, topic, topic, 1) == RECORDS


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_wrong_password_is_told(
    mesh: MeshProcess,
    certificate: Path,
    ready: Callable[[Client], Client],
    client: Client,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level("INFO", "aiokafka")  # the command line, which other tests run in this process, quiets it
    with pytest.raises(Refused) as refused:
        ready(client).produce(at(mesh, "kafka", "wrong", certificate), "never", RECORDS)
    # aiokafka and kafka-python say that they cannot begin, and in their logs why; platformatic's has words of its own.
    assert re.search(f"{WRONG}|SASL authentication failed", f"{refused.value} {caplog.text}")


@pytest.mark.parametrize("listener", ["kafka", "kafkas"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_password_proven_unsaid(
    mesh: MeshProcess, certificate: Path, ready: Callable[[Client], Client], client: Client, listener: str
):
    topic = f"scram.{listener}.{client.name}"
    where = at(mesh, listener, "right", certificate, "SCRAM-SHA-256")
    ready(client).produce(where, topic, RECORDS)
    assert client.read(where, topic, topic, 1) == RECORDS
    with pytest.raises(Refused):
        client.produce(at(mesh, listener, "wrong", certificate, "SCRAM-SHA-256"), "never", RECORDS)


@pytest.mark.parametrize("client", CLIENTS[:3], ids=lambda client: client.name)
def test_a_token(mesh: MeshProcess, certificate: Path, client: Client):
    where = at(mesh, "kafka", TOKEN, certificate, "OAUTHBEARER")
    client.produce(where, f"token.{client.name}", RECORDS)
    assert client.read(where, f"token.{client.name}", f"token.{client.name}", 1) == RECORDS
    with pytest.raises(Refused):
        client.produce(at(mesh, "kafka", TOKEN + "x", certificate, "OAUTHBEARER"), "never", RECORDS)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_no_password_at_all(mesh: MeshProcess, certificate: Path, ready: Callable[[Client], Client], client: Client):
    with pytest.raises(Refused):
        ready(client).produce(at(mesh, "kafka", "", certificate), "never", RECORDS)


def test_kcat_with_a_password_over_tls(mesh: MeshProcess, certificate: Path, require: Callable[[str], str]):
    require("kcat")
    kcat, records = Kcat(), [Record(b"k", b"v", (("a", b"1"),))]
    for listener, mechanism in (("kafka", "PLAIN"), ("kafkas", "PLAIN"), ("kafka", "SCRAM-SHA-256")):
        where, topic = at(mesh, listener, "right", certificate, mechanism), f"{mechanism}.{listener}.kcat"
        kcat.produce(where, topic, records)
        assert kcat.read(where, topic, "kcat", 1) == records
    with pytest.raises(Refused, match=WRONG):
        kcat.produce(at(mesh, "kafka", "wrong", certificate), "never", records)
