from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dragoman.adapters.http.routes import DEFINITIONS
from dragoman.adapters.serving.credentials import hash_password, new_token, scram_verifier
from dragoman.adapters.serving.settings import ListenSettings, LoginSettings, UserSettings
from dragoman.config import MEMORY, Config, ConfigError, Flag, advice, in_force, load

HASH = hash_password(b"secret")
SCRAM = scram_verifier(b"secret")
_, DIGEST = new_token()


def faults(tmp_path: Path, text: str, *flags: Flag) -> list[str]:
    """What is wrong with a configuration, as ``line key: sentence``."""
    file = tmp_path / "mesh.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, flags)
    return [str(fault).removeprefix(f"{file}:").removeprefix(f"{file}") for fault in caught.value.faults]


def read(tmp_path: Path, text: str, *flags: Flag) -> Config:
    file = tmp_path / "mesh.toml"
    file.write_text(text)
    return load(file, flags)


def test_nothing_has_to_be_configured(tmp_path: Path) -> None:
    assert load() == Config()
    assert read(tmp_path, "") == Config()
    assert set(load().origins.values()) == {"default"}


def test_every_error_is_explained_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
datta = "x"
grace_s = "ten"
burst = 5
[listen]
mqtt = "1883"
https = "0.0.0.0:8443"
[login]
anonymous = "yes"
[[login.users]]
name = "ann"
[[login.users]]
pasword = "scrypt"
[gate]
messages_per_s = -1
[[gate.rules]]
effect = "permit"
filters = ["a/#/b"]
actions = ["subscibe"]
[broker]
node = 1.5
sweep_ms = true
[mqqt]
[http]
web = 3
"""
    found = faults(tmp_path, text)
    expected = [
        "1: datta: there is no such key; did you mean data?",
        'grace_s: must be a number (s), 0 or more, not the text "ten"',
        "3: burst: there is no such key; did you mean gate.burst?",
        "5: listen.mqtt: '1883' has no port",
        "7: login.users: user 'ann' has neither password nor tokens",
        '8: login.anonymous: must be one of "loopback", "always", "never", not the text "yes"',
        "11: login.users[2]: 'name' is missing",
        "12: login.users[2].pasword: there is no such key; did you mean login.users[2].password?",
        "14: gate.messages_per_s: must be a whole number (messages per second), 0 or more, not -1",
        '16: gate.rules[1].effect: must be one of "allow", "deny", not the text "permit"',
        "17: gate.rules[1].filters: in 'a/#/b' '#' stands before the end",
        "18: gate.rules[1].actions: ['subscibe'] is no action",
        "20: broker.node: must be a whole number from 0 to 65535, not 1.5",
        "21: broker.sweep_ms: must be a whole number (ms), 10 or more, not true",
        "22: mqqt: there is no such key; did you mean mqtt?",
        "24: http.web: must be a table, [http.web], not 3",
    ]
    assert len(found) == len(expected), "\n".join(found)
    for line, sentence in zip(found, expected, strict=True):
        assert sentence in line


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[gate]\nburst = true", "gate.burst: must be a whole number (messages), 1 or more, not true"),
        ("[gate]\nburst = 1.0", "not 1.0"),
        ("grace_s = nan", "grace_s: must be a number"),
        ("grace_s = inf", "grace_s: must be a number"),
        ("data = 3", "data: must be a text in quotes, not 3"),
        ("data = ''", "names no directory"),
        ("listen = 3", "listen: must be a table, [listen], not 3"),
        ("[broker]\nnode = 65536", "from 0 to 65535, not 65536"),
        ("[[gate]]\nburst = 1", "gate: must be a table"),
        ("[gate]\nrules = 3", "must be an array of tables, [[gate.rules]], not 3"),
        ("[gate]\nrules = [1]", "must be an array of tables, [[gate.rules]]"),
        ('[http.web]\nhosts = "a"', "http.web.hosts: must be an array of texts in [ ]"),
        ("[http.web]\nhosts = ['a', 3]", "must be an array of texts; 3 in it is none"),
        ("[tls]\ncertificate = 'x'", "tls: certificate and private_key come together"),
        ("[listen]\nmqtts = '127.0.0.1:8883'", "listen: mqtts, kafkas and https need tls.certificate"),
        ("[login]\nlogn = 1\n[listen]\nhttps = '127.0.0.1:1'", "listen: mqtts, kafkas and https need tls.certificate"),
        ("x = [", "this is not TOML"),
        ("x = " + "[" * 5_000, "this is not TOML: nested too deeply"),
        ("[gate]\nburst = " + "9" * 5_000, "this is not TOML: Exceeds the limit"),
        ("[gate]\nburst = 9223372036854775808", "gate.burst: must be a whole number (messages), 1 or more"),
        ("grace_s = 1" + "0" * 400, "grace_s: must be a number (s), 0 or more"),
        ('data = "a\\u0000b"', "data: must be a text in quotes without NUL characters"),
        ("[http.web]\nhosts = ['a', \"\\u0000\"]", "http.web.hosts: must be an array of texts"),
        ("[limits]\nbacklog = 70000", "limits.backlog: must be a whole number (connections) from 1 to 65535"),
        ('[mcp]\npath = "mcp"', "mcp.path: 'mcp' is no path; one is like /mcp"),
        ('[mcp]\npath = "/a/{b"', "is no path"),
        ('[mcp]\npath = "/a/"', "is no path"),
        ('[mcp]\nmqtt_name = "plant/+"', "is no name; one is like plant/mesh"),
        ('[mcp]\nmqtt_name = "/mesh"', "is no name"),
        ('[mcp]\npath = "/v1/mcp"', "is taken by HTTP"),
        ('[mcp]\npath = "/healthz"', "is taken by HTTP"),
        ("[mcp]\nrequests_max = 1", "mcp: requests_per_principal_max is 256, more than requests_max, 1"),
        ("[groups]\nlease_max_ms = 1", "groups: lease_ms is 30000, more than lease_max_ms, 1"),
        (
            "[listen]\nmqtt = '127.0.0.1:1'\nhttp = '127.0.0.1:1'",
            "listen: mqtt and http are both 127.0.0.1:1; give each a port of its own",
        ),
        ("x = 1\nx = 2", "this is not TOML"),
        ("[nonsense]", "there is no such key; known here: data, grace_s, links, listen"),
    ],
)
def test_a_wrong_value_is_explained(tmp_path: Path, text: str, sentence: str) -> None:
    assert any(sentence in fault for fault in faults(tmp_path, text))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("ann", HASH, []), ("ann", "", [DIGEST])], "two users are called 'ann'"),
        ([("ann", "", [])], "neither password nor tokens"),
        ([("ann", "", [DIGEST]), ("bob", "", [DIGEST])], "a token of 'bob' is listed twice"),
        ([("ann", "", [DIGEST, DIGEST])], "listed twice"),
        ([("anonymous", HASH, [])], "cannot be a user's name"),
        ([("@ops", HASH, [])], "cannot be a user's name"),
        ([("*", HASH, [])], "cannot be a user's name"),
        ([("", HASH, [])], "cannot be a user's name"),
    ],
)
def test_users_that_cannot_be_are_explained(
    tmp_path: Path, rows: list[tuple[str, str, list[str]]], sentence: str
) -> None:
    text = "".join(f'[[login.users]]\nname="{n}"\npassword="{p}"\ntokens={json.dumps(t)}\n' for n, p, t in rows)
    assert any(sentence in fault for fault in faults(tmp_path, text))


@pytest.mark.parametrize(
    "line",
    ['password = "hunter2"', 'scram = "hunter2"', 'tokens = ["hunter2"]', "tokens = ['a', 777]", "password = 777"],
)
def test_no_secret_is_repeated_in_an_error(tmp_path: Path, line: str) -> None:
    found = "\n".join(faults(tmp_path, f'[[login.users]]\nname = "ann"\n{line}\n'))
    assert "login.users[1]." in found
    assert "hunter2" not in found
    assert "777" not in found


def test_values_come_with_their_origin_and_the_command_line_wins(tmp_path: Path) -> None:
    text = 'grace_s = 3\n\n[listen]\nmqtt = "127.0.0.1:1"\nhttp = "127.0.0.1:2"\n[broker]\nnode = 7\n'
    config = read(tmp_path, text, Flag("listen.mqtt", "off", "--mqtt"), Flag("data", MEMORY, "--data"))
    assert (config.grace_s, config.listen.mqtt, config.listen.http, config.broker.node) == (
        3.0,
        "off",
        "127.0.0.1:2",
        7,
    )
    assert not config.durable
    file = tmp_path / "mesh.toml"
    shown = {setting.key: (setting.value, setting.origin) for setting in in_force(config)}
    assert shown["grace_s"] == (3.0, f"{file}:1")
    assert shown["listen.mqtt"] == ("off", "--mqtt")
    assert shown["listen.http"] == ("127.0.0.1:2", f"{file}:5")
    assert shown["broker.node"] == (7, f"{file}:7")
    assert shown["gate.burst"] == (1000, "default")
    assert shown["data"] == (MEMORY, "--data")


def test_a_wrong_flag_is_named_by_its_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--mqtt: listen\.mqtt: '1883' has no port"):
        load(None, (Flag("listen.mqtt", "1883", "--mqtt"),))
    assert any(
        "listen: must be a table" in fault
        for fault in faults(tmp_path, "listen = 3", Flag("listen.mqtt", "off", "--mqtt"))
    )


def test_data_decides_where_the_log_lives(tmp_path: Path) -> None:
    assert read(tmp_path, "data = '/somewhere'").log.folder == Path("/somewhere")
    assert Config(data="/elsewhere").log.folder == Path("/elsewhere")


def test_rules_and_users_become_settings(tmp_path: Path) -> None:
    text = f"""
[[login.users]]
name = "ann"
password = "{HASH}"
groups = ["ops"]
[gate]
default = "deny"
[[gate.rules]]
effect = "allow"
who = ["@ops"]
filters = ["a/%c/#"]
[[gate.rates]]
who = ["*"]
messages_per_s = 5
"""
    config = read(tmp_path, text)
    assert config.login.users == (UserSettings("ann", HASH, groups=("ops",)),)
    (rule,) = config.gate.rules
    assert (rule.effect, rule.who, rule.filters, rule.actions) == ("allow", ("@ops",), ("a/%c/#",), ("*",))
    assert config.gate.rates[0].messages_per_s == 5


def test_secrets_are_shown_as_stars_and_everything_as_json() -> None:
    config = Config(
        login=LoginSettings(users=(UserSettings("ann", HASH, (DIGEST,)), UserSettings("bob", HASH, scram=SCRAM)))
    )
    settings = list(in_force(config))
    text = json.dumps({setting.key: setting.value for setting in settings}) + repr(config)
    assert "scrypt$" not in text
    assert "sha256$" not in text
    assert "SCRAM" not in text
    users = next(setting.value for setting in settings if setting.key == "login.users")
    assert isinstance(users, list)
    assert (users[0]["name"], users[0]["password"], users[0]["tokens"]) == ("ann", "***", "***")
    assert users[1]["tokens"] == []


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"data = '\xe9'")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 8"):
        load(tmp_path / "latin.toml")
    with (tmp_path / "large.toml").open("wb") as large:
        large.truncate((16 << 20) + 1)
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        load(tmp_path / "large.toml")


def test_mcp_cannot_be_served_where_http_is(tmp_path: Path) -> None:
    firsts = {definition.path.split("/")[1] for definition in DEFINITIONS}
    assert "v1" in firsts
    for first in firsts:
        assert any("is taken by HTTP" in fault for fault in faults(tmp_path, f'[mcp]\npath = "/{first}"'))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_bytes(b"\xef\xbb\xbfgrace_s = 3\n")
    config = load(tmp_path / "mesh.toml")
    assert config.grace_s == 3
    assert config.origins["grace_s"] == f"{tmp_path / 'mesh.toml'}:1"


def test_any_free_port_may_be_asked_for_twice(tmp_path: Path) -> None:
    assert read(tmp_path, "[listen]\nmqtt = '127.0.0.1:0'\nhttp = '127.0.0.1:0'").listen.mqtt == "127.0.0.1:0"


def test_what_is_only_partly_a_configuration_starts_nothing_by_halves(tmp_path: Path) -> None:
    """One wrong key among good ones gives no configuration at all, and the good ones are not blamed."""
    text = "grace_s = 3\n[gate]\nburst = 5\n[login]\nanonymous = 'maybe'\n"
    (fault,) = faults(tmp_path, text)
    assert fault.startswith("5: login.anonymous:")


USERS = LoginSettings(users=(UserSettings("ann", HASH, admin=True),))
OPEN = ListenSettings(mqtt="0.0.0.0:1883")


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (Config(), []),
        (Config(login=USERS), []),
        (Config(listen=OPEN), ["nobody there can log in"]),
        (Config(listen=OPEN, login=LoginSettings(anonymous="always")), ["comes in without credentials"]),
        (Config(listen=OPEN, login=USERS), ["in the clear on 0.0.0.0:1883;"]),
        (Config(listen=ListenSettings(mqtt="off", mqtts="[::]:8883"), login=USERS), []),
        (Config(login=dataclasses.replace(USERS, users=(UserSettings("ann", HASH),))), ["no user has admin"]),
        (Config(data=MEMORY), ["nothing is kept on disk"]),
    ],
)
def test_advice_is_given_where_it_is_due(config: Config, parts: list[str]) -> None:
    said = advice(config)
    assert len(said) == len(parts)
    for sentence, part in zip(said, parts, strict=True):
        assert part in sentence
