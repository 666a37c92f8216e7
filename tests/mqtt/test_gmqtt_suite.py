"""gmqtt's own tests of a broker, unmodified, against a mesh of ours. Over TLS too."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.mesh import MeshProcess
from tests.clients.tools import ROOT, SOURCES_FOLDER
from tests.interop import gmqtt_suite
from tests.mqtt.certificates import Authority

TLS_PORT = 8883
CONFIG = ROOT / "configs" / "conformance-mqtt.toml"

NOT_HERE = {
    "test_assigned_clientid": "its client sends an identifier that it has made up, so none is assigned",
}
"""What fails, and why that is right. A test that changes sides fails ours."""


def free_host() -> str:
    """A loopback address of our own: one of the tests names its port, so what is free must be the address."""
    pick = random.Random()
    for _ in range(100):
        host = f"127.{pick.randrange(1, 255)}.{pick.randrange(256)}.{pick.randrange(1, 255)}"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, TLS_PORT))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    pytest.skip("this machine has one loopback address only, and port 8883 on it is not ours")
                continue
            return host
    raise AssertionError(f"port {TLS_PORT} is in use on a hundred loopback addresses")


@pytest.mark.slow
def test_gmqtt_s_own_tests(
    tmp_path: Path, mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
) -> None:
    require("gmqtt's tests")
    host = free_host()
    authority = Authority(require("openssl"), tmp_path / "pki")
    certificate, key = authority.sign("server", "/CN=broker", f"IP:{host}")
    config = CONFIG.read_text("utf-8").replace("[listen]\n", f'[listen]\nmqtts = "{host}:{TLS_PORT}"\n')
    config += f'\n[tls]\ncertificate = "{certificate}"\nprivate_key = "{key}"\n'
    mesh = mesh_process(config, memory=True, listeners={"mqtt": f"{host}:0"})
    folder = SOURCES_FOLDER / "gmqtt"
    names = gmqtt_suite.tests(folder)
    assert len(names) == 16
    # Its TLS test trusts what the system trusts; OpenSSL takes that from here.
    results = gmqtt_suite.run(folder, mesh.address("mqtt"), names, tmp_path, SSL_CERT_FILE=str(authority.ca))
    assert {name for name, outcome in results.items() if outcome != "passed"} == set(NOT_HERE), mesh.stderr
