"""The configuration of one mesh: the settings of every package, composed. The one place that knows them all.

``Config()`` is what runs with no configuration. ``load`` reads a TOML file and what the command line
says, and either gives a ``Config`` that knows where each value came from, or explains everything
that is wrong at once.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from dragoman.adapters.a2a.settings import A2aSettings
from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.kafka.settings import KafkaSettings
from dragoman.adapters.links.settings import LinkSettings, links_problem
from dragoman.adapters.mcp.settings import McpSettings
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.settings import LISTENERS, LimitSettings, ListenSettings, LoginSettings, TlsSettings
from dragoman.broker.gate_settings import GateSettings, RateSettings, RuleSettings
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.principal import ANONYMOUS, EMBEDDED
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.settings_groups import GroupSettings
from dragoman.broker.settings_key import About, key
from dragoman.config_reader import DEFAULT, Fault, Reader, entries, places, row_kind, tables

MEMORY: Final = ":memory:"
"""The data directory that is none: nothing survives the process."""

FILE_BYTES_MAX: Final = 16 << 20
"""A configuration is read whole; larger than this it is surely some other file."""

_DATA: Final = "./dragoman-data"


class Source(NamedTuple):
    """What a configuration was read from, to read it again."""

    file: Path | None
    flags: tuple[Flag, ...]


class ConfigError(Exception):
    """A configuration that cannot be used, with everything that is wrong in it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def _data_problem(value: object) -> str | None:
    return None if value else f"an empty path names no directory; write {_DATA} or {MEMORY}"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. ``origins``: dotted key → "default", "file:line" or the flag that set it.

    ``source``: what ``load`` has read; None if it was made otherwise.
    """

    data: str = key(
        _DATA,
        unit="path",
        why=f"where everything is kept, relative to where the mesh is started; {MEMORY} keeps nothing",
        check=_data_problem,
    )
    grace_s: float = key(
        10.0,
        unit="s",
        low=0,
        why="how long a stop may take to finish what is under way; below systemd's and Docker's 10 to 90 s",
    )
    links: tuple[LinkSettings, ...] = key(
        (), why="connections that the mesh itself opens to outside brokers", check=links_problem
    )
    listen: ListenSettings = dataclasses.field(default_factory=ListenSettings)
    tls: TlsSettings = dataclasses.field(default_factory=TlsSettings)
    login: LoginSettings = dataclasses.field(default_factory=LoginSettings)
    limits: LimitSettings = dataclasses.field(default_factory=LimitSettings)
    gate: GateSettings = dataclasses.field(default_factory=GateSettings)
    broker: BrokerSettings = dataclasses.field(default_factory=BrokerSettings)
    agents: AgentSettings = dataclasses.field(default_factory=AgentSettings)
    groups: GroupSettings = dataclasses.field(default_factory=GroupSettings)
    log: LogSettings = dataclasses.field(default_factory=lambda: LogSettings(Path(_DATA)))
    mqtt: MqttSettings = dataclasses.field(default_factory=MqttSettings)
    kafka: KafkaSettings = dataclasses.field(default_factory=KafkaSettings)
    http: HttpSettings = dataclasses.field(default_factory=HttpSettings)
    mcp: McpSettings = dataclasses.field(default_factory=McpSettings)
    a2a: A2aSettings = dataclasses.field(default_factory=A2aSettings)
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    source: Source | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        """``data`` decides where the log lives."""
        object.__setattr__(self, "log", dataclasses.replace(self.log, folder=Path(self.data)))

    @classmethod
    def embedded(cls, data: str = MEMORY) -> Config:
        """What suits a mesh inside another program: no listener, and nothing on disk unless ``data`` names a folder."""
        return cls(data=data, listen=ListenSettings(mqtt="off", kafka="off", http="off"))

    @property
    def durable(self) -> bool:
        """Whether anything is kept on disk."""
        return self.data != MEMORY


class Flag(NamedTuple):
    """What the command line says about one key: ``Flag("listen.mqtt", "off", "--mqtt")``."""

    key: str
    value: str
    name: str


def load(file: Path | None = None, flags: tuple[Flag, ...] = ()) -> Config:
    """The configuration of a file and the flags, which win. Raises ConfigError with everything that is wrong."""
    document: dict[str, object] = {}
    known: dict[str, str] = {}
    if file is not None:
        text = _text(file)
        known = places(text, str(file))
        try:
            document = tomllib.loads(text)
        except RecursionError:
            raise ConfigError([Fault(str(file), "", "this is not TOML: nested too deeply")]) from None
        except ValueError as error:  # TOMLDecodeError is one; Python's bound on the digits of a number is not
            raise ConfigError([Fault(str(file), "", f"this is not TOML: {error}")]) from None
    for flag in flags:
        _set(document, flag.key, flag.value)
        known[flag.key] = flag.name
    reader = Reader(Config, known, str(file or "command line"))
    config = reader.table(Config, document, base=Config())
    listen, tls = reader.made.get("listen"), reader.made.get("tls")
    if isinstance(listen, ListenSettings) and isinstance(tls, TlsSettings) and listen.tls and not tls.certificate:
        reader.fault("listen", "mqtts, kafkas and https need tls.certificate and tls.private_key")
    # Though another row or key of [mqtt] be wrong: whoever mends the file wants to know it all.
    listeners = {table: row for table, row in reader.made.items() if isinstance(row, ListenerSettings)}
    if isinstance(listen, ListenSettings):
        _check_addresses(reader, listeners, listen)
    if isinstance(tls, TlsSettings):
        _check_tls(reader, listeners, tls, every=isinstance(listen, ListenSettings) and listen.tls)
    if config is None or reader.faults:
        raise ConfigError(sorted(reader.faults, key=_line))
    return dataclasses.replace(config, origins=reader.origins, source=Source(file, flags))


def _check_addresses(reader: Reader, listeners: Mapping[str, ListenerSettings], listen: ListenSettings) -> None:
    taken = {getattr(listen, name): name for name in LISTENERS}
    for table, listener in listeners.items():
        if listener.address in taken and not listener.address.endswith(":0"):
            reader.fault(f"{table}.address", f"listen.{taken[listener.address]} is {listener.address} already")


def _check_tls(reader: Reader, listeners: Mapping[str, ListenerSettings], tls: TlsSettings, *, every: bool) -> None:
    """Opens what TLS listeners are going to: found here, it is found before anything listens, and has its line.

    ``every``: whether listeners of [listen] are among them.
    """
    wanted = {"": ("", "", "", "")} if every else {}
    for table, listener in listeners.items():
        if listener.tls:
            files = (listener.certificate, listener.private_key, listener.client_ca, listener.client_crl)
            wanted[table] = files
            if not (listener.certificate or tls.certificate):
                reader.fault(f"{table}.tls", "needs tls.certificate and tls.private_key")
    said: set[str] = set()
    for table, (certificate, private_key, *clients) in wanted.items():
        for file, text in tls.with_first(certificate, private_key).faults(*clients):
            own = file.startswith("client_") or (certificate and not file.startswith("certificates["))
            place = f"{table if own else 'tls'}.{file}"
            if place not in said:
                said.add(place)
                reader.fault(place, text)


def _line(fault: Fault) -> int:
    line = fault.place.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(
                [Fault(str(file), "", f"larger than {FILE_BYTES_MAX >> 20} MiB: surely not a configuration")]
            )
        return content.decode("utf-8-sig")  # some editors begin every file with a byte order mark
    except OSError as error:
        raise ConfigError([Fault(str(file), "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(file), "", f"is not UTF-8 at byte {error.start}, and TOML has to be")]) from None


def _set(document: dict[str, object], dotted: str, value: str) -> None:
    *names, last = dotted.split(".")
    table = document
    for name in names:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            return  # the reader explains that this should be a table
        table = inner
    table[last] = value


class Setting(NamedTuple):
    """One value in force, as it may be shown: secrets are stars."""

    key: str
    value: object
    origin: str
    about: About


def in_force(config: Config) -> Iterator[Setting]:
    """Every value with its origin, in the order of ``configs/full.toml``; JSON-ready."""
    yield from _settings_of(config, "", config.origins)


def _settings_of(table: object, path: str, origins: Mapping[str, str]) -> Iterator[Setting]:
    for entry in entries(type(table)):
        dotted = path + entry.name
        value = getattr(table, entry.name)
        if row_kind(entry.hint) is not None:
            value = [{s.key: s.value for s in _settings_of(row, "", {})} for row in value]
        elif entry.about.secret and value:
            value = "***"
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Path):
            value = str(value)
        yield Setting(dotted, value, origins.get(dotted, DEFAULT), entry.about)
    for name, _ in tables(type(table)):
        yield from _settings_of(getattr(table, name), f"{path}{name}.", origins)


def advice(config: Config) -> list[str]:
    """What is allowed but probably not meant, each in a sentence. For the eyes of whoever starts the mesh."""
    said: list[str] = []
    exposed, exposed_tls = config.listen.exposed()
    open_to_all = config.login.anonymous == "always"
    for listener in config.mqtt.listeners:
        if listener.exposed:
            (exposed_tls if listener.tls else exposed).append(listener.address)
        if listener.exposed and listener.anonymous == "always" and not open_to_all:
            said.append(f"whoever reaches {listener.address} comes in without credentials ({listener.name})")
    everywhere = " and ".join(exposed + exposed_tls)
    if everywhere and open_to_all:
        said.append(f'whoever reaches {everywhere} comes in without credentials (login.anonymous = "always")')
    elif everywhere and not config.login.users:
        said.append(
            f"{everywhere} can be reached from other machines, but nobody there can log in: add [[login.users]]"
        )
    if exposed and config.login.users:
        said.append(
            f"passwords and tokens cross the network in the clear on {' and '.join(exposed)}; "
            "mqtts, kafkas and https do not"
        )
    if config.login.users and not any(user.admin for user in config.login.users):
        said.append("no user has admin = true, so nobody can use /v1/admin, `dragoman backup` among it")
    said.extend(_unknown_names(config))
    if not config.durable:
        said.append("nothing is kept on disk: whatever is not delivered is gone with the process")
    return said


def _unknown_names(config: Config) -> list[str]:
    """Names in the gate's rules and rates that nobody can ever have: a rule that never speaks is mostly a typing error.

    Not an error, since a rule may outlive its user. Agents are not principals, and certificates make their name one
    only where a listener takes any.
    """
    if any(listener.certificate_users == "any" for listener in config.mqtt.listeners):
        known: set[str] | None = None
    else:
        known = {"*", ANONYMOUS.name, EMBEDDED.name, *(user.name for user in config.login.users)}
        known.update(f"link:{link.name}" for link in config.links)
    groups = {f"@{group}" for user in config.login.users for group in user.groups}
    groups.update("@links" for _ in config.links)
    said: list[str] = []
    rules: list[tuple[str, Sequence[RuleSettings | RateSettings]]] = [
        ("rules", config.gate.rules),
        ("rates", config.gate.rates),
    ]
    for table, rows in rules:
        for number, row in enumerate(rows, start=1):
            for word in row.who:
                if word.startswith("@") and word not in groups:
                    said.append(f"gate.{table}[{number}] speaks of {word}, but no user is in such a group")
                elif not word.startswith("@") and known is not None and word not in known:
                    said.append(f"gate.{table}[{number}] speaks of {word!r}, but no user has that name")
    return said
