"""What can be configured about listening, TLS, logging in and connection limits, for every protocol at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dragoman.adapters.serving.certificates import KINDS, reserved
from dragoman.adapters.serving.credentials import digest_problem, password_problem
from dragoman.adapters.serving.host_names import host_problem
from dragoman.adapters.serving.saslprep import saslprep
from dragoman.adapters.serving.scram import verifier_problem
from dragoman.adapters.serving.sockets import OFF, address_problem, parse_address
from dragoman.broker.settings_key import key, required
from dragoman.routing.addresses import is_loopback

if TYPE_CHECKING:
    import ssl

ENCRYPTED = ("mqtts", "kafkas", "https")
LISTENERS = ("mqtt", "mqtts", "kafka", "kafkas", "http", "https")


def _address_problem(value: object) -> str | None:
    assert isinstance(value, str)
    return address_problem(value)


def _password_problem(value: object) -> str | None:
    assert isinstance(value, str)
    return password_problem(value) if value else None


def _scram_problem(value: object) -> str | None:
    assert isinstance(value, str)
    return verifier_problem(value) if value else None


def _tokens_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    return next((problem for text in value if (problem := digest_problem(text)) is not None), None)


def _name_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not value or reserved(value):
        return (
            f"{value!r} cannot be a user's name: it is empty, means something else, or begins with '@' like a group, "
            "with '$' or with 'link:'"
        )
    return None


def _certificates_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    for text in value:
        kind, _, name = text.partition(":")
        if kind not in KINDS or not name:
            kinds = ", ".join(f"{kind}:" for kind in KINDS)
            return f"{text!r} does not say which of a certificate's names it is; it begins with one of {kinds}"
    return None


def _hosts_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    return next((problem for host in value if (problem := host_problem(host)) is not None), None)


def _prepared(name: str) -> bool:
    try:
        return saslprep(name) == name
    except ValueError:
        return False


def _users_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    said: list[str] = []
    names: set[str] = set()
    digests: set[str] = set()
    certificates: set[str] = set()
    for user in value:
        assert isinstance(user, UserSettings)
        if user.name in names:
            said.append(f"two users are called {user.name!r}; give one user both the password and the tokens")
        if not (user.password or user.scram or user.tokens or user.certificates):
            said.append(f"user {user.name!r} has neither password nor tokens nor certificates, so nobody could be it")
        if user.scram and not _prepared(user.name):
            said.append(f"user {user.name!r} could not log in by SCRAM: it is not as SASLprep would have it (RFC 4013)")
        if not digests.isdisjoint(user.tokens) or len(set(user.tokens)) < len(user.tokens):
            said.append(f"a token of {user.name!r} is listed twice; each token means one user")
        if not certificates.isdisjoint(user.certificates):
            said.append(f"a certificate of {user.name!r} is another user's too; each means one user")
        names.add(user.name)
        certificates.update(user.certificates)
        digests.update(user.tokens)
    return "; ".join(said) or None


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where each protocol listens. HOST:PORT, port 0 = any free one, or "off"."""

    mqtt: str = key("127.0.0.1:1883", why="only this machine until you decide otherwise", check=_address_problem)
    mqtts: str = key("off", why="MQTT over TLS, usually port 8883; needs [tls]", check=_address_problem)
    kafka: str = key("127.0.0.1:9092", why="only this machine until you decide otherwise", check=_address_problem)
    kafkas: str = key("off", why="Kafka over TLS, usually port 9093; needs [tls]", check=_address_problem)
    http: str = key("127.0.0.1:8080", why="HTTP, MCP and the administration; only this machine", check=_address_problem)
    https: str = key("off", why="the same over TLS, usually port 8443; needs [tls]", check=_address_problem)

    def __post_init__(self) -> None:
        """Two cannot have one port; found here, the sentence can name both."""
        taken: dict[str, str] = {}
        for name in LISTENERS:
            text: str = getattr(self, name)
            if text == OFF or text.endswith(":0"):
                continue
            if text in taken:
                raise ValueError(f"{taken[text]} and {name} are both {text}; give each a port of its own")
            taken[text] = name

    @property
    def tls(self) -> bool:
        """Whether any listener speaks TLS."""
        return any(getattr(self, name) != OFF for name in ENCRYPTED)

    def exposed(self) -> tuple[list[str], list[str]]:
        """The addresses that other machines may reach: those in the clear, and those with TLS."""
        return (
            [getattr(self, name) for name in LISTENERS if name not in ENCRYPTED and _exposed(getattr(self, name))],
            [getattr(self, name) for name in ENCRYPTED if _exposed(getattr(self, name))],
        )


def _exposed(text: str) -> bool:
    address = parse_address(text)
    return address is not None and address.host != "localhost" and not is_loopback(address.host)


@dataclass(frozen=True, slots=True)
class CertificateSettings:
    """A further certificate, for the host names that clients ask for (SNI)."""

    certificate: str = required(
        example="b.pem", unit="path", why="PEM file, the server's certificate first, then the chain"
    )
    private_key: str = required(example="b.key", unit="path", why="PEM file, not encrypted")
    hosts: tuple[str, ...] = key(
        (),
        why="host names it is shown for, such as 'b.example' or '*.b.example'; none = the DNS names that it holds",
        check=_hosts_problem,
        peers="nginx: server_name",
    )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The certificate shown on TLS listeners."""

    certificate: str = key("", unit="path", why="PEM file, the server's certificate first, then the chain", live=True)
    private_key: str = key("", unit="path", why="PEM file, not encrypted; readable by the mesh's user only", live=True)
    minimum: str = key(
        "1.2", choices=("1.2", "1.3"), why="older ones are broken; 1.2 is what many devices still speak", live=True
    )
    unknown_host: str = key(
        "first",
        choices=("first", "refuse"),
        why="what a client gets that asks for a host no certificate is for: the first one, or no handshake; "
        "one that names no host gets the first",
        peers="HAProxy: strict-sni",
        live=True,
    )
    certificates: tuple[CertificateSettings, ...] = key(
        (),
        why="shown instead of the first on every TLS listener, to clients that ask for one of their host names",
        live=True,
    )

    def __post_init__(self) -> None:
        """One without the other could never work."""
        if bool(self.certificate) != bool(self.private_key):
            raise ValueError("certificate and private_key come together: give both or neither")

    def with_first(self, certificate: str, private_key: str) -> TlsSettings:
        """The same with a listener's own certificate for the first, if it has one."""
        return replace(self, certificate=certificate, private_key=private_key) if certificate else self

    def context(self, *, client_ca: str = "", client_crl: str = "", required: bool = False) -> ssl.SSLContext:
        """A listener's (``tls.server_context``). Raises TlsError."""
        # TLS costs a start 10 ms that most need not pay.
        from dragoman.adapters.serving.tls import server_context

        return server_context(self, client_ca=client_ca, client_crl=client_crl, required=required)

    def faults(self, client_ca: str = "", client_crl: str = "") -> list[tuple[str, str]]:
        """Opens the files as a listener will: for each that does not serve its key and a sentence."""
        from dragoman.adapters.serving.tls import file_faults

        return [(error.key, str(error)) for error in file_faults(self, client_ca=client_ca, client_crl=client_crl)]


@dataclass(frozen=True, slots=True)
class UserSettings:
    """A principal that can log in, by password, by bearer token, or either."""

    name: str = required(example="ann", why="the principal; unique", check=_name_problem)
    password: str = key(
        "", why="as printed by `dragoman password`; empty = no password", check=_password_problem, secret=True
    )
    tokens: tuple[str, ...] = key(
        (),
        why="digests as printed by `dragoman token`; a token also works as the user's MQTT password",
        check=_tokens_problem,
        secret=True,
    )
    groups: tuple[str, ...] = key((), why="names that gate rules may speak of, as '@name'")
    agents: tuple[str, ...] = key((), why="agent ids reserved for this user, besides those it is first to use")
    admin: bool = key(False, why="whether it may use /v1/admin")
    scram: str = key(
        "",
        why="as printed by `dragoman password --scram`: MQTT 5 and Kafka clients prove their password unsaid",
        check=_scram_problem,
        secret=True,
    )
    certificates: tuple[str, ...] = key(
        (),
        why="names of client certificates that are this user's: 'cn:NAME', 'dns:NAME', 'email:NAME', 'uri:NAME', "
        "'ip:ADDRESS'; for MQTT listeners with client_certificates",
        check=_certificates_problem,
    )


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """Who may come in. With no users at all, whoever is on this machine is trusted, also to administer."""

    anonymous: str = key(
        "loopback",
        choices=("loopback", "always", "never"),
        why="who needs no credentials; a proxy on this machine makes everybody look local: then choose never",
        peers="mosquitto 2: loopback until configured; EMQX: always",
        live=True,
    )
    hash_threads: int = key(2, unit="threads", low=1, high=64, why="a password takes about 30 ms and 16 MiB to check")
    waiting_max: int = key(256, unit="logins", low=1, why="waiting for a check; more are told to come back", live=True)
    remembered_max: int = key(
        10_000,
        unit="passwords",
        low=1,
        why="checked ones, as keyed digests, so that reconnecting costs nothing",
        live=True,
    )
    users: tuple[UserSettings, ...] = key((), why="who can log in", check=_users_problem, live=True)


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one machine may take of ours before anybody has said who they are."""

    connections_max: int = key(
        100_000, unit="connections", low=1, why="all protocols; a connection takes about 11 KB", live=True
    )
    connections_per_address_max: int = key(
        10_000,
        unit="connections",
        low=1,
        why="per IPv4 address or IPv6 /64; not applied to this machine itself",
        live=True,
    )
    connections_per_s: int = key(
        0,
        unit="connections per second",
        low=0,
        why="accepted, all protocols; more are closed at once; as many may come at once; 0 = no limit",
        live=True,
    )
    connections_per_address_per_s: int = key(
        0,
        unit="connections per second",
        low=0,
        why="per IPv4 address or IPv6 /64; not applied to this machine itself; 0 = no limit",
        live=True,
    )
    connect_deadline_s: float = key(
        10.0,
        unit="s",
        low=1,
        why="from the connection to a complete login",
        peers="EMQX 15 s, mosquitto 30 s",
        live=True,
    )
    backlog: int = key(1_024, unit="connections", low=1, high=65_535, why="not yet accepted; the system may cap it")
