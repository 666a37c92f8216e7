"""What can be configured about one MQTT listener."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dragoman.adapters.serving.sockets import OFF, address_problem, parse_address
from dragoman.adapters.serving.unix_sockets import PREFIX, path_problem, unix_path
from dragoman.broker.redirects import reference_problem
from dragoman.broker.settings_key import key, required
from dragoman.routing.addresses import is_loopback

if TYPE_CHECKING:
    import ssl

    from dragoman.adapters.serving.settings import TlsSettings

VERSIONS: Final[Mapping[str, int]] = MappingProxyType({"3.1": 3, "3.1.1": 4, "5.0": 5})
"""As people call them → as a session knows them."""

TAKEN_NAMES: Final = ("mqtt", "mqtts", "kafka", "kafkas", "http", "https", "pid")
"""What the ready file says already."""

_AS_MESH: Final = "here; none = as the key of this name in [mqtt] says"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def _name_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if value in TAKEN_NAMES:
        return f"{value!r} is what [listen] and the ready file call something else; choose another name"
    if not _NAME.fullmatch(value):
        return f"{value!r} is no name for a listener: up to 32 of a-z, 0-9, '-' and '_'"
    return None


def _address_problem(value: object) -> str | None:
    assert isinstance(value, str)
    path = unix_path(value)
    if path is not None:
        return path_problem(path)
    if value == OFF:
        return f"leave the listener out instead of switching it {OFF}"
    return address_problem(value)


def _path_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if value and (not value.startswith("/") or not value.isprintable() or any(sign in value for sign in " ?#")):
        return f"{value!r} is no path: it begins with '/' and has neither spaces, '?' nor '#'"
    return None


def _mode_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not re.fullmatch(r"0?[0-7]{3}", value):
        return f"{value!r} is no mode: three octal digits, such as 600 (the mesh's user) or 660 (its group too)"
    return None


def _networks_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    for text in value:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            return f"{text!r} is neither an address nor a network such as 10.0.0.0/8"
    return None


def redirect_problem(value: object) -> str | None:
    """Why clients cannot be sent there; nobody is where there is nothing."""
    assert value is None or isinstance(value, str)
    return reference_problem(value) if value else None


def _versions_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    unknown = [text for text in value if text not in VERSIONS]
    if unknown:
        return f"{unknown[0]!r} is no version of MQTT; there are {', '.join(VERSIONS)}"
    return None if value else "a listener that speaks no version is of no use"


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """A further MQTT listener. ``mqtt`` and ``mqtts`` of [listen] are two such, with every default but the address."""

    name: str = required(
        example="plant", why="what the ready file and the administration call it; unique", check=_name_problem
    )
    address: str = required(
        example="0.0.0.0:8884",
        why=f"HOST:PORT, port 0 = any free one; or {PREFIX}/path/to.sock",
        check=_address_problem,
    )
    transport: str = key(
        "tcp", choices=("tcp", "websocket"), why="websocket: MQTT in frames (§6), on a port of its own"
    )
    tls: bool = key(False, why="with the certificates of [tls]")
    certificate: str = key(
        "",
        unit="path",
        why="PEM file, shown here for the first of [tls]; empty = that one",
        peers="mosquitto: certfile",
        live=True,
    )
    private_key: str = key("", unit="path", why="PEM file of its key, not encrypted", live=True)
    versions: tuple[str, ...] = key(
        tuple(VERSIONS), why="others are told so in their CONNACK", check=_versions_problem, live=True
    )
    anonymous: str = key(
        "inherit",
        choices=("inherit", "loopback", "always", "never"),
        why="who needs no credentials here; inherit = as login.anonymous says",
        live=True,
    )
    connections_max: int = key(
        0,
        unit="connections",
        low=0,
        why="of this listener; more are told 0x89 (3.1.1: 3), at most 64 at a time, or else closed at once; 0 = only "
        "limits.connections_max",
        live=True,
    )
    qos_max: int | None = key(None, unit="QoS", low=0, high=2, why=_AS_MESH, live=True)
    retain_available: bool | None = key(None, why=_AS_MESH, live=True)
    shared_subscriptions: bool | None = key(None, why=_AS_MESH, live=True)
    wildcard_subscriptions: bool | None = key(None, why=_AS_MESH, live=True)
    subscription_identifiers: bool | None = key(None, why=_AS_MESH, live=True)
    redirect_to: str | None = key(
        None,
        why="clients of this listener are told to go there; empty = nobody is, none = as mqtt.redirect_to says",
        check=redirect_problem,
        live=True,
    )
    redirect_permanent: bool = key(
        False, why="whether that is for good: 0x9D (server moved) for 0x9C (use another)", live=True
    )
    connect_time_max_s: int | None = key(None, unit="s", low=0, why=_AS_MESH, live=True)
    client_certificates: str = key(
        "off",
        choices=("off", "optional", "required"),
        why="whether clients show one: in TLS, or (with proxy_protocol and no TLS here) to the relay, which says so",
        live=True,
    )
    client_ca: str = key("", unit="path", why="PEM file of who signs the clients' certificates", live=True)
    client_crl: str = key(
        "",
        unit="path",
        why="PEM file of those of its certificates that were taken back, read at the start and at each reload; out "
        "of date, it lets nobody in",
        peers="mosquitto: crlfile",
        live=True,
    )
    identity: str = key(
        "cn",
        choices=("cn", "san", "none"),
        why="which of the certificate's names says who the client is, whatever CONNECT says: the common name, the "
        "alternative names in their order, or none (then CONNECT does)",
        peers="mosquitto: use_identity_as_username",
        live=True,
    )
    certificate_users: str = key(
        "listed",
        choices=("listed", "any"),
        why="listed: the name must be a user's or among a user's certificates; any: whoever the CA vouches for "
        "is a user of that name, without groups",
        live=True,
    )
    proxy_protocol: bool = key(
        False, why="every connection begins with a PROXY header (version 1 or 2), and is from where that says"
    )
    proxy_trusted: tuple[str, ...] = key(
        ("127.0.0.0/8", "::1/128"),
        why="addresses and networks of the relays; others are turned away. Of a Unix socket, its mode says",
        check=_networks_problem,
        live=True,
    )
    path: str = key("", why="the WebSocket's path, such as /mqtt; empty = any", check=_path_problem, live=True)
    origins: tuple[str, ...] = key(
        (),
        why="web origins such as https://app.example whose pages may connect by WebSocket; '*' = every page",
        live=True,
    )
    socket_mode: str = key("600", why="permissions of a Unix socket's file, octal", check=_mode_problem)

    def __post_init__(self) -> None:
        """What only makes sense together."""
        said = [self._certificates_problem()]
        if bool(self.certificate) != bool(self.private_key):
            said.append("certificate and private_key come together: give both or neither")
        elif self.certificate and not self.tls:
            said.append("certificate and private_key are shown in TLS: say tls = true")
        if self.transport == "tcp" and (self.path or self.origins):
            said.append('path and origins are for transport = "websocket"')
        problem = "; ".join(filter(None, said))
        if problem:
            raise ValueError(problem)

    def _certificates_problem(self) -> str | None:
        if self.client_certificates == "off":
            given = self.client_ca or self.client_crl
            return 'client_ca and client_crl need client_certificates = "optional" or "required"' if given else None
        if self.tls:
            return None if self.client_ca else "client_certificates needs client_ca, the file of who signs them"
        if not self.proxy_protocol:
            return "client_certificates needs tls = true, or a relay with TLS and proxy_protocol = true"
        if self.client_ca or self.client_crl:
            return "client_ca and client_crl are of no use without TLS here: the relay has checked the certificate"
        if self.identity == "san":
            return 'a relay tells the common name alone; write identity = "cn"'
        return None

    @property
    def unix(self) -> str | None:
        """The path of its Unix socket; None if it has an address."""
        return unix_path(self.address)

    @property
    def relays(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network] | None:
        """Who must introduce its clients; None: nobody does."""
        return [ipaddress.ip_network(text) for text in self.proxy_trusted] if self.proxy_protocol else None

    @property
    def exposed(self) -> bool:
        """Whether other machines may reach it."""
        if self.unix is not None:
            return False
        address = parse_address(self.address)
        return address is not None and address.host != "localhost" and not is_loopback(address.host)

    def url(self, address: str) -> str:
        """What clients may call it by, once it listens at ``address``."""
        scheme = "ws" if self.transport == "websocket" else "mqtt"
        return address if self.unix is not None else f"{scheme}{'s' * self.tls}://{address}{self.path}"

    def context(self, tls: TlsSettings) -> ssl.SSLContext:
        """How it is encrypted, where ``tls`` is what all listeners have in common. Raises TlsError."""
        required = self.client_certificates == "required"
        shown = tls.with_first(self.certificate, self.private_key)
        return shown.context(client_ca=self.client_ca, client_crl=self.client_crl, required=required)

    def speaks(self, version: int) -> bool:
        """Whether it takes clients of this version, as sessions number them."""
        return any(VERSIONS[text] == version for text in self.versions)

    @property
    def about(self) -> str:
        """What is special, in a few words for the operator."""
        words = [self.transport, *["tls"] * self.tls, *["PROXY"] * self.proxy_protocol]
        if self.client_certificates != "off":
            words.append(f"certificates {self.client_certificates}")
        return ", ".join(words)


def listeners_problem(value: object) -> str | None:
    """What is wrong with all of them together."""
    assert isinstance(value, tuple)
    said: list[str] = []
    names: set[str] = set()
    addresses: set[str] = set()
    for listener in value:
        assert isinstance(listener, ListenerSettings)
        if listener.name in names:
            said.append(f"two listeners are called {listener.name!r}")
        if listener.address in addresses and not listener.address.endswith(":0"):
            said.append(f"two listeners have the address {listener.address}; give each one of its own")
        names.add(listener.name)
        addresses.add(listener.address)
    return "; ".join(said) or None
