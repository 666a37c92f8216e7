from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.settings import LimitSettings, TlsSettings
from dragoman.adapters.serving.sockets import (
    Address,
    ListenError,
    address_problem,
    bound_address,
    listen,
    parse_address,
)
from dragoman.adapters.serving.tls import server_context
from dragoman.routing.refusals import Reason


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1883", Address("127.0.0.1", 1883)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[::]:65535", Address("::", 65535)),
        ("off", None),
    ],
)
def test_addresses_are_read_and_written_back(text: str, address: Address | None) -> None:
    assert address_problem(text) is None
    assert parse_address(text) == address
    if address is not None:
        assert str(address) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1883", "no port"),
        ("localhost", "no port"),
        (":1883", "names no host"),
        ("*:1883", "0.0.0.0:1883"),
        ("localhost:mqtt", "'mqtt' is no port"),
        ("localhost:65536", "is no port"),
        ("localhost:-1", "is no port"),
        ("localhost:", "is no port"),
        ("localhost:\u0661", "is no port"),
        ("::1:1883", "brackets"),
        ("[::1:1883", "brackets"),
        ("[nonsense]:1883", "no IPv6 address"),
        ("OFF", "no port"),
    ],
)
def test_a_wrong_address_is_explained(text: str, part: str) -> None:
    problem = address_problem(text)
    assert problem is not None
    assert part in problem


def test_port_zero_takes_a_free_one_and_says_which() -> None:
    (listener,) = listen(Address("127.0.0.1", 0))
    with listener:
        host, port = bound_address(listener)
        assert host == "127.0.0.1"
        assert port > 0
        with socket.create_connection((host, port)):
            pass
        assert not listener.getblocking()


def test_a_port_in_use_is_a_sentence_and_leaks_nothing() -> None:
    (listener,) = listen(Address("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127.0.0.1:{port} is in use .*choose another port"):
            listen(Address("127.0.0.1", port))


def test_a_foreign_address_and_an_unknown_host_are_sentences() -> None:
    with pytest.raises(ListenError, match="no interface of this machine has"):
        listen(Address("192.0.2.1", 0))
    with pytest.raises(ListenError, match=r"'no\.such\.invalid' is not known here"):
        listen(Address("no.such.invalid", 0))
    with pytest.raises(ListenError, match="not known here"):
        listen(Address("x" * 300, 0))


def test_several_addresses_of_a_host_share_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = socket.SOCK_STREAM
    found = [(socket.AF_INET, kind, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kw: found)
    listeners = listen(Address("both", 0))
    try:
        assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1", "127.0.0.2"]
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    finally:
        for listener in listeners:
            listener.close()


def limits(total: int, each: int) -> ConnectionLimits:
    return ConnectionLimits(LimitSettings(connections_max=total, connections_per_address_max=each))


def test_connections_are_limited_in_all_and_per_address() -> None:
    door = limits(3, 2)
    assert door.admit("10.0.0.1") is None
    assert door.admit("10.0.0.1") is None
    refusal = door.admit("10.0.0.1")
    assert refusal is not None
    assert refusal.reason is Reason.QUOTA_EXCEEDED
    assert "10.0.0.1" in refusal.detail
    assert door.admit("10.0.0.2") is None
    assert door.admit("10.0.0.3") is not None
    door.leave("10.0.0.1")
    assert door.admit("10.0.0.1") is None
    assert door.admit("10.0.0.1") is not None


def test_this_machine_is_limited_only_in_all() -> None:
    door = limits(3, 1)
    assert [door.admit("127.0.0.1") for _ in range(3)] == [None] * 3
    assert door.admit("127.0.0.1") is not None
    door.leave("127.0.0.1")
    assert door.admit("") is None


def test_what_left_is_forgotten() -> None:
    door = limits(10, 10)
    for number in range(5):
        assert door.admit(f"10.0.0.{number}") is None
    for number in range(5):
        door.leave(f"10.0.0.{number}")
    assert door.open == 0
    assert not door._by_block


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    for name in ("a", "b"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-subj", "/CN=localhost", "-keyout", f"{name}.key", "-out", f"{name}.crt"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    subprocess.run(
        ["openssl", "pkey", "-in", "a.key", "-aes256", "-passout", "pass:x", "-out", "locked.key"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "junk.pem").write_text("junk")
    return folder


def tls(folder: Path, certificate: str, key: str, minimum: str = "1.2") -> TlsSettings:
    return TlsSettings(str(folder / certificate), str(folder / key), minimum)


def test_a_certificate_and_its_key_make_a_context(pem: Path) -> None:
    assert server_context(tls(pem, "a.crt", "a.key")).minimum_version is ssl.TLSVersion.TLSv1_2
    assert server_context(tls(pem, "a.crt", "a.key", "1.3")).minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("certificate", "key", "part"),
    [
        ("a.crt", "b.key", "does not belong"),
        ("a.crt", "locked.key", "is encrypted"),
        ("absent.crt", "a.key", "absent.crt for TLS: No such file"),
        ("a.crt", "absent.key", "absent.key for TLS: No such file"),
        ("junk.pem", "a.key", "no PEM certificate and key"),
    ],
)
def test_files_that_do_not_serve_are_explained(pem: Path, certificate: str, key: str, part: str) -> None:
    with pytest.raises(ListenError, match=part):
        server_context(tls(pem, certificate, key))


def test_tls_without_a_certificate_says_what_to_configure() -> None:
    with pytest.raises(ListenError, match=r"tls\.certificate"):
        server_context(TlsSettings())
    with pytest.raises(ValueError, match="both or neither"):
        TlsSettings(certificate="a.crt")
