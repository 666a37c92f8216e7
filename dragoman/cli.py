"""The command ``dragoman``. What it can do is here; how is in ``running`` (a mesh here) and ``remote`` (one somewhere).

Exit codes: 0 done, 1 it did not work, 2 the command or the configuration is wrong, 130 interrupted. Whatever goes
wrong is one sentence on standard error that says what to do; nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from dragoman import __version__
from dragoman.build import form
from dragoman.terminal import LogLines, print_agents, printable, say, silence, write, write_json

if TYPE_CHECKING:
    from dragoman.config import Config, Flag
    from dragoman.remote import Remote

Done = TypeVar("Done")

USAGE: Final = 2
INTERRUPTED: Final = 130
PAYLOAD_BYTES_MAX: Final = 256 << 20
"""What is read from standard input at most; a mesh may take less and says so."""


app = typer.Typer(
    name="dragoman",
    help="One process in which agents, tools, devices and pipelines meet, each in the protocol it already speaks.\n\n"
    "`dragoman serve` starts a mesh; it needs no configuration. The other commands talk to one over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[str, typer.Option(envvar="DRAGOMAN_URL", help="Where the mesh's HTTP listener is.")]
Token = Annotated[str | None, typer.Option(envvar="DRAGOMAN_TOKEN", help="Bearer token; better in the environment.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
HERE: Final = "http://127.0.0.1:8080"


class Failure(Exception):
    """What was asked did not happen; the text says why and what to do."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def main() -> NoReturn:
    """Runs the command line and exits."""
    try:
        app()
    except Failure as failure:
        _complain(str(failure))
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # `dragoman sub '#' | head`: the reader has had enough, which is no mistake. Python would complain at its exit.
        silence()
        sys.exit(0)
    except Exception as error:
        logger = logging.getLogger("dragoman")
        if os.environ.get("DRAGOMAN_DEBUG") or logger.isEnabledFor(logging.INFO):
            logger.exception("a fault of ours")
        _complain(
            f"this is a bug in dragoman {__version__} ({f'{type(error).__name__}: {error}'.rstrip(': ')}); "
            "please report it with what the same command says under DRAGOMAN_DEBUG=1"
        )
        sys.exit(1)
    raise AssertionError("typer exits")


@app.callback()
def _options(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log more: -v connections, -vv everything.")
    ] = 0,
) -> None:
    _log(verbose)


# -- the mesh --------------------------------------------------------------------------------------


@app.command(rich_help_panel="A mesh")
def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file; configs/full.toml has every key.")] = None,
    mqtt: Annotated[str | None, typer.Option(metavar="HOST:PORT|off", help="[default: 127.0.0.1:1883]")] = None,
    kafka: Annotated[str | None, typer.Option(metavar="HOST:PORT|off", help="[default: 127.0.0.1:9092]")] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT|off", help="HTTP, MCP and administration. [default: 127.0.0.1:8080]"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR|:memory:", help="Where everything is kept. [default: ./dragoman-data]")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written when everything listens: JSON with pid and addresses.")
    ] = None,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more: -v, -vv.")] = 0,
) -> None:
    """Start a mesh. Without any option it listens on this machine only and keeps its data in ./dragoman-data.

    Port 0 takes any free port; the lines it prints, and the ready file, say which. Flags win over the
    configuration file. SIGTERM or Ctrl-C ends it gracefully, a second one at once. SIGHUP reads the file
    of --config and those of TLS again: what can change does, what needs a restart is said in the log.
    """
    if config is not None:
        # It would end us until somebody listens: `running` takes it then, one for all that have come.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from dragoman.config import Flag

    _log(verbose)
    given = (
        ("listen.mqtt", mqtt, "--mqtt"),
        ("listen.kafka", kafka, "--kafka"),
        ("listen.http", http, "--http"),
        ("data", data, "--data"),
    )
    settings = _load(config, tuple(Flag(key, value, name) for key, value, name in given if value is not None))
    # A start makes many objects and no garbage: looking for some took a fifth of its time. `running` looks again.
    gc.disable()
    from dragoman.running import run

    raise typer.Exit(_here(lambda: run(settings, ready_file, say)))


@app.command(rich_help_panel="A mesh")
def check(
    config: Annotated[Path | None, typer.Argument(help="The TOML file to check.", show_default=False)] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print every key there is, with default, unit and reason.")
    ] = False,
) -> None:
    """Explain everything that is wrong in a configuration, at once; or what it changes."""
    from dragoman.config import advice, in_force
    from dragoman.config_reader import DEFAULT

    if full:
        from dragoman.config_text import full_text

        typer.echo(full_text(), nl=False)
        return
    if config is None:
        raise Failure("name a file: dragoman check dragoman.toml", USAGE)
    settings = _load(config, ())
    changed = [setting for setting in in_force(settings) if setting.origin != DEFAULT]
    typer.echo(printable(f"{config} is fine; it sets {len(changed)} of {len(settings.origins)} keys"))
    for setting in changed:
        typer.echo(f"  {setting.key} = {json.dumps(setting.value, ensure_ascii=False)}")
    for sentence in advice(settings):
        typer.echo(f"note: {sentence}")


@app.command(rich_help_panel="A mesh")
def backup(
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet or is empty.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The data directory of a mesh that does not run; without it, a running one is asked."),
    ] = None,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """Copy a mesh's data to a folder, which `dragoman serve --data` can start from.

    A running mesh makes the copy itself, on its own machine, while it works.
    """
    target = target.absolute()
    if data is None:
        _run(_with(url, token, lambda mesh: mesh.backup(str(target))))
    else:
        from dragoman.running import backup_folder

        _here(lambda: backup_folder(data, target))
    typer.echo(f"copied to {target}")


@app.command(rich_help_panel="A mesh")
def compact(directory: Annotated[Path, typer.Argument(help="The data directory of a mesh that does not run.")]) -> None:
    """Give the space that deleted data left in a data directory back to the disk."""
    from dragoman.running import compact_folder

    before, after = _here(lambda: compact_folder(directory))
    typer.echo(f"{directory}: {before:,} bytes before, {after:,} after")


@app.command(rich_help_panel="A mesh")
def version() -> None:
    """Print the version."""
    typer.echo(f"dragoman {__version__}, {form()}")


# -- users -----------------------------------------------------------------------------------------


@app.command(rich_help_panel="Users")
def password(
    scram: Annotated[bool, typer.Option("--scram", help="Print what SCRAM-SHA-256 needs, for `scram`.")] = False,
) -> None:
    """Ask for a password and print its hash, for `password` of a [[login.users]] in the configuration.

    Where standard input is no terminal, its first line is the password.
    """
    from dragoman.mesh import hash_password, scram_verifier

    if sys.stdin.isatty():
        word = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True).encode()
    else:
        word = sys.stdin.buffer.readline(1 << 16).removesuffix(b"\n").removesuffix(b"\r")
    try:
        typer.echo(scram_verifier(word) if scram else hash_password(word))
    except ValueError as error:
        raise Failure(f"{error}; nothing was hashed", USAGE) from None


@app.command(rich_help_panel="Users")
def token() -> None:
    """Make a bearer token: the token to give away, and its digest for `tokens` of a [[login.users]]."""
    from dragoman.mesh import new_token

    made, digest = new_token()
    typer.echo(f"token   {made}", err=True)
    typer.echo(f"digest  {digest}", err=True)
    if not sys.stdout.isatty():
        typer.echo(json.dumps({"token": made, "digest": digest}))


# -- talking to a mesh -----------------------------------------------------------------------------


@app.command(rich_help_panel="Talk to a mesh")
def pub(
    name: Annotated[str, typer.Argument(help="The channel, such as factory/line1/temp.")],
    payload: Annotated[str, typer.Argument(help="What to say; - or nothing reads standard input.")] = "-",
    retain: Annotated[bool, typer.Option("--retain", help="Keep it as the channel's retained value.")] = False,
    content_type: Annotated[
        str | None, typer.Option("--type", help="Its content type, such as application/json.")
    ] = None,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """Say something in a channel."""
    content = _stdin() if payload == "-" else os.fsencode(payload)
    said = _run(_with(url, token, lambda mesh: mesh.publish(name, content, retain=retain, content_type=content_type)))
    if said:
        typer.echo(
            f"{printable(said['channel'])}@{said['offset']}, kept in {'the log' if said['kept'] == 'log' else 'memory'}"
        )


@app.command(rich_help_panel="Talk to a mesh")
def sub(
    filters: Annotated[list[str], typer.Argument(help="Channel names, or filters with + and #.")],
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many messages; 0 = never.")] = 0,
    retained: Annotated[bool, typer.Option(help="Begin with the retained values.")] = True,
    as_json: AsJson = False,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """Print what is said in channels, as it is said, each line `channel payload`. Ctrl-C ends it."""
    _run(_with(url, token, lambda mesh: _listen(mesh, filters, count=count, retained=retained, as_json=as_json)))


@app.command(rich_help_panel="Talk to a mesh")
def call(
    agent: Annotated[str, typer.Argument(help="Who is asked; - is whoever serves the skill best.")],
    skill: Annotated[str, typer.Argument(help="What is asked for.")],
    arguments: Annotated[str, typer.Argument(metavar="JSON", help="Its arguments; - reads standard input.")] = "{}",
    deadline: Annotated[float, typer.Option(min=0.001, max=604_800, help="Seconds until nobody waits any more.")] = 60,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """Ask an agent to do something and print its answer."""
    from dragoman.remote import payload_of, problem_text

    try:
        parsed = json.loads(_stdin() if arguments == "-" else arguments)
    except (ValueError, RecursionError) as error:
        raise Failure(f"the arguments are not JSON: {error}", USAGE) from None
    asked = None if agent == "-" else agent
    deadline_ms = max(1, round(deadline * 1000))
    done = _run(_with(url, token, lambda mesh: mesh.call(asked, skill, parsed, deadline_ms)))
    if done["state"] != "done":
        raise Failure(problem_text(done.get("problem") or {"title": f"the call ended {done['state']}"}))
    if "result" in done:
        write_json(done["result"])
    else:
        write(payload_of(done) or b"")


@app.command(rich_help_panel="Talk to a mesh")
def agents(
    skill: Annotated[str | None, typer.Option(help="Only those with this skill.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    text: Annotated[str | None, typer.Option(help="Only those whose id or card has these words.")] = None,
    state: Annotated[str | None, typer.Option(help="online, busy, asleep, lost or gone.")] = None,
    as_json: AsJson = False,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """List who is here, in what state, and what they can do."""
    query = {"skill": skill, "tag": tag, "text": text, "state": state}
    wanted = {name: value for name, value in query.items() if value is not None}
    found = _run(_with(url, token, lambda mesh: mesh.agents(wanted)))
    if as_json:
        write_json(found)
        return
    if not found:
        typer.echo("nobody is here" if not wanted else "nobody here fits")
        return
    print_agents(found)


async def _listen(mesh: Remote, filters: list[str], *, count: int, retained: bool, as_json: bool) -> None:
    from dragoman.remote import payload_of, problem_text

    seen = 0
    async for event in mesh.stream(filters, retained=retained):
        document = json.loads(event.data)
        match event.kind:
            case "message":
                if as_json:
                    write(event.data.encode() + b"\n")
                else:
                    payload = payload_of(document)
                    content = b"(tombstone)" if payload is None else payload
                    write(printable(document["channel"]).encode() + b" " + content + b"\n")
                seen += 1
                if seen == count:
                    return
            case "gap":
                lost = document.get("count") or "some"
                where = f" of {document['channel']}" if document.get("channel") else ""
                _complain(f"{lost} messages{where} are missing here: they came faster than they were read")
            case "end":
                raise Failure(problem_text(document))
    raise Failure("the mesh ended the stream")


# -- the edges -------------------------------------------------------------------------------------


def _load(file: Path | None, flags: tuple[Flag, ...]) -> Config:
    from dragoman.config import ConfigError, load

    try:
        return load(file, flags)
    except ConfigError as error:
        for fault in error.faults:
            typer.echo(printable(str(fault)), err=True)
        number = len(error.faults)
        what = "one thing is" if number == 1 else f"{number} things are"
        raise Failure(f"{what} wrong in the configuration; nothing was started", USAGE) from None


def _here(work: Callable[[], Done]) -> Done:
    """Does what needs no running mesh, and says in a sentence why it could not be done."""
    from dragoman.mesh import CannotStartError

    try:
        return work()
    except CannotStartError as error:
        raise Failure(str(error)) from None


async def _with(url: str, token: str | None, work: Any) -> Any:
    from dragoman.remote import Remote, RemoteError

    try:
        async with Remote(url, token) as mesh:
            return await work(mesh)
    except RemoteError as error:
        raise Failure(str(error)) from None


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(work)


def _stdin() -> bytes:
    content = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
    if len(content) > PAYLOAD_BYTES_MAX:
        raise Failure(f"standard input has more than {PAYLOAD_BYTES_MAX >> 20} MiB, more than any mesh takes", USAGE)
    return content


def _complain(text: str) -> None:
    typer.echo(printable(f"dragoman: {text}"), err=True)


def _log(verbose: int) -> None:
    lines = logging.StreamHandler()
    lines.setFormatter(LogLines())
    logging.basicConfig(handlers=(lines,))
    # It complains of every attempt to connect; a link says once that it is down, and why.
    logging.getLogger("aiokafka").setLevel(logging.ERROR if verbose else logging.CRITICAL)
    if verbose:
        logging.getLogger("dragoman").setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
