"""The command line: what can be asked, and how an error reads. What is done is in ``running`` and ``remote``.

Imports stay inside the commands, so that ``dragoman version`` does not load a web server. Exit codes: 0 done,
1 it could not be done, 2 what was asked for is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from dragoman import __version__

if TYPE_CHECKING:
    from dragoman.config import Config, Flag

FAILED = 1
WRONG = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="One process through which agents, tools, devices and pipelines talk, each in its own protocol.",
)

Url = Annotated[str, typer.Option(envvar="DRAGOMAN_URL", help="Where the mesh serves HTTP.")]
Token = Annotated[str, typer.Option(envvar="DRAGOMAN_TOKEN", help="A bearer token, if the mesh asks for one.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file; see configs/full.toml.")]

DEFAULT_URL = "http://127.0.0.1:8080"


def main() -> None:
    """The program."""
    app()


def give_up(text: str, code: int = FAILED) -> NoReturn:
    """Ends with a sentence for a person, never a traceback."""
    print(f"dragoman: {text}", file=sys.stderr)
    raise typer.Exit(code)


def _config(file: Path | None, flags: tuple[Flag, ...] = ()) -> Config:
    from dragoman.config import ConfigError, load

    try:
        return load(file, flags)
    except ConfigError as error:
        give_up(f"the configuration cannot be used:\n{error}", WRONG)


# -- a mesh here -----------------------------------------------------------------------------------


@app.command()
def serve(
    config: ConfigFile = None,
    mqtt: Annotated[str | None, typer.Option(metavar="HOST:PORT|off", help="MQTT; port 0 = any free one.")] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT|off", help="HTTP and MCP.")] = None,
    kafka: Annotated[str | None, typer.Option(metavar="HOST:PORT|off", help="Not built yet; only off.")] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR|:memory:", help="Where everything is kept.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written when everything listens: process id and addresses, as JSON.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every connection.")] = False,
) -> None:
    """Start a mesh. With no options: MQTT on 127.0.0.1:1883, HTTP and MCP on 127.0.0.1:8080, data in ./dragoman-data.

    Stops on SIGTERM or Ctrl-C: nothing new is taken in, everybody is told, what was said is made safe. A second
    signal stops at once; nothing acknowledged is lost by that either.
    """
    from dragoman.config import Flag
    from dragoman.running import run

    if kafka not in (None, "off"):
        give_up("Kafka is not built yet: leave --kafka out, or say --kafka off", WRONG)
    said = (("listen.mqtt", mqtt, "--mqtt"), ("listen.http", http, "--http"), ("data", data, "--data"))
    flags = tuple(Flag(key, value, name) for key, value, name in said if value is not None)
    raise typer.Exit(run(_config(config, flags), ready_file, verbose=verbose))


@app.command()
def check(
    config: Annotated[Path | None, typer.Argument(help="A TOML file.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print a configuration with every key at its default.")] = False,
) -> None:
    """Explain everything that is wrong with a configuration, all at once."""
    if full:
        from dragoman.config_text import full_text

        print(full_text(), end="")
        return
    if config is None:
        give_up("name a configuration file, or say --full for one with every key", WRONG)
    from dragoman.config import advice

    checked = _config(config)
    for sentence in advice(checked):
        print(f"note: {sentence}")
    print(f"{config}: fine")


@app.command()
def compact(data: Annotated[Path, typer.Argument(help="The data directory of a mesh that is not running.")]) -> None:
    """Give the disk back what deleted messages used. Only while the mesh is stopped."""
    from dragoman.running import compact_folder

    _told(lambda: compact_folder(data))


@app.command()
def password() -> None:
    """Make the hash of a password, for login.users in the configuration. Asks for it, or reads one line of input."""
    from dragoman.running import password_hash

    secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if sys.stdin.isatty() else ""
    print(password_hash(secret or sys.stdin.readline().rstrip("\n")))


@app.command()
def token() -> None:
    """Make a bearer token, and its digest for login.users in the configuration."""
    from dragoman.running import fresh_token

    made, digest = fresh_token()
    print(f"token:  {made}\ndigest: {digest}")


@app.command()
def version() -> None:
    """Print the version."""
    print(f"dragoman {__version__}")


# -- a mesh somewhere ------------------------------------------------------------------------------


@app.command()
def pub(
    name: Annotated[str, typer.Argument(help="A channel, such as home/kitchen/temperature.")],
    payload: Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")] = "-",
    retain: Annotated[bool, typer.Option(help="Make it the channel's retained value.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> None:
    """Say something in a channel of a running mesh."""
    from dragoman import remote

    body = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    _told(lambda: remote.publish(remote.Mesh(url, token), name, body, retain=retain))


@app.command()
def sub(
    filters: Annotated[list[str], typer.Argument(help="Channel filters, such as 'home/#'.")],
    count: Annotated[int, typer.Option(min=0, help="End after so many messages; 0 = never.")] = 0,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a message.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> None:
    """Print what is said in channels of a running mesh, until interrupted."""
    from dragoman import remote

    _told(lambda: remote.subscribe(remote.Mesh(url, token), filters, count, json_lines=json_lines))


@app.command()
def call(
    agent: Annotated[str, typer.Argument(help="An agent, or - for whoever serves the skill best.")],
    skill: Annotated[str, typer.Argument(help="What it is asked to do.")],
    arguments: Annotated[str, typer.Argument(help="JSON; - reads it from standard input.")] = "{}",
    deadline_s: Annotated[float, typer.Option(min=0.001, help="How long to wait for the answer.")] = 60.0,
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> None:
    """Ask an agent of a running mesh to do something, and print its answer."""
    from dragoman import remote

    text = sys.stdin.read() if arguments == "-" else arguments
    _told(lambda: remote.call(remote.Mesh(url, token), agent, skill, text, deadline_s))


@app.command()
def agents(
    skill: Annotated[str, typer.Option(help="Only those with this skill.")] = "",
    state: Annotated[str, typer.Option(help="online, busy, asleep, lost or gone.")] = "",
    text: Annotated[str, typer.Option(help="Words in name, description or tags.")] = "",
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> None:
    """List who is on a running mesh, in what state, and what they can do."""
    from dragoman import remote

    _told(lambda: remote.agents(remote.Mesh(url, token), {"skill": skill, "state": state, "text": text}))


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="A new or empty directory, on the machine of the mesh.")],
    data: Annotated[Path | None, typer.Option(help="The data directory, if the mesh is not running.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> None:
    """Copy everything a mesh keeps: while it runs, or with --data its directory while it does not."""
    if data is not None:
        from dragoman.running import backup_folder

        _told(lambda: backup_folder(data, target))
        return
    from dragoman import remote

    _told(lambda: remote.backup(remote.Mesh(url, token), target.absolute()))


def _told(work: object) -> None:
    """Does the work, and says in a sentence why it could not be done."""
    from dragoman.running import UserError

    assert callable(work)
    try:
        work()
    except UserError as error:
        give_up(str(error))
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
