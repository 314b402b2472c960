"""The command line: `isochat ask`, `render`, `backends`, `serve`, `doctor`, `compare` and `demo`.

Only typer is imported before a command runs, so that `isochat --help` is there at once; rich only for a table on a
terminal. What a command prints for others to read goes to stdout, what it says about itself to stderr.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import stat
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, Self, TextIO, TypeVar

import typer

from isochat._stdout import NOBODY_READS, let_go_of_stdout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from isochat import ChatResponse, ChatStream, Connection
    from isochat._config import Settings
    from isochat._demo import Demo
    from isochat.local import LocalEndpoint

F = TypeVar("F", bound="Callable[..., Any]")

# What a caller's script can tell apart. Documented in docs/how-to/command-line.md and in `isochat --help`.
NO: Final = 1  # the answer was no
USAGE: Final = 2
NOT_ALLOWED: Final = 3
TRY_AGAIN: Final = 4
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

LOCAL_ENDPOINT: Final = "databricks-claude-sonnet-4-5"
DEMO_ENDPOINT: Final = "databricks-gpt-5-1"  # of the models that have a Responses API
QUESTION: Final = "What is a mixture of experts model?"

app = typer.Typer(
    name="isochat",
    help="Ask chat models on Databricks Model Serving, through whichever client you choose.\n\n"
    "Tokens are never given on the command line, where every user of the machine can read them: set DATABRICKS_HOST "
    "and DATABRICKS_TOKEN, or use a profile of ~/.databrickscfg.",
    epilog="Exit codes: 0 all is well; 1 the answer was no; 2 said wrongly, or a setting is missing; 3 not logged in "
    "or not permitted; 4 busy, unreachable or too late: try again.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take as long to import as all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# ── how every command ends ───────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Run the command that was typed; gives the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this (`>&-`)
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an answer may hold what this terminal cannot show
    try:
        app(prog_name="isochat")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _command(function: F) -> F:
    """Make it a command: whatever goes wrong in it becomes one message on stderr and an exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        _hush()
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            let_go_of_stdout()
            raise typer.Exit(NOBODY_READS) from None
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            code, said = _verdict(error)
            _say(said)
            raise typer.Exit(code) from None

    return app.command()(run)  # type: ignore[return-value]


def _verdict(error: Exception) -> tuple[int, str]:
    """The exit code and the words for what went wrong."""
    from isochat import errors

    # A stream that broke is as bad as what broke it.
    cause: BaseException | None = error
    if isinstance(error, errors.StreamInterrupted):
        cause = error.error or error.__cause__
    match cause:
        case errors.AuthenticationFailed() | errors.PermissionDenied():
            code = NOT_ALLOWED
        case errors.RateLimited() | errors.ServiceUnavailable() | errors.ConnectionFailed() | errors.DeadlineExceeded():
            code = TRY_AGAIN
        case errors.InvalidRequest() | errors.UnsupportedOption() | errors.ConfigurationError():
            code = USAGE
        case errors.BackendNotFound() | errors.BackendNotInstalled():
            code = USAGE
        case _:
            code = NO
    if isinstance(error, errors.ChatError):
        return code, str(error)
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return code, f"unexpectedly, {_without_secrets(said)}\n`python -X dev -m isochat …` shows where that was."


def _hush() -> None:
    """Leave stderr to our own messages: clients warn and log for developers, with `-W` or `-X dev` as ever."""
    import logging
    import warnings

    if not sys.warnoptions and not sys.flags.dev_mode:
        warnings.simplefilter("ignore")
        logging.lastResort = None


def _without_secrets(text: str) -> str:
    """The text, without anything that is a secret among the settings."""
    from isochat._config import settings
    from isochat.errors import ConfigurationError

    try:
        secrets = [str(setting.value) for setting in settings() if setting.shown != str(setting.value)]
    except ConfigurationError:
        return "something failed that cannot be named: the settings, which hold secrets, cannot be read"
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


# ── saying ───────────────────────────────────────────────────────────────────────────────────────────────────────

# What a model or a server says must not move the cursor, set a title or hide a line.
_UNPRINTABLE: Final = dict.fromkeys((*range(32), *range(127, 160)), "�")
_SHOWN: Final = {**_UNPRINTABLE, ord("\n"): "\n", ord("\t"): "\t", ord("\r"): None}


def _write(text: str, stream: TextIO | None = None, *, dim: bool = False) -> None:
    """Write to stdout or the stream; to a terminal without control characters."""
    stream = stream or sys.stdout
    if stream.isatty():
        text = text.translate(_SHOWN)
        if dim and text and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            text = f"\x1b[2m{text}\x1b[0m"
    stream.write(text)
    stream.flush()


def _say(text: str) -> None:
    """Tell the user something about the command, on stderr."""
    _write(f"isochat: {text}\n", sys.stderr)


def _print_json(value: Any) -> None:
    _write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table: drawn on a terminal, aligned columns in a pipe. `right` names the columns of numbers."""
    if not sys.stdout.isatty():
        widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
        for row in (columns, *rows):
            cells = (
                cell.rjust(width) if name in right else cell.ljust(width)
                for name, cell, width in zip(columns, row, widths, strict=True)
            )
            _write("  ".join(cells).rstrip() + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    colours = {_yes(True): "green", _yes(False): "red"}
    for row in rows:
        table.add_row(*(Text(cell, style=colours.get(cell, "")) for cell in row))
    Console().print(table)


def _yes(said: bool | None) -> str:
    """✓ or ✗, words where these cannot be written; a dash where there is nothing to say."""
    if said is None:
        return "-"
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "yes" if said else "no"
    return "✓" if said else "✗"


# ── a question's options ─────────────────────────────────────────────────────────────────────────────────────────


def _backend_names(incomplete: str) -> list[str]:
    from isochat import backends

    return [name for name in backends.BUILT_IN if name.startswith(incomplete)]


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUESTION",
        help="The question. `-`, or nothing, stands for standard input; what is piped in comes before the question.",
        show_default=False,
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        "-b",
        help="Which client carries the question; `isochat backends` lists them.",
        autocompletion=_backend_names,
    ),
]
EndpointName = Annotated[str | None, typer.Option("--endpoint", "-e", help="The serving endpoint to ask.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="The system message.")]
MaxTokens = Annotated[int | None, typer.Option(help="The longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 to 2.")]
TopP = Annotated[float | None, typer.Option(help="Above 0, up to 1.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text to stop at; may be repeated.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="For answers that repeat, where the model can.")]
HowMany = Annotated[int | None, typer.Option("--n", help="How many answers.")]
Effort = Annotated[str | None, typer.Option(help="How long to think: low, medium, high.")]
Format = Annotated[str | None, typer.Option(metavar="JSON", help="The form of the answer: JSON, or @FILE with JSON.")]
Tools = Annotated[Path | None, typer.Option(metavar="FILE", help="A JSON file with the list of tools.")]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="NAME=JSON",
        help="Any other option of query_chat(), such as thinking='{…}'; may be repeated.",
        show_default=False,
    ),
]
ExtraBody = Annotated[
    str | None, typer.Option(metavar="JSON", help="Further fields of the body, sent as they are: JSON, or @FILE.")
]
Host = Annotated[
    str | None, typer.Option(help="The workspace, https://…, or `local`. Its token comes from DATABRICKS_TOKEN.")
]
Profile = Annotated[str | None, typer.Option(help="The section of ~/.databrickscfg to log in with.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds for the whole question, retries included.")]
Attempts = Annotated[int | None, typer.Option(min=1, help="How often the question is sent at most.")]
Streaming = Annotated[
    bool | None,
    typer.Option("--stream/--no-stream", help="Show the answer as it comes; by default if stdout is a terminal."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class _Question:
    """What was typed, as `query_chat()` takes it."""

    messages: list[dict[str, str]]
    options: dict[str, Any]
    extra_body: Any


def _question(
    words: list[str] | None,
    *,
    system: str | None,
    named: Mapping[str, Any],
    response_format: str | None,
    tools: Path | None,
    others: list[str] | None,
    extra_body: str | None,
) -> _Question:
    """Read everything that was typed, and what it points to. Standard input last: it may be somebody typing."""
    options = _options(named, response_format=response_format, tools=tools, others=others)
    extra = None if extra_body is None else _json_of(extra_body, "--extra-body")
    return _Question(_messages(words, system), options, extra)


def _options(
    named: Mapping[str, Any], *, response_format: str | None, tools: Path | None, others: list[str] | None
) -> dict[str, Any]:
    options = {name: value for name, value in named.items() if value is not None and value != []}
    if response_format is not None:
        options["response_format"] = _json_of(response_format, "--response-format")
    if tools is not None:
        options["tools"] = _json_text(_file(tools, "--tools"), "--tools")
    for other in others or ():
        name, equals, value = other.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise typer.BadParameter(f"expected NAME=JSON, got {other!r}", param_hint="--option")
        if name in options:
            raise typer.BadParameter(f"{name} is said twice", param_hint="--option")
        if name in ("messages", "endpoint", "backend", "connection", "host", "token", "timeout", "retry", "stream"):
            raise typer.BadParameter(f"{name} is no option of a question; see --help", param_hint="--option")
        options[name] = _json_or_word(value, f"--option {name}")
    return options


def _messages(words: list[str] | None, system: str | None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": _text(words or [])}]


def _text(words: list[str]) -> str:
    """The question: what is piped in, an empty line, what was typed; or whichever there is."""
    wanted = "-" in words or not words
    typed = " ".join(word for word in words if word != "-")
    piped = ""
    if wanted or _is_piped(sys.stdin):
        if sys.stdin is not None and sys.stdin.isatty():
            _say("what is the question? (it ends with Ctrl-D, on Windows with Ctrl-Z)")
        piped = _standard_input()
    text = "\n\n".join(part for part in (piped.strip("\r\n"), typed) if part.strip())
    if not text:
        raise typer.BadParameter("there is none", param_hint="QUESTION")
    return text


def _is_piped(stream: TextIO | None) -> bool:
    """Whether somebody connected a pipe or a file to it: then it was meant. A terminal or /dev/null was not."""
    try:
        mode = os.fstat(stream.fileno()).st_mode if stream is not None else 0
    except (OSError, ValueError, AttributeError):  # closed, or a stand-in
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _standard_input() -> str:
    import threading

    if sys.stdin is None:
        return ""
    # Started by something that leaves a pipe open (a service, an editor), this would wait for ever and say nothing.
    patience = threading.Timer(3, _say, ["still reading standard input; `< /dev/null` asks without it"])
    patience.daemon = True
    if not sys.stdin.isatty():
        patience.start()
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"standard input is no {error.encoding} text", param_hint="QUESTION") from None
    finally:
        patience.cancel()


def _json_of(text: str, option: str) -> Any:
    """JSON, or `@FILE` with JSON, as curl has it."""
    return _json_text(_file(Path(text[1:]), option) if text.startswith("@") else text, option)


def _json_or_word(text: str, option: str) -> Any:
    """JSON; a bare word stands for itself. Each option's type is checked later, so a number is not taken for text."""
    try:
        return json.loads(text)
    except ValueError:
        return text if text and text[0] not in '{["' else _json_text(text, option)


def _json_text(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"this is no JSON: {error}", param_hint=option) from None


def _file(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint=option) from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8", param_hint=option) from None


# ── which workspace ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Workspace:
    """Whom to ask: what the settings say, or the local endpoint where they say nothing at all."""

    found: Settings
    endpoint: str | None
    local: bool
    fallback: bool

    def connection(self, profile: str | None) -> Connection:
        from isochat import Connection

        return Connection("local") if self.local else Connection(self.found.get("host"), profile=profile)


def _workspace(arguments: Mapping[str, Any]) -> _Workspace:
    from isochat._config import settings

    found = settings(arguments)
    fallback = _nothing_is_configured(found)
    local = fallback or found.get("host") == "local"
    if local:
        _keep_loopback_from_proxies()
    endpoint = found.endpoint or (LOCAL_ENDPOINT if local else None)
    return _Workspace(found, endpoint, local, fallback)


def _nothing_is_configured(found: Settings) -> bool:
    """Whether not one setting speaks of a workspace.

    Where one does, what is missing is a mistake to be told of: a made-up answer would hide it.
    """
    from isochat._config import BY_NAME

    # What has a default says how to ask, as the endpoint says what; everything else is about who is asked, and as whom.
    return not (
        any(setting.name != "endpoint" and BY_NAME[setting.name].default is None for setting in found)
        or found.withheld
        or found.conflict
        or found.synonyms
        or found.self_evident
        or found.unused
    )


def _keep_loopback_from_proxies() -> None:
    """A proxy of the company cannot reach this machine's loopback, and clients ask it unless told not to."""
    names = [name for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)] or ["NO_PROXY"]
    for name in names:
        said = os.environ.get(name, "")
        if said != "*":
            os.environ[name] = ",".join(filter(None, (said, "127.0.0.1", "localhost")))


def _say_local(workspace: _Workspace) -> None:
    if workspace.fallback:
        _say(
            "no workspace is configured, so the local endpoint answers, which only echoes; "
            "set DATABRICKS_HOST and DATABRICKS_TOKEN to ask yours"
        )


# ── ask ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@_command
def ask(
    question: Words = None,
    *,
    backend: BackendName = None,
    endpoint: EndpointName = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    stop: Stop = None,
    seed: Seed = None,
    n: HowMany = None,
    reasoning_effort: Effort = None,
    response_format: Format = None,
    tools: Tools = None,
    option: Others = None,
    extra_body: ExtraBody = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    stream: Streaming = None,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Show on stderr what the model thought.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a chat model and print its answer.

    There is no option for a token, because every user of the machine could read it: set DATABRICKS_TOKEN.
    """
    import isochat
    from isochat import backends

    named = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stop,
        "seed": seed,
        "n": n,
        "reasoning_effort": reasoning_effort,
    }
    said = {"backend": backend, "endpoint": endpoint, "timeout": timeout, "host": host, "profile": profile}
    workspace = _workspace(said)
    connection = workspace.connection(profile)
    _need_endpoint(workspace)
    asked = _question(
        question,
        system=system,
        named=named,
        response_format=response_format,
        tools=tools,
        others=option,
        extra_body=extra_body,
    )
    _say_local(workspace)

    # Several answers that come at once are read one after the other.
    whole = as_json or asked.options.get("n") not in (None, 1)
    streamed = stream
    if streamed is None:
        streamed = sys.stdout.isatty() and not whole and backends.find(workspace.found.backend).streams()
    call: Callable[..., Any] = functools.partial(
        isochat.query_chat,
        asked.messages,
        endpoint=workspace.endpoint,
        backend=backend,
        connection=connection,
        timeout=timeout,
        retry=isochat.Retry(attempts=attempts) if attempts else None,
        extra_body=asked.extra_body,
        **asked.options,
    )
    answer: ChatResponse
    try:
        if streamed and not whole:
            with call(stream=True) as coming:
                answer = _printed_as_it_comes(coming, reasoning=reasoning)
        else:
            answer = call(stream=True).response if streamed else call()
            if reasoning:
                _print_reasoning(answer)
            if as_json:
                _print_json(answer.to_dict())
            else:
                _print_answer(answer)
    finally:
        isochat.close()
    _remark(answer)


def _need_endpoint(workspace: _Workspace) -> None:
    if workspace.endpoint is None:
        _say("no endpoint is named; say --endpoint or set ISOCHAT_ENDPOINT (`isochat doctor` lists what you may ask)")
        raise typer.Exit(USAGE)


def _printed_as_it_comes(coming: ChatStream, *, reasoning: bool) -> ChatResponse:
    thinking, last = False, "\n"
    try:
        for chunk in coming:
            if reasoning and chunk.reasoning:
                _write(chunk.reasoning, sys.stderr, dim=True)
                thinking = True
            if chunk.text:
                if thinking:
                    _write("\n\n", sys.stderr)
                    thinking = False
                last = chunk.text  # before it is written: Ctrl-C may come right after
                _write(chunk.text)
    finally:
        # Also where it broke or was stopped: what comes next begins on a line of its own.
        if thinking:
            _write("\n", sys.stderr)
        if not last.endswith("\n"):
            _write("\n")
    _print_answer(coming.response, streamed=True)
    return coming.response


def _print_reasoning(answer: ChatResponse) -> None:
    if answer.reasoning:
        _write(answer.reasoning.rstrip("\n") + "\n\n", sys.stderr, dim=True)


def _print_answer(answer: ChatResponse, *, streamed: bool = False) -> None:
    """Every answer, under its number where there are several; if `streamed`, without the text that was shown then."""
    several = len(answer.choices) > 1
    for place, choice in enumerate(answer.choices, 1):
        shown = streamed and choice.index == 0
        if several and not shown:
            _write(f"--- {place} of {len(answer.choices)} ---\n")
        text = "" if shown else choice.message.text
        if text:
            _write(text if text.endswith("\n") else f"{text}\n")
        for call in choice.message.tool_calls:
            _write(f"{call.name}({call.arguments})\n")


def _remark(answer: ChatResponse) -> None:
    """Say on stderr what the answer alone does not show."""
    if answer.refusal:
        _say(f"the model refused: {answer.refusal}")
        raise typer.Exit(NO)
    if answer.finish_reason == "length":
        _say("the answer is cut: it reached the longest that was allowed (--max-tokens)")
    elif answer.finish_reason == "content_filter":
        _say("the answer is cut: a content filter stopped it")


# ── render ───────────────────────────────────────────────────────────────────────────────────────────────────────


@_command
def render(
    question: Words = None,
    *,
    backend: BackendName = None,
    endpoint: EndpointName = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    stop: Stop = None,
    seed: Seed = None,
    n: HowMany = None,
    reasoning_effort: Effort = None,
    response_format: Format = None,
    tools: Tools = None,
    option: Others = None,
    extra_body: ExtraBody = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="As it is sent for a stream.")] = False,
) -> None:
    """Print what would be sent, and send nothing.

    The options are those of `ask`; those that are no part of the body change nothing.
    """
    import isochat

    named = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stop,
        "seed": seed,
        "n": n,
        "reasoning_effort": reasoning_effort,
    }
    said = {"backend": backend, "endpoint": endpoint, "timeout": timeout, "host": host, "profile": profile}
    workspace = _workspace({**said, "attempts": attempts})
    _need_endpoint(workspace)
    asked = _question(
        question,
        system=system,
        named=named,
        response_format=response_format,
        tools=tools,
        others=option,
        extra_body=extra_body,
    )
    _print_json(
        isochat.render(
            asked.messages,
            endpoint=workspace.endpoint,
            backend=backend,
            stream=stream,
            extra_body=asked.extra_body,
            **asked.options,
        )
    )


# ── backends ─────────────────────────────────────────────────────────────────────────────────────────────────────


@_command
def backends(*, as_json: AsJson = False) -> None:
    """List the backends and what each carries."""
    from isochat import ChatOptions
    from isochat.backends import available

    infos = available()
    everything = {*ChatOptions.__annotations__, "stream", "extra_body"}
    if as_json:
        _print_json(
            [
                {
                    "name": info.name,
                    "client": info.client,
                    "route": info.route,
                    "installed": not info.missing,
                    "missing": list(info.missing),
                    "install": info.install,
                    "carries": sorted(info.carries),
                    "lacks": sorted(everything - info.carries),
                    "blocking": info.blocking,
                    "asyncio": info.asyncio,
                    "stream": info.stream,
                    "async_stream": info.async_stream,
                }
                for info in infos
            ]
        )
        return
    rows = [
        (
            info.name,
            "installed" if not info.missing else info.install,
            info.client,
            _yes(info.asyncio),
            _yes(info.stream),
            "everything" if everything <= info.carries else f"all but {', '.join(sorted(everything - info.carries))}",
        )
        for info in infos
    ]
    _print_table(("backend", "state", "client", "asyncio", "stream", "carries"), rows)


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────


@_command
def serve(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 8377,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Serve the endpoints of this family only; may be repeated.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FAMILY[:MODEL]",
            help="An endpoint of your own, with the upstream's name of its model; may be repeated.",
            show_default=False,
        ),
    ] = None,
    script: Annotated[Path | None, typer.Option(metavar="FILE", help="A YAML script of answers.")] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenAI-compatible server that is to answer (Ollama, vLLM, …), or a workspace to record.",
        ),
    ] = None,
    upstream_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variable that holds the upstream server's key.")
    ] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="FILE|JSON", help="What is to go wrong first, such as '[429, 503]'.")
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The variable that holds the token to demand; a random one if not said."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Record every question and its answer into this directory.")
    ] = None,
    record_mode: Annotated[
        str | None,
        typer.Option(
            metavar="once|new_episodes|all",
            help="What --record does with recordings that are there: 'all' records anew.",
            show_default="all",
        ),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Answer from the recordings in this directory, and nothing else.")
    ] = None,
    pace: Annotated[
        float, typer.Option(min=0, help="How slow recordings are replayed: 1 as recorded, 0 without waiting.")
    ] = 0.0,
) -> None:
    """Run the local endpoint until Ctrl-C.

    It is Databricks Model Serving on this machine, for any client. The lines that point clients to it go to stdout, to
    be pasted into another shell or kept in a file:
    `isochat serve > local.env &`, then `. ./local.env`.
    """
    from isochat.local import serve as run

    if record is not None and replay is not None:
        raise typer.BadParameter("either that or --record; --record-mode new_episodes does both", param_hint="--replay")
    if record_mode is not None and record is None:
        raise typer.BadParameter("it says how to --record, which is not given", param_hint="--record-mode")
    if record_mode == "none":
        raise typer.BadParameter("that is what --replay DIR does", param_hint="--record-mode")
    endpoints: list[LocalEndpoint] = []

    def ready(local: LocalEndpoint) -> None:
        endpoints.append(local)
        _print_environment(local, token_env=token_env)

    models = dict(_pair(each) for each in model or ())
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "families": family or None,
        "models": models or None,
        "script": script,
        "upstream": upstream,
        "upstream_key": _variable(upstream_key_env, "--upstream-key-env"),
        "faults": _faults(faults) if faults is not None else (),
        "token": _variable(token_env, "--token-env"),
        "ready": ready,
        "cassette": record or replay,
        "record_mode": (record_mode or "all") if record is not None else None,
        "pace": pace,
    }
    try:
        run(**settings)
    except ImportError as error:
        _fail(str(error), USAGE)
    except ValueError as error:
        _fail(f"that cannot be served: {error}", USAGE)
    except OSError as error:
        _fail(f"cannot listen on {host}, port {port}: {error.strerror or error}", NO)
    if record is not None:
        count = len(endpoints[0].recorded)
        _say(f"{count} exchange{'' if count == 1 else 's'} recorded in {record}")


def _print_environment(local: LocalEndpoint, *, token_env: str | None) -> None:
    lines = f"export DATABRICKS_HOST={shlex.quote(local.host)}\n"
    if local.passes_logins:
        _say("clients log in with the workspace's own tokens, or --upstream-key-env names one for all of them")
    else:
        # A token of the user's own is never shown, so the shell that reads these lines must know it as well.
        token = f'"${token_env}"' if token_env else shlex.quote(local.token)
        lines += f"export DATABRICKS_TOKEN={token}\n"
    _write(lines)
    if local.host.split("//")[1].rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]"):
        _say("whoever reaches this machine over the network reaches it too")
    _say("the local endpoint is ready; Ctrl-C ends it")


def _pair(text: str) -> tuple[str, str]:
    name, equals, family = text.partition("=")
    if not (name and equals and family):
        raise typer.BadParameter(f"expected NAME=FAMILY, got {text!r}", param_hint="--model")
    return name, family


def _variable(name: str | None, option: str) -> str | None:
    if name is None:
        return None
    value = os.environ.get(name)
    if not value:
        raise typer.BadParameter("there is no such variable, or it is empty", param_hint=option)
    return value


def _faults(text: str) -> str:
    """The text of a file of that name, or the text itself."""
    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):  # JSON makes a poor file name
        is_file = False
    if not is_file and re.fullmatch(r"[^\[{]*\.(json|ya?ml)", text):
        raise typer.BadParameter(f"there is no file {text}", param_hint="--faults")
    return _file(Path(text), "--faults") if is_file else text


def _fail(said: str, code: int) -> NoReturn:
    _say(said)
    raise typer.Exit(code)


# ── doctor ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Check:
    """One thing that was looked at. `ok` is None where it could not be, or need not be."""

    name: str
    ok: bool | None
    says: str
    hint: str | None = None


@dataclass(slots=True)
class _Diagnosis:
    settings: list[dict[str, str]] = field(default_factory=list)
    checks: list[_Check] = field(default_factory=list)
    endpoints: list[str] | None = None

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks)


@_command
def doctor(
    *,
    endpoint: EndpointName = None,
    backend: BackendName = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each thing that is asked of the workspace.")] = 60.0,
    no_ask: Annotated[bool, typer.Option("--no-ask", help="Ask the model nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the settings, the login and the endpoint.

    Shows where each setting came from, and secrets as ***. The model is asked for one token, which is charged as any
    other; --no-ask leaves that out.
    """
    import isochat

    said = {"backend": backend, "endpoint": endpoint, "host": host, "profile": profile}
    diagnosis = _Diagnosis()
    try:
        for check in _examined(diagnosis, said, profile, timeout, ask_it=not no_ask):
            diagnosis.checks.append(check)
    finally:
        isochat.close()
    if as_json:
        _print_json(
            {
                "ok": diagnosis.ok,
                "settings": diagnosis.settings,
                "checks": [
                    {"name": check.name, "ok": check.ok, "says": check.says, "hint": check.hint}
                    for check in diagnosis.checks
                ],
                "endpoints": diagnosis.endpoints,
            }
        )
    else:
        _print_diagnosis(diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(NO)


def _print_diagnosis(diagnosis: _Diagnosis) -> None:
    if diagnosis.settings:
        rows = [(each["name"], each["value"], each["source"]) for each in diagnosis.settings]
        _print_table(("setting", "value", "from"), rows)
        _write("\n")
    for check in diagnosis.checks:
        _write(f"{_yes(check.ok)} {check.name}: {check.says}\n")
        if check.hint:
            _write(f"  {check.hint}\n")
    if diagnosis.endpoints:
        _write("\nChat endpoints that are ready:\n")
        for name in diagnosis.endpoints:
            _write(f"  {name}\n")


def _examined(
    diagnosis: _Diagnosis, said: Mapping[str, Any], profile: str | None, timeout: float, *, ask_it: bool
) -> Iterator[_Check]:
    """One check after the other; each that fails ends those that build on it."""
    from isochat._config import unread
    from isochat.errors import ChatError, ConfigurationError

    for variable, meant in unread(os.environ):
        yield _Check("settings", None, f"{variable} is set, and isochat does not read it", meant)
    try:
        workspace = _workspace(said)
    except ConfigurationError as error:
        yield _Check("settings", False, error.message, error.hint)
        return
    _say_local(workspace)
    found = workspace.found
    diagnosis.settings = [
        {
            "name": each.name,
            "value": each.shown,
            "source": "command line" if each.source == "argument" else each.source,
        }
        for each in found
    ]
    for note in (*found.withheld, *found.synonyms):
        yield _Check("settings", None, note)
    yield from _examined_backends(found.backend)
    try:
        connection = workspace.connection(profile)
        headers = connection.headers(timeout=timeout)
        address = connection.host
    except ChatError as error:
        yield _Check("login", False, error.message, error.hint)
        return
    yield from _Examination(workspace, connection, address, headers, timeout, ask_it=ask_it).run(diagnosis)


def _examined_backends(chosen: str) -> Iterator[_Check]:
    from isochat import backends
    from isochat.errors import BackendNotFound, BackendNotInstalled

    ready = [info.name for info in backends.available() if not info.missing]
    others = [f"{info.name}: {info.install}" for info in backends.available() if info.missing]
    yield _Check("backends", True, f"ready: {', '.join(ready)}", f"To install: {'; '.join(others)}" if others else None)
    try:
        backends.load(chosen)
    except (BackendNotFound, BackendNotInstalled) as error:
        yield _Check("backend", False, error.message, error.hint)


@dataclass(frozen=True, slots=True)
class _Examination:
    """What is asked of the workspace, once there is somebody to ask as."""

    workspace: _Workspace
    connection: Connection
    address: str
    headers: Mapping[str, str]
    timeout: float
    ask_it: bool

    def run(self, diagnosis: _Diagnosis) -> Iterator[_Check]:
        import httpx2

        from isochat.backends import directly, trusted
        from isochat.errors import ConfigurationError

        name = self.workspace.found.endpoint
        try:
            verify = trusted()
        except ConfigurationError as error:
            yield _Check("connection", False, error.message, error.hint)
            return
        with httpx2.Client(
            timeout=self.timeout, headers=dict(self.headers), verify=verify, mounts=directly(self.address)
        ) as client:
            try:
                path = "/api/2.0/serving-endpoints"
                reply = client.get(f"{self.address}{path}{'' if name is None else _segment(name)}")
                checks, body = self._read(reply, name)
                yield from checks
                if name is None and body is not None:
                    diagnosis.endpoints = _ready(body)
                elif reply.status_code == 404:
                    diagnosis.endpoints = _ready(client.get(f"{self.address}{path}").json())
            except httpx2.HTTPError as error:
                why = _without_secrets(str(error) or type(error).__name__)
                yield _Check("connection", False, f"{self.address} does not answer: {why}")
                return
            except ValueError:  # the list that was to help is none
                return
        if body is not None and name is not None:
            yield from self._asked(name, str(body.get("task") or ""))

    def _read(self, reply: Any, name: str | None) -> tuple[list[_Check], dict[str, Any] | None]:
        """What the workspace said about the endpoint, or about all of them."""
        try:
            body = reply.json()
        except ValueError:
            body = None
        message = str(body.get("message") or "") if isinstance(body, dict) else ""
        login = f"{self.connection.login} ({self.connection.login_source})"
        refused = reply.status_code == 401 or (reply.status_code == 403 and "nvalid access token" in message)
        if refused:
            return [_Check("login", False, f"{self.address} does not accept the {login}: {message}".rstrip(": "))], None
        if reply.status_code >= 500 or (reply.is_success and not isinstance(body, dict)) or reply.is_redirect:
            said = f"{self.address} answers with status {reply.status_code}, and not as a workspace does"
            return [_Check("connection", False, _without_secrets(f"{said}: {message}".rstrip(": ")))], None
        checks = [_Check("login", True, f"{self.address} accepts the {login}")]
        if reply.status_code == 404 and name is not None:
            checks.append(_Check("endpoint", False, f"there is no endpoint {name!r}, or none that you may see"))
        elif reply.status_code == 403 and name is not None:  # who may ask it need not be let to look at it
            checks.append(_Check("endpoint", None, f"you may not look at {name}: {message}".rstrip(": ")))
            return checks, {}
        elif not reply.is_success:
            said = f"{name or 'the list of endpoints'}: status {reply.status_code}: {message}".rstrip(": ")
            checks.append(_Check("endpoint", False, _without_secrets(said)))
        elif name is None:
            hint = "Name one with --endpoint or ISOCHAT_ENDPOINT."
            checks.append(_Check("endpoint", None, "none is named, so none is asked", hint))
        else:
            checks.append(_state(name, body))
        return checks, body if reply.is_success and checks[-1].ok is not False else None

    def _asked(self, name: str, task: str) -> Iterator[_Check]:
        from isochat import Retry, query_chat
        from isochat.errors import ChatError, RequestRefused

        if not self.ask_it:
            yield _Check("question", None, "not asked")
            return

        def put(**options: Any) -> ChatResponse:
            answer: ChatResponse = query_chat(
                "Say OK.",
                endpoint=name,
                backend=self.workspace.found.backend,
                connection=self.connection,
                timeout=self.timeout,
                retry=Retry(attempts=1),
                **options,
            )
            return answer

        try:
            try:
                answer = put() if task.startswith("agent/") else put(max_tokens=1)
            except RequestRefused:  # some models will not answer so shortly, some do not know the option
                answer = put()
        except ChatError as error:
            yield _Check("question", False, error.message, error.hint)
        else:
            took = f"{(answer.elapsed or 0) * 1000:.0f} ms"
            by = f" by {answer.model}" if answer.model else ""  # SQL does not say who answered
            yield _Check("question", True, f"answered in {took} through {answer.backend!r}{by}")


def _segment(name: str) -> str:
    from urllib.parse import quote

    return "/" + quote(name, safe="")


def _state(name: str, body: Mapping[str, Any]) -> _Check:
    """What a workspace's description says of one endpoint."""
    state = body.get("state")
    ready = state.get("ready") if isinstance(state, dict) else None
    task = _task(body)
    if ready not in (None, "READY"):
        return _Check("endpoint", False, f"{name} is not ready: {ready}")
    if task is not None and not _is_chat(task):
        return _Check("endpoint", False, f"{name} is no chat model: its task is {task}")
    return _Check("endpoint", True, f"{name} is ready{f' ({task})' if task else ''}")


def _task(body: Mapping[str, Any]) -> str | None:
    """The endpoint's task; an external model's stands with the model."""
    if isinstance(body.get("task"), str) and body["task"]:
        return str(body["task"])
    config = body.get("config")
    served = config.get("served_entities") if isinstance(config, dict) else None
    for entity in served if isinstance(served, list) else ():
        model = entity.get("external_model") if isinstance(entity, dict) else None
        if isinstance(model, dict) and isinstance(model.get("task"), str):
            return str(model["task"])
    return None


def _is_chat(task: str) -> bool:
    return task in ("llm/v1/chat", "llm/v1/responses") or task.startswith("agent/")


def _ready(body: Any) -> list[str]:
    """The names of the chat endpoints that are ready, in a workspace's list of endpoints."""
    rows = body.get("endpoints") if isinstance(body, dict) else None
    names = []
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(row.get("name"), str):
            state = row.get("state")
            ready = isinstance(state, dict) and state.get("ready") == "READY"
            if ready and _is_chat(_task(row) or ""):
                names.append(row["name"])
    return sorted(names)


# ── compare ──────────────────────────────────────────────────────────────────────────────────────────────────────


@_command
def compare(
    question: Words = None,
    *,
    backends: Annotated[
        str | None,
        typer.Option("--backends", "-b", metavar="NAMES", help="Whom to ask, with commas between; else all there are."),
    ] = None,
    endpoint: EndpointName = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Several questions: a line of JSON each, `-` for standard input."),
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", "-n", min=1, help="How often each is asked.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="How many questions are under way at once.")] = 1,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for streams.")] = False,
    may_vary: Annotated[
        bool,
        typer.Option("--may-vary", help="The model may say otherwise each time: only what a client changed counts."),
    ] = False,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    tools: Tools = None,
    option: Others = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report there, a page of HTML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask every backend the same thing and show every difference.

    Each client asks through a recorder on loopback, so what it really sent and received is known. Ends with 1 if
    anything differs that must not. Every answer is charged as any other.
    """
    from isochat import _cli_compare

    said = {"endpoint": endpoint, "timeout": timeout, "host": host, "profile": profile}
    workspace = _workspace({**said, "attempts": attempts})
    if workspace.local and workspace.found.endpoint is None:
        workspace = replace(workspace, endpoint=DEMO_ENDPOINT)
    named = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = _options(named, response_format=None, tools=tools, others=option)
    asked: list[dict[str, Any]] = []
    if questions is not None:
        if question:
            raise typer.BadParameter("there is a question already", param_hint="--questions")
        asked = _cli_compare.questions(questions, system)
    else:
        asked = [{"messages": _messages(question, system)}]
    if any("endpoint" not in each for each in asked):
        _need_endpoint(workspace)
    _say_local(workspace)
    _cli_compare.run(
        asked,
        options,
        endpoint=workspace.endpoint,
        connection=workspace.connection(profile),
        names=None if backends is None else [name.strip() for name in backends.split(",") if name.strip()],
        repeat=repeat,
        concurrency=concurrency,
        stream=stream,
        timeout=timeout,
        attempts=attempts,
        may_vary=may_vary,
        page=html,
        as_json=as_json,
    )


# ── demo ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@_command
def demo(
    question: Annotated[list[str] | None, typer.Argument(metavar="QUESTION", show_default=False)] = None,
    *,
    endpoint: Annotated[
        str, typer.Option("--endpoint", "-e", help="Which of the local endpoints, hence which family of models.")
    ] = DEMO_ENDPOINT,
    as_json: AsJson = False,
) -> None:
    """Ask every backend the same and compare.

    Every mode of every installed backend is asked and timed. It asks the local endpoint, so it needs no workspace and
    nothing leaves this machine.
    """
    from isochat._demo import MODES
    from isochat._demo import demo as ask_everybody

    _keep_loopback_from_proxies()
    with _Progress() as progress:
        shown = ask_everybody(" ".join(question or ()) or QUESTION, endpoint=endpoint, begin=progress.show)
    if as_json:
        _print_json(shown.to_dict())
    else:
        _print_demo(shown, MODES)
    if not shown.same:
        raise typer.Exit(NO)


class _Progress:
    """Which backend is being asked, on one line of the terminal that is gone afterwards; nowhere else."""

    def __enter__(self) -> Self:
        self._shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        return self

    def show(self, backend: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[Kasking through {backend} …")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _print_demo(shown: Demo, modes: Sequence[str]) -> None:
    _write(f"{shown.question!r}, asked of {shown.endpoint} on the local endpoint, which echoes:\n\n")

    def ms(seconds: float | None) -> str:
        return _yes(None) if seconds is None else f"{seconds * 1000:.1f}"

    times = ("first", *modes)
    rows = [
        (row.backend, ms(row.first), *(ms(row.times.get(mode)) for mode in modes), _yes(row.same))
        for row in shown.rows
        if row.install is None
    ]
    _print_table(("backend", *times, "same answer"), rows, right=times)
    _write("\nIn milliseconds; `first` is the first question, and includes importing the client.\n")
    for row in shown.rows:
        if row.install is not None:
            _write(f"Not installed: {row.backend} ({row.install})\n")
        elif row.error is not None:
            _write(f"{row.backend} failed: {_without_secrets(row.error)}\n")
        elif row.differs:
            _write(f"{row.backend} gave another answer: {', '.join(row.differs)}\n")
    if shown.answer is not None:
        _write(f"\n{'Everybody' if shown.same else 'The reference'} answered:\n\n{shown.answer.text}\n\n")
    if shown.same:
        _write(
            "Next: set DATABRICKS_HOST and DATABRICKS_TOKEN, run `isochat doctor`, then `isochat ask`; "
            "ISOCHAT_BACKEND chooses the backend.\n"
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        from isochat import __version__

        _write(f"isochat {__version__}\n")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None: ...
