"""MQTT listeners in a configuration: what can be said, and a sentence for everything that cannot be meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dragoman.config import Config, ConfigError, advice, load

GOOD = """
[listen]
mqtt = "127.0.0.1:1883"
[tls]
certificate = "a.pem"
private_key = "a.key"
[[mqtt.listeners]]
name = "plant"
address = "0.0.0.0:8884"
tls = true
client_certificates = "required"
client_ca = "ca.pem"
identity = "san"
certificate_users = "any"
proxy_protocol = true
proxy_trusted = ["10.0.0.0/8", "::1"]
versions = ["3.1.1", "5.0"]
anonymous = "never"
connections_max = 500
[[mqtt.listeners]]
name = "web"
address = "127.0.0.1:9001"
transport = "websocket"
path = "/mqtt"
origins = ["https://app.example"]
[[mqtt.listeners]]
name = "local"
address = "unix:/run/mqtt.sock"
socket_mode = "660"
[[login.users]]
name = "dev1"
certificates = ["cn:dev1", "dns:dev1.example"]
"""


def read(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "dragoman.toml"
    file.write_text(text)
    return load(file)


def make_certificate(folder: Path, name: str) -> None:
    """NAME.pem and NAME.key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-keyout", f"{name}.key", "-out", f"{name}.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


def test_files_of_tls_are_opened_before_anything_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``serve`` would refuse, ``check`` names, with the key and the line."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_certificate(tmp_path, name)
    (tmp_path / "ca.pem").write_text("none")
    listen = "[listen]\nmqtts = '127.0.0.1:8883'\n[tls]\ncertificate = {}\nprivate_key = {}\n"
    on = "[[mqtt.listeners]]\nname = 'x'\naddress = '127.0.0.1:1'\ntls = true\n"
    ca = on + "client_certificates = 'required'\nclient_ca = 'ca.pem'\n"
    for text, sentence in (
        (listen.format("'/nope.pem'", "'a.key'"), ":4: tls.certificate: cannot read /nope.pem for TLS: No such file"),
        (listen.format("'a.pem'", "'/nope.key'"), ":5: tls.private_key: cannot read /nope.key for TLS: No such file"),
        (listen.format("'a.pem'", "'b.key'"), ":5: tls.private_key: the key b.key does not belong to"),
        (listen.format("'ca.pem'", "'b.key'"), ":4: tls.certificate: ca.pem and b.key are no PEM"),
        (listen.format("'a.pem'", "'a.key'") + ca, "mqtt.listeners[1].client_ca: ca.pem holds no PEM"),
        (
            listen.format("'a.pem'", "'a.key'") + ca.replace("ca.pem", "a.pem") + "client_crl = 'ca.pem'\n",
            "mqtt.listeners[1].client_crl: ca.pem holds no PEM list of revoked",
        ),
        (
            listen.format("'/nope.pem'", "'a.key'").replace("mqtts", "kafka") + on,
            ":4: tls.certificate",
        ),
        (
            listen.format("'a.pem'", "'a.key'")
            + "[[tls.certificates]]\ncertificate = 'b.pem'\nprivate_key = 'a.key'\n",
            ":8: tls.certificates[1].private_key: the key a.key does not belong to",
        ),
        (on + "certificate = 'a.pem'\nprivate_key = 'b.key'\n", ":6: mqtt.listeners[1].private_key: the key b.key"),
        (on, ":4: mqtt.listeners[1].tls: needs"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, text)
        (fault,) = caught.value.faults
        assert sentence in str(fault)
    assert read(tmp_path, listen.format("'a.pem'", "'a.key'")).tls.certificate == "a.pem"
    assert read(tmp_path, on + "certificate = 'a.pem'\nprivate_key = 'a.key'\n").mqtt.listeners[0].certificate
    # What nobody opens is nobody's fault.
    assert read(tmp_path, listen.format("'/nope.pem'", "'a.key'").replace("mqtts", "kafka")).tls.certificate


def test_a_rule_for_nobody_is_part_of_the_advice(tmp_path: Path) -> None:
    users = "[[login.users]]\nname = 'ann'\nadmin = true\ngroups = ['ops']\ncertificates = ['cn:ann']\n"
    rules = (
        "[[gate.rules]]\neffect = 'deny'\nwho = ['anne', '@op']\n"
        "[[gate.rules]]\neffect = 'deny'\nwho = ['ann', '@ops', 'anonymous', '*']\n"
        "[[gate.rates]]\nwho = ['@plant']\n"
    )
    assert advice(read(tmp_path, users + rules)) == [
        "gate.rules[1] speaks of 'anne', but no user has that name",
        "gate.rules[1] speaks of @op, but no user is in such a group",
        "gate.rates[1] speaks of @plant, but no user is in such a group",
    ]
    relayed = listener("proxy_protocol = true\nproxy_trusted = ['127.0.0.1']\ncertificate_users = 'any'\n")
    said = advice(read(tmp_path, users + rules + relayed))
    assert not [sentence for sentence in said if "anne" in sentence], "a certificate may have any name there"
    assert [sentence for sentence in said if "@op," in sentence]


def test_listeners_with_settings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_certificate(tmp_path, "a")
    (tmp_path / "ca.pem").write_bytes((tmp_path / "a.pem").read_bytes())
    config = read(tmp_path, GOOD)
    every = config.mqtt.every_listener(config.listen.mqtt, config.listen.mqtts)
    assert [(listener.name, listener.about) for listener in every] == [
        ("mqtt", "tcp"),
        ("plant", "tcp, tls, PROXY, certificates required"),
        ("web", "websocket"),
        ("local", "tcp"),
    ]
    assert [listener.url(listener.address) for listener in every] == [
        "mqtt://127.0.0.1:1883",
        "mqtts://0.0.0.0:8884",
        "ws://127.0.0.1:9001/mqtt",
        "unix:/run/mqtt.sock",
    ]
    assert [listener.exposed for listener in every] == [False, True, False, False]
    assert [every[1].speaks(version) for version in (3, 4, 5)] == [False, True, True]


def listener(text: str, *, name: str = "x", address: str = "127.0.0.1:1") -> str:
    return f"[[mqtt.listeners]]\nname = {name!r}\naddress = {address!r}\n{text}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (listener("", name="mqtt"), "mqtt.listeners[1].name: 'mqtt' is what [listen] and the ready file call"),
        (listener("", name="pid"), "choose another name"),
        (listener("", name="My plant"), "is no name for a listener"),
        (listener("", address="1883"), "mqtt.listeners[1].address: '1883' has no port"),
        (listener("", address="off"), "leave the listener out instead"),
        (listener("", address="unix:"), "unix: names no file"),
        (listener("", address="unix:/" + "x" * 107), "at most 107 bytes, this one 108"),
        ("[[mqtt.listeners]]\nname = 'x'", "mqtt.listeners[1]"),
        (listener("transport = 'quic'"), 'must be one of "tcp", "websocket", not the text "quic"'),
        (listener("tls = true"), "mqtt.listeners[1].tls: needs tls.certificate and tls.private_key"),
        (listener("versions = ['4']"), "'4' is no version of MQTT; there are 3.1, 3.1.1, 5.0"),
        (listener("versions = []"), "speaks no version"),
        (listener("anonymous = 'sometimes'"), 'must be one of "inherit", "loopback"'),
        (listener("connections_max = -1"), "0 or more, not -1"),
        (listener("client_ca = 'ca.pem'"), "client_ca and client_crl need client_certificates"),
        (listener("client_crl = 'crl.pem'"), "client_ca and client_crl need client_certificates"),
        (listener("client_certificates = 'required'"), "needs tls = true, or a relay with TLS and proxy_protocol"),
        (listener("tls = true\nclient_certificates = 'required'"), "client_certificates needs client_ca"),
        (
            listener("proxy_protocol = true\nclient_certificates = 'optional'\nclient_ca = 'x'"),
            "are of no use without TLS here",
        ),
        (
            listener("proxy_protocol = true\nclient_certificates = 'optional'\nidentity = 'san'"),
            "a relay tells the common name alone",
        ),
        (listener("proxy_trusted = ['10.0.0.1/8']"), "'10.0.0.1/8' is neither an address nor a network"),
        (listener("proxy_trusted = ['relay']"), "'relay' is neither an address nor a network"),
        (listener("path = '/mqtt'"), 'path and origins are for transport = "websocket"'),
        (listener("origins = ['*']"), 'path and origins are for transport = "websocket"'),
        (listener("transport = 'websocket'\npath = 'mqtt'"), "'mqtt' is no path"),
        (listener("transport = 'websocket'\npath = '/a?b'"), "'/a?b' is no path"),
        (listener("socket_mode = '888'"), "'888' is no mode"),
        (listener("socket_mode = '7777'"), "'7777' is no mode"),
        (listener("", address="127.0.0.1:1883"), "listen.mqtt is 127.0.0.1:1883 already"),
        (listener("") + listener("", address="127.0.0.1:2"), "two listeners are called 'x'"),
        (listener("") + listener("", name="y"), "two listeners have the address 127.0.0.1:1"),
        ("[[login.users]]\nname = 'a'\ncertificates = ['dev1']", "begins with one of cn:, dns:, email:, uri:, ip:"),
        ("[[login.users]]\nname = 'a'\ncertificates = ['cn:']", "does not say which of a certificate's names"),
        (
            "".join(f"[[login.users]]\nname = '{name}'\ncertificates = ['cn:x']\n" for name in "ab"),
            "a certificate of 'b' is another user's too",
        ),
    ],
)
def test_what_cannot_be_meant_is_explained(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert sentence in str(error.value)


def test_ports_of_no_number_may_be_the_same(tmp_path: Path) -> None:
    text = listener("", address="127.0.0.1:0") + listener("", name="y", address="127.0.0.1:0")
    config = read(tmp_path, "[listen]\nmqtt = '127.0.0.1:0'\n" + text)
    assert len(config.mqtt.listeners) == 2


def test_what_others_may_reach_is_part_of_the_advice(tmp_path: Path) -> None:
    open_to_all = listener("anonymous = 'always'", address="0.0.0.0:1")
    said = "\n".join(advice(read(tmp_path, open_to_all)))
    assert "0.0.0.0:1 can be reached from other machines" in said
    assert "whoever reaches 0.0.0.0:1 comes in without credentials (x)" in said
    users = "[[login.users]]\nname = 'a'\ncertificates = ['cn:x']\n"
    said = "\n".join(advice(read(tmp_path, users + listener("", address="0.0.0.0:1"))))
    assert "cross the network in the clear on 0.0.0.0:1" in said
    assert "reached" not in "\n".join(advice(read(tmp_path, listener(""))))


def test_one_thing_that_is_wrong_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "[listen]\nmqtt = '127.0.0.1:1'\nmqtts = '127.0.0.1:8883'\n"
        "[tls]\ncertificate = 'server.pem'\nprivate_key = 'server.key'\n"
        "[[tls.certificates]]\ncertificate = 'b.pem'\nprivate_key = 'b.key'\n"
        + listener("tls = true\nclient_certificates = 'required'\nclient_ca = 'ca.pem'\nclient_crl = 'crl.pem'")
        + listener("tls = true", address="127.0.0.1:2")
        + listener("path = '/mqtt'\nclient_ca = 'ca.pem'", name="y", address="unix:rel.sock")
        + listener("", name="x", address="unix:")
        + listener("", name="z", address="127.0.0.1:2")
        + listener("", name="z", address="unix:/z.sock")
    )
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert sorted(fault.key for fault in caught.value.faults) == [
        "mqtt.listeners",
        "mqtt.listeners[1].address",
        "mqtt.listeners[1].client_ca",
        "mqtt.listeners[1].client_crl",
        "mqtt.listeners[3]",
        "mqtt.listeners[4].address",
        "tls.certificate",
        "tls.certificates[1].certificate",
        "tls.certificates[1].private_key",
        "tls.private_key",
    ]
    told = str(caught.value)
    for part in (
        "listen.mqtt is 127.0.0.1:1 already",
        "two listeners are called 'x'; two listeners have the address 127.0.0.1:2; give each one of its own; "
        "two listeners are called 'z'",
        'need client_certificates = "optional" or "required"; path and origins are for',
        "unix: names no file",
        "cannot read ca.pem",
    ):
        assert part in told


def test_all_that_is_wrong_between_users_and_between_links_is_said(tmp_path: Path) -> None:
    users = "".join("[[login.users]]\nname = 'a'\ncertificates = ['cn:x']\n" for _ in "12")
    links = "".join(
        "[[links]]\nname = 'l'\nkind = 'mqtt'\naddress = 'mqtt://h:1'\n[[links.pull]]\nfilter = 'a'\n" for _ in "123"
    )
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, users + links)
    told = str(caught.value)
    assert "two users are called 'a'; give one user both the password and the tokens; a certificate of 'a'" in told
    assert told.count("two links are called 'l'") == 2
