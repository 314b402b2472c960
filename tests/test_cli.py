"""What is typed, what is printed, and the exit code that a script sees."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

import isochat
from isochat import backends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from isochat.local import LocalEndpoint

CANARY = "dapi-canary-0123456789abcdef"
CLAUDE = "databricks-claude-sonnet-4-5"
GPT_OSS = "databricks-gpt-oss-120b"
LLAMA = "databricks-meta-llama-3-3-70b-instruct"
NOWHERE = "http://127.0.0.1:9"
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals as POSIX has them")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Typed = "Callable[..., Done]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with no proxy to loopback and the command line installed."""
    pytest.importorskip("typer", reason="the command line needs typer: pip install 'isochat[cli]'")
    pytest.importorskip("rich", reason="the command line needs rich: pip install 'isochat[cli]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def typed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Type a command into this process."""
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)

    def run(*words: str) -> Done:
        from isochat._cli import main

        monkeypatch.setattr(sys, "argv", ["isochat", *words])
        code = main()
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def shell(folder: Path) -> Typed:
    """Type a command into a process of its own."""

    def run(*words: str, stdin: str | None = None) -> Done:
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            [sys.executable, "-m", "isochat", *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
            **given,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def configured(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> LocalEndpoint:
    """A workspace, a token and an endpoint in the environment."""
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", local.token)
    monkeypatch.setenv("ISOCHAT_ENDPOINT", CLAUDE)
    return local


@pytest.fixture
def embedded() -> None:
    """The local endpoint that a process starts for itself can be started."""
    pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")


def completion(**message: Any) -> dict[str, Any]:
    """A whole answer, to be given as it is."""
    reason = message.pop("finish_reason", "stop")
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


# ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────


def python(code: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_without_the_extra_it_names_the_line_that_installs_it(absent: str) -> None:
    """Somebody who installed `isochat` alone is told what the command line needs, and gets exit code 2."""
    done = python(f"""
        import sys
        sys.modules[{absent!r}] = None
        from isochat.__main__ import main
        sys.exit(main())
    """)

    assert done == (
        2,
        "",
        "the command line needs typer and rich; install it with: pip install 'isochat[cli]'\n",
    )


def test_help_imports_nothing_heavy(folder: Path) -> None:
    """`isochat --help` is there at once: no client, no HTTP library, not even the part that asks."""
    done = python("""
        import sys, typer
        given = set(sys.modules)  # older typers bring rich
        sys.argv = ["isochat", "--help"]
        from isochat.__main__ import main
        assert main() == 0
        heavy = "httpx httpx2 openai aiohttp databricks mlflow rich pydantic msgspec asyncio isochat._api"
        print("heavy:", *(name for name in heavy.split() if name in set(sys.modules) - given))
    """)

    assert (0, "") == (done.code, done.err), done.out
    assert "heavy:\n" in done.out
    assert all(name in done.out for name in ("ask", "backends", "render", "serve", "doctor", "compare", "demo"))


def test_help_is_what_typer_makes_of_it(typed: Typed) -> None:
    """The help that is kept, so that it need not be made, says what the commands say of themselves."""
    from isochat._help import TEXT

    made = typed("--help")

    assert (0, "") == (made.code, made.err)
    assert made.out.split() == TEXT.split(), f"src/isochat/_help.py must hold:\n{made.out}"


def test_help_asks_typer_only_where_it_must_be_wrapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the help takes four times as long as printing it."""
    said = []
    for columns in ("", "80", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        said.append(
            python("""
                import sys
                sys.argv = ["isochat", "-h"]
                from isochat.__main__ import main
                assert main() == 0
                print("typer" in sys.modules)
            """).out
        )
    usual, wide, narrow = said

    assert usual == wide
    assert usual.endswith("False\n")
    assert narrow.endswith("True\n")
    assert max(map(len, narrow.splitlines())) < 60 < max(map(len, wide.splitlines()))


@posix
def test_help_may_be_read_in_part(folder: Path) -> None:
    """`isochat --help | head -1` ends in silence."""
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m isochat --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ("Usage: isochat [OPTIONS] COMMAND [ARGS]...\n", "") == (done.stdout, done.stderr)


def test_backends_are_listed_without_importing_a_client(folder: Path) -> None:
    """`isochat backends` looks whether a client is there, and leaves it there."""
    done = python("""
        import sys, typer
        given = set(sys.modules)
        sys.argv = ["isochat", "backends"]
        from isochat.__main__ import main
        assert main() == 0
        heavy = "httpx httpx2 openai databricks mlflow rich"
        print("heavy:", *(name for name in heavy.split() if name in set(sys.modules) - given))
    """)

    assert (0, "") == (done.code, done.err), done.out
    assert "heavy:\n" in done.out


def test_version(shell: Typed) -> None:
    """`python -m isochat --version` says which one this is."""
    assert (0, f"isochat {isochat.__version__}\n", "") == shell("--version")


@pytest.mark.parametrize("command", ["ask", "render", "backends", "serve", "doctor", "compare", "demo"])
def test_every_command_has_help(typed: Typed, command: str) -> None:
    """`-h` after any command explains it."""
    done = typed(command, "-h")

    assert (0, "") == (done.code, done.err), done.out
    assert f"Usage: isochat {command}" in done.out


def test_no_token_can_be_typed(typed: Typed) -> None:
    """A token on a command line would be there for all to see; the help says where it belongs instead."""
    assert 2 == typed("ask", "--token", "x", "hi").code
    assert "DATABRICKS_TOKEN" in typed("ask", "--help").out


@posix
def test_shells_can_complete(shell: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and the names of backends are completed."""
    monkeypatch.setenv("_ISOCHAT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "isochat ask --backend re")
    monkeypatch.setenv("COMP_CWORD", "3")

    assert ["rest"] == shell().out.split()


# ── ask ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ask(configured: LocalEndpoint, shell: Typed) -> None:
    """The answer goes to stdout and nothing else is said."""
    assert (0, "What is it?\n", "") == shell("ask", "What", "is it?")


@pytest.mark.parametrize(
    ("words", "stdin", "question"),
    [
        ((), "from a pipe\n", "from a pipe"),
        (("-",), "from a pipe\n", "from a pipe"),
        (("what is this?",), "a log\n", "a log\n\nwhat is this?"),
        (("-", "what", "is this?"), "a log", "a log\n\nwhat is this?"),
        (("what is this?",), "", "what is this?"),
    ],
)
def test_standard_input_comes_before_the_question(
    configured: LocalEndpoint, shell: Typed, words: tuple[str, ...], stdin: str, question: str
) -> None:
    """What is piped in is asked about, alone or before the question that was typed."""
    done = shell("ask", *words, stdin=stdin)

    assert (0, question + "\n", "") == done
    assert question == configured.questions[-1].json["messages"][0]["content"]


def test_everything_typed_arrives_and_render_shows_it(
    configured: LocalEndpoint, typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`render` prints exactly the body that `ask` sends, with every option in it, and sends nothing."""
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    (folder / "tools.json").write_text(json.dumps([tool]), encoding="utf-8")
    (folder / "schema.json").write_text('{"type": "json_object"}', encoding="utf-8")
    options = (
        *("-s", "Be brief.", "--max-tokens", "7", "--temperature", "0.5", "--top-p", "0.9", "--seed", "3", "--n", "1"),
        *("--stop", "a", "--stop", "b", "--reasoning-effort", "low", "--response-format", "@schema.json"),
        *("--tools", "tools.json", "-o", "top-k=5", "-o", "user=me", "-o", 'logit_bias={"1": 2}'),
        *("--extra-body", '{"not_an_option": [1]}', "--timeout", "30", "--attempts", "1", "-b", "rest", "-e", CLAUDE),
    )
    body = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "n": 1,
        "stop": ["a", "b"],
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "tools": [tool],
        "top_k": 5,
        "user": "me",
        "logit_bias": {"1": 2},
        "not_an_option": [1],
    }

    rendered = typed("render", "hi", *options)

    assert (0, "") == (rendered.code, rendered.err)
    assert body == json.loads(rendered.out)
    assert [] == configured.received

    configured.reply(body=completion(content="yes"))

    assert (0, "yes\n", "") == typed("ask", "hi", *options)
    assert body == configured.questions[-1].json


def test_render_needs_no_workspace(typed: Typed) -> None:
    """What would be sent can be seen before there is anybody to send it to."""
    done = typed("render", "hi", "--stream")

    assert (0, "") == (done.code, done.err), done.out
    assert json.loads(done.out)["stream"] is True


def test_json(configured: LocalEndpoint, typed: Typed) -> None:
    """`--json` prints the answer as an OpenAI `chat.completion`, streamed or not."""
    whole, streamed = typed("ask", "hi", "--json"), typed("ask", "hi", "--json", "--stream")

    assert (0, 0) == (whole.code, streamed.code)
    assert json.loads(whole.out) == json.loads(streamed.out)
    assert json.loads(whole.out)["choices"][0]["message"]["content"] == "hi"
    assert [False, True] == [question.json.get("stream", False) for question in configured.questions]


def test_reasoning_is_shown_when_asked_for(configured: LocalEndpoint, typed: Typed) -> None:
    """What the model thought stays apart from the answer, on stderr, and only where somebody wants it."""
    plain = typed("ask", "hi", "-e", GPT_OSS)
    whole = typed("ask", "hi", "-e", GPT_OSS, "--reasoning")
    streamed = typed("ask", "hi", "-e", GPT_OSS, "--reasoning", "--stream")

    assert (0, "hi\n", "") == plain
    assert "hi\n" == whole.out == streamed.out
    assert "The user said" in whole.err
    assert whole.err == streamed.err


def test_several_answers(configured: LocalEndpoint, typed: Typed) -> None:
    """Every answer asked for is printed, each under its number."""
    assert (0, "--- 1 of 2 ---\nhi\n--- 2 of 2 ---\nhi\n", "") == typed("ask", "hi", "--n", "2")


@pytest.mark.parametrize("words", [("--n", "2"), ("-o", "n=2")])
def test_several_answers_are_streamed_whole(configured: LocalEndpoint, typed: Typed, words: tuple[str, ...]) -> None:
    """Answers that come at once are printed one after the other, however many were asked for and how."""
    done = typed("ask", "hi", "-e", LLAMA, "--stream", *words)

    assert (0, "--- 1 of 2 ---\nhi\n--- 2 of 2 ---\nhi\n", "") == done
    assert configured.questions[-1].json["stream"] is True


def test_an_answer_beside_the_streamed_one_is_not_lost(configured: LocalEndpoint, typed: Typed) -> None:
    """Where several answers come that nobody could foresee, the first is shown as it comes and the others after it."""
    done = typed("ask", "hi", "-e", LLAMA, "--stream", "--extra-body", '{"n": 2}')

    assert (0, "hi\n--- 2 of 2 ---\nhi\n", "") == done


def test_tool_calls_are_printed(configured: LocalEndpoint, typed: Typed) -> None:
    """An answer that is a function call is no empty answer."""
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    configured.reply(body=completion(tool_calls=[call], finish_reason="tool_calls"))

    assert (0, 'weather({"city": "Paris"})\n', "") == typed("ask", "hi")


def test_a_refusal_is_no_answer(configured: LocalEndpoint, typed: Typed) -> None:
    """A model that refuses gives exit code 1, its words on stderr."""
    configured.reply(body=completion(refusal="I will not."))

    assert (1, "", "isochat: the model refused: I will not.\n") == typed("ask", "hi")


def test_an_answer_that_was_cut_says_so(configured: LocalEndpoint, typed: Typed) -> None:
    """Whoever set `--max-tokens` too low learns of it."""
    done = typed("ask", "one two three", "--max-tokens", "2")

    assert (0, "one two\n") == (done.code, done.out)
    assert "--max-tokens" in done.err


def test_a_stream_that_breaks_ends_its_line(configured: LocalEndpoint, typed: Typed) -> None:
    """What had arrived stays, and the message about the rest does not run into it."""
    from isochat.local import Fault

    configured.order(Fault(cut_after=4))
    done = typed("ask", "one two three four five six", "--stream")

    assert 1 == done.code
    assert re.fullmatch(r"one[\w ]*\n", done.out)
    assert done.err.startswith("isochat: the stream broke in the middle")


# ── which workspace ──────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_workspace_the_local_endpoint_answers_and_says_so(embedded: None, typed: Typed) -> None:
    """The first thing somebody types works, and nobody takes an echo for a model."""
    done = typed("ask", "hi")

    assert (0, "hi\n") == (done.code, done.out)
    assert 1 == done.err.count("\n")
    assert "the local endpoint answers" in done.err


@pytest.mark.parametrize("command", ["ask", "doctor"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABRICKS_TOKEN", CANARY),
        ("DATABRICKS_CONFIG_PROFILE", "prod"),
        ("DATABRICKS_CLIENT_ID", "me"),
        ("DATABRICKS_API_BASE", NOWHERE),
    ],
)
def test_half_a_configuration_is_a_mistake_and_no_wish_for_an_echo(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, command: str, variable: str, value: str
) -> None:
    """Where anything speaks of a workspace, what is missing is said, and nothing is made up."""
    monkeypatch.setenv(variable, value)
    done = typed(command, *(("hi", "-e", CLAUDE) if command == "ask" else ()))

    assert (2 if command == "ask" else 1) == done.code
    assert "local endpoint answers" not in done.err
    assert CANARY not in done.out + done.err


def test_a_chosen_local_endpoint_needs_no_explanation(embedded: None, typed: Typed) -> None:
    """`--host local` is what it says."""
    assert (0, "hi\n", "") == typed("ask", "hi", "--host", "local")


def test_a_profile_is_a_workspace(local: LocalEndpoint, typed: Typed) -> None:
    """`--profile` logs in with a section of ~/.databrickscfg, which is stronger than the environment."""
    with open(os.path.expanduser("~/.databrickscfg"), "w", encoding="utf-8") as file:  # noqa: PTH111, PTH123 - HOME
        file.write(f"[mine]\nhost = {local.host}\ntoken = {local.token}\n")

    assert (0, "hi\n", "") == typed("ask", "hi", "--profile", "mine", "-e", CLAUDE)


def test_a_proxy_does_not_come_between(embedded: None, shell: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy that cannot reach this machine, the local endpoint answers all the same."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)

    assert (0, "hi\n") == shell("ask", "hi")[:2]


# ── exit codes ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1), (404, 1), (413, 1), (401, 3), (403, 3), (429, 4), (500, 4), (503, 4)]
)
@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_the_service_says_no(configured: LocalEndpoint, typed: Typed, status: int, code: int, how: str) -> None:
    """1 it refused, 3 it does not know or let you, 4 ask later; one message each."""
    from isochat.local import Fault

    configured.order(Fault(status=status))
    done = typed("ask", "hi", "--attempts", "1", how)

    assert (code, "") == (done.code, done.out)
    assert done.err.startswith("isochat: ")
    assert "Traceback" not in done.err


def test_nobody_answers(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is not there is a reason to try again: 4."""
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    done = typed("ask", "hi", "--host", NOWHERE, "-e", CLAUDE, "--attempts", "1")

    assert (4, "") == (done.code, done.out)
    assert CANARY not in done.err


def test_too_late(configured: LocalEndpoint, typed: Typed) -> None:
    """A question that took longer than `--timeout` may be asked again: 4."""
    from isochat.local import Fault

    configured.order(Fault(stall=30))
    done = typed("ask", "hi", "--timeout", "0.3")

    assert (4, "") == (done.code, done.out)
    assert "0.3 s" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("ask", ""),
        ("ask", "hi", "--max-tokens", "0"),
        ("ask", "hi", "--max-tokens", "many"),
        ("ask", "hi", "--attempts", "0"),
        ("ask", "hi", "--timeout", "-1"),
        ("ask", "hi", "-b", "opnai"),
        ("ask", "hi", "-o", "thinkin={}"),
        ("ask", "hi", "-o", "thinking={"),
        ("ask", "hi", "-o", "thinking"),
        ("ask", "hi", "-o", "max_tokens=1", "--max-tokens", "2"),
        ("ask", "hi", "--extra-body", "{'a': 1}"),
        ("ask", "hi", "--extra-body", "[1]"),
        ("ask", "hi", "--response-format", "@nowhere.json"),
        ("ask", "hi", "--tools", "nowhere.json"),
        ("ask", "hi", "--host", "https://example.com/a/path"),
        ("ask", "hi", "--profile", "nobody"),
        ("render", "hi", "--temperature", "hot"),
        ("serve", "--model", "mine"),
        ("serve", "--model", "mine=nothing"),
        ("serve", "--family", "nothing"),
        ("serve", "--script", "nowhere.yaml"),
        ("serve", "--faults", '{"colour": "red"}'),
        ("serve", "--faults", "nowhere.json"),
        ("serve", "--token-env", "NOT_SET"),
        ("serve", "--upstream-key-env", "NOT_SET"),
        ("answer", "hi"),
    ],
    ids=" ".join,
)
def test_said_wrongly(configured: LocalEndpoint, typed: Typed, words: tuple[str, ...]) -> None:
    """What is wrong with the command itself gives 2, with a message, and nothing is sent."""
    done = typed(*words)

    assert (2, "") == (done.code, done.out)
    assert "isochat: " in done.err or "Error: " in done.err
    assert [] == configured.received


def test_an_endpoint_must_be_named(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which endpoint to ask is not guessed; the message says how to name one on a command line."""
    monkeypatch.setenv("DATABRICKS_HOST", NOWHERE)
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    done = typed("ask", "hi")

    assert (2, "") == (done.code, done.out)
    assert "--endpoint" in done.err


def test_a_client_that_is_not_there(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message holds the line that installs it."""
    kind = backends.find("openai")
    monkeypatch.setattr(kind, "requires", ("a_module_that_is_not_there",))
    done = typed("ask", "hi", "-b", "openai")

    assert 2 == done.code
    assert "pip install 'isochat[openai]'" in done.err


def test_what_nobody_foresaw(configured: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a bug is one message, without the token that it was holding."""

    def broken(*_: Any, **__: Any) -> None:
        message = f"Authorization: Bearer {configured.token}"
        raise RuntimeError(message)

    monkeypatch.setattr(isochat, "query_chat", broken)
    done = typed("ask", "hi")

    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("isochat: unexpectedly, RuntimeError: Authorization: Bearer ***")


# ── secrets, pipes, terminals, signals ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words",
    [
        ("ask", "hi", "--attempts", "1"),
        ("ask", "hi", "--json", "--stream", "--attempts", "1"),
        ("render", "hi"),
        ("backends",),
        ("backends", "--json"),
        ("doctor",),
        ("doctor", "--json"),
        ("demo",),
        ("demo", "--json"),
        ("compare", "Hi.", "-b", "rest"),
        ("compare", "Hi.", "-b", "rest", "--json"),
        ("serve", "--token-env", "DATABRICKS_TOKEN", "--model", "a=b"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("accepted", [True, False])
def test_no_command_shows_a_token(
    local: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], *, accepted: bool
) -> None:
    """Whether the token is right or wrong, it is on no screen and in no log; nor is anything coloured in a pipe."""
    token = local.token if accepted else CANARY
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", token)
    monkeypatch.setenv("ISOCHAT_ENDPOINT", CLAUDE)
    done = typed(*words)

    assert done.out + done.err
    assert token not in done.out + done.err
    assert "\x1b" not in done.out + done.err


class Terminal:
    """A command on a terminal of its own; its stdout and stderr together."""

    def __init__(self, *words: str) -> None:
        import pty

        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "isochat", *words], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
        )
        os.close(theirs)
        self._fd: int | None = ours
        self.shown = ""

    def read(self) -> bool:
        """Read what has come; False when there will be no more."""
        assert self._fd is not None
        try:
            more = os.read(self._fd, 4096).decode("utf-8", "replace")
        except OSError:
            more = ""
        self.shown += more
        return bool(more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self._fd is not None:
            os.close(self._fd)


@posix
def test_a_terminal_sees_the_answer_as_it_comes(configured: LocalEndpoint, folder: Path) -> None:
    """The first words are there while the last are still on their way."""
    from isochat.local import Fault

    configured.order(Fault(stall=60, after=4))
    with Terminal("ask", "one two three four five six seven") as terminal:
        while "one" not in terminal.shown:
            assert terminal.read()

        assert "seven" not in terminal.shown
        assert None is terminal.process.poll()

        terminal.process.send_signal(signal.SIGINT)
        while terminal.read():
            pass

        assert 130 == terminal.process.wait(30)
        assert "Traceback" not in terminal.shown
        assert terminal.shown.endswith("\r\n")


@posix
@pytest.mark.parametrize("no_color", [False, True])
def test_a_model_cannot_write_to_the_terminal_what_is_no_text(
    configured: LocalEndpoint, folder: Path, monkeypatch: pytest.MonkeyPatch, *, no_color: bool
) -> None:
    """Control characters in an answer move no cursor and set no title; NO_COLOR leaves reasoning undimmed."""
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    configured.reply(body=completion(content="\x1b]0;mine\x07 text\ttab", reasoning_content="hm"))
    with Terminal("ask", "hi", "--reasoning", "--no-stream") as terminal:
        while terminal.read():
            pass

    assert "\N{REPLACEMENT CHARACTER}]0;mine\N{REPLACEMENT CHARACTER} text" in terminal.shown
    assert ("\x1b[2mhm" in terminal.shown) is not no_color


@posix
def test_a_table_on_a_terminal(embedded: None, folder: Path) -> None:
    """On a terminal, tables are drawn by rich."""
    with Terminal("backends") as terminal:
        while terminal.read():
            pass

        assert 0 == terminal.process.wait(30)

    assert "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in terminal.shown
    assert "rest" in terminal.shown


@posix
def test_a_reader_that_leaves_is_no_error(configured: LocalEndpoint, folder: Path) -> None:
    """`isochat … | head` ends quietly, as `cat` would."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "isochat", "backends", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=writes,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writes)

    assert (141, b"") == (done.returncode, done.stderr)


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(embedded: None, folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `isochat serve` in a process of its own, on a free port."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "isochat", "serve", "--port", "0", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def exported(process: subprocess.Popen[str]) -> dict[str, str]:
    """The variables in the first two lines of its stdout."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    return dict(re.fullmatch(r"export (\w+)=(.*)\n", line).groups() for line in lines)  # type: ignore[union-attr,misc]


@posix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_serve_prints_what_to_paste_and_ends_quietly(
    served: Callable[..., subprocess.Popen[str]], typed: Typed, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """The lines on stdout point any client to it; Ctrl-C ends it without a word and with 0."""
    process = served("--model", "mine=claude", "--faults", "[429]")
    for name, value in exported(process).items():
        monkeypatch.setenv(name, value)

    assert 4 == typed("ask", "hi", "-e", "mine", "--attempts", "1").code
    assert (0, "hi\n", "") == typed("ask", "hi", "-e", "mine")

    process.send_signal(getattr(signal, number))
    out, err = process.communicate(timeout=30)

    assert (0, "", "isochat: the local endpoint is ready; Ctrl-C ends it\n") == (process.returncode, out, err)


def test_serve_shows_no_token_of_yours(
    served: Callable[..., subprocess.Popen[str]], typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--token-env` the lines name the variable, and the endpoint demands what is in it."""
    monkeypatch.setenv("MY_TOKEN", CANARY)
    said = exported(served("--token-env", "MY_TOKEN"))

    assert '"$MY_TOKEN"' == said["DATABRICKS_TOKEN"]

    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)

    assert (0, "hi\n", "") == typed("ask", "hi", "-e", CLAUDE, "--host", said["DATABRICKS_HOST"])


def test_serve_refuses_an_upstream_that_is_no_address(embedded: None, typed: Typed) -> None:
    """What no question could be sent to is said at once, and not with each question as if a server were away."""
    done = typed("serve", "--port", "0", "--upstream", "foo")

    assert (2, "") == (done.code, done.out)
    assert done.err.startswith("isochat: that cannot be served: upstream: expected the address of a server")


def test_serve_where_somebody_listens_already(local: LocalEndpoint, typed: Typed) -> None:
    """A port that is taken is one message and exit code 1."""
    port = local.host.rpartition(":")[2]
    done = typed("serve", "--port", port)

    assert (1, "") == (done.code, done.out)
    assert done.err.startswith(f"isochat: cannot listen on 127.0.0.1, port {port}: ")


# ── doctor ───────────────────────────────────────────────────────────────────────────────────────────────────────


def checked(done: Done) -> dict[str, bool | None]:
    """What each check of `doctor --json` came to."""
    return {check["name"]: check["ok"] for check in json.loads(done.out)["checks"]}


def test_doctor_finds_all_well(configured: LocalEndpoint, typed: Typed) -> None:
    """Settings with their sources, the login, the endpoint, an answer: 0."""
    done = typed("doctor")

    assert (0, "") == (done.code, done.err), done.out
    assert re.search(r"^token +\*\*\* +DATABRICKS_TOKEN$", done.out, re.MULTILINE)
    assert re.search(rf"^endpoint +{CLAUDE} +ISOCHAT_ENDPOINT$", done.out, re.MULTILINE)
    assert f"{CLAUDE} is ready" in done.out
    assert {"max_tokens": 1} == {k: v for k, v in configured.questions[-1].json.items() if k != "messages"}


def test_doctor_as_json(configured: LocalEndpoint, typed: Typed) -> None:
    """The same as data; what was said on the command line is called that."""
    done = typed("doctor", "--json", "-e", GPT_OSS)
    said = json.loads(done.out)

    assert 0 == done.code
    assert said["ok"] is True
    assert {"name": "endpoint", "value": GPT_OSS, "source": "command line"} in said["settings"]
    assert {"backends": True, "login": True, "endpoint": True, "question": True} == checked(done)


def test_doctor_names_no_model_where_none_is_named(configured: LocalEndpoint, typed: Typed) -> None:
    """An answer that does not say who gave it, as SQL's does not, is not said to be by anybody."""
    configured.reply(body={**completion(content="OK"), "model": None})
    done = typed("doctor")

    assert re.search(r"question: answered in \d+ ms through 'rest'$", done.out, re.MULTILINE)


def test_doctor_need_not_ask(configured: LocalEndpoint, typed: Typed) -> None:
    """`--no-ask` costs nothing."""
    done = typed("doctor", "--json", "--no-ask")

    assert 0 == done.code
    assert None is checked(done)["question"]
    assert [] == configured.questions


def test_doctor_asks_an_agent_what_an_agent_takes(configured: LocalEndpoint, typed: Typed) -> None:
    """An agent refuses `max_tokens`, so it is asked without."""
    assert 0 == typed("doctor", "-e", "agent-chat").code
    assert ["messages"] == list(configured.questions[-1].json)


def test_doctor_lists_endpoints_where_none_is_named(
    configured: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a login and no endpoint yet sees those they may ask."""
    monkeypatch.delenv("ISOCHAT_ENDPOINT")
    done = typed("doctor")

    assert 0 == done.code
    assert f"\n  {CLAUDE}\n" in done.out
    assert [] == configured.questions


def test_doctor_misses_the_endpoint(configured: LocalEndpoint, typed: Typed) -> None:
    """A name that is wrong gives 1, and the names that are right."""
    done = typed("doctor", "--json", "-e", "nobody")

    assert 1 == done.code
    assert {"backends": True, "login": True, "endpoint": False} == checked(done)
    assert CLAUDE in json.loads(done.out)["endpoints"]


def test_doctor_is_told_the_login_is_no_good(
    configured: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong token gives 1, and the place where it stands."""
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    done = typed("doctor", "--json")

    assert 1 == done.code
    assert {"backends": True, "login": False} == checked(done)
    assert "DATABRICKS_TOKEN" in json.loads(done.out)["checks"][-1]["says"]
    assert CANARY not in done.out


def test_doctor_reaches_nobody(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is not there gives 1."""
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    done = typed("doctor", "--json", "--host", NOWHERE, "-e", CLAUDE)

    assert 1 == done.code
    assert {"backends": True, "connection": False} == checked(done)


def test_doctor_sees_that_the_model_does_not_answer(configured: LocalEndpoint, typed: Typed) -> None:
    """An endpoint that is there and does not answer gives 1."""
    from isochat.local import Fault

    configured.order(Fault(status=503))
    done = typed("doctor", "--json")

    assert 1 == done.code
    assert False is checked(done)["question"]


def test_doctor_asks_again_without_what_was_refused(configured: LocalEndpoint, typed: Typed) -> None:
    """A model that will not give a single token is asked without that limit."""
    from isochat.local import Fault

    configured.order(Fault(status=400))

    assert 0 == typed("doctor").code
    assert [True, False] == ["max_tokens" in question.json for question in configured.questions]


def test_doctor_reads_what_is_broken(typed: Typed, folder: Path) -> None:
    """A configuration file that cannot be read is a finding, not a crash."""
    (folder / "isochat.toml").write_text(f"token = '{CANARY}", encoding="utf-8")
    done = typed("doctor", "--json")

    assert 1 == done.code
    assert {"settings": False} == checked(done)
    assert CANARY not in done.out + done.err


def test_doctor_names_a_misspelt_variable(
    configured: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that nobody reads is named, with the one that was meant; it is no fault, for it may be yours."""
    monkeypatch.setenv("ISOCHAT_BACKEN", CANARY)
    done = typed("doctor", "--no-ask")
    shown = "- settings: ISOCHAT_BACKEN is set, and isochat does not read it\n  Did you mean ISOCHAT_BACKEND?\n"

    assert 0 == done.code
    assert shown in done.out
    assert CANARY not in done.out


def test_doctor_misses_the_client(configured: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend that was chosen must be installed; that others are not is no fault."""
    monkeypatch.setattr(backends.find("openai"), "requires", ("a_module_that_is_not_there",))

    assert 0 == typed("doctor").code
    assert False is checked(typed("doctor", "--json", "-b", "openai", "--no-ask"))["backend"]


# ── backends, demo ───────────────────────────────────────────────────────────────────────────────────────────────


def test_backends(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is installed, or the line that would install it is there."""
    monkeypatch.setattr(backends.find("openai"), "requires", ("a_module_that_is_not_there",))
    shown, said = typed("backends"), {row["name"]: row for row in json.loads(typed("backends", "--json").out)}

    assert "pip install 'isochat[openai]'" in shown.out
    assert {info.name for info in backends.available()} == set(said)
    assert (False, ["a_module_that_is_not_there"]) == (said["openai"]["installed"], said["openai"]["missing"])
    assert (True, [], True) == (
        said["rest"]["installed"],
        said["rest"]["lacks"],
        "max_tokens" in said["rest"]["carries"],
    )


def test_demo(embedded: None, typed: Typed) -> None:
    """Every installed backend gives the same answer in each of its modes, and the README's command ends with 0."""
    done = typed("demo")

    assert (0, "") == (done.code, done.err), done.out
    assert "What is a mixture of experts model?" in done.out
    for info in backends.available():
        shown = re.escape(info.install) if info.missing else rf"^{info.name} .*\d\.\d.*✓$"

        assert re.search(shown, done.out, re.MULTILINE)


def test_demo_as_data(embedded: None, typed: Typed) -> None:
    """`--json` has every time and the whole answer; question and family are the user's to choose."""
    mini = "databricks-gpt-5-mini"
    done = typed("demo", "--json", "-e", mini, "one", "two")
    said = json.loads(done.out)
    rest = next(row for row in said["backends"] if row["backend"] == "rest")

    assert (0, True, "one two", mini) == (done.code, said["same"], said["question"], said["endpoint"])
    assert said["answer"]["choices"][0]["message"]["content"] == "one two"
    assert ["blocking", "asyncio", "streamed", "async streamed"] == list(rest["ms"])
    assert all(0 < ms < rest["first_ms"] * 1000 for ms in rest["ms"].values())


def test_demo_sees_a_difference(embedded: None, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is another one is named, and gives 1."""
    if next(info for info in backends.available() if info.name == "openai").missing:
        pytest.skip("the openai client is not installed")
    real = isochat.query_chat

    def bent(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if kwargs["backend"] == "openai" and not kwargs.get("stream"):
            return dataclasses.replace(answer, model="another")
        return answer

    monkeypatch.setattr(isochat, "query_chat", bent)
    done = typed("demo")

    assert 1 == done.code
    assert re.search(r"^openai .*✗$", done.out, re.MULTILINE)
    assert "openai gave another answer: blocking\n" in done.out
    assert re.search(r"^rest .*✓$", done.out, re.MULTILINE)


def test_demo_goes_on_after_a_failure(embedded: None, typed: Typed) -> None:
    """A backend that fails is a row that says why."""
    done = typed("demo", "--endpoint", "nobody")

    assert 1 == done.code
    assert "rest failed: Endpoint with name 'nobody' does not exist." in done.out


def test_demo_names_what_is_not_installed(embedded: None, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is missing is no failure: the line that installs it is there."""
    monkeypatch.setattr(backends.find("openai"), "requires", ("a_module_that_is_not_there",))
    done = typed("demo")

    assert 0 == done.code
    assert "Not installed: openai (pip install 'isochat[openai]')\n" in done.out


# ── compare ──────────────────────────────────────────────────────────────────────────────────────────────────────


def loses_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The openai backend loses the usage."""
    if next(info for info in backends.available() if info.name == "openai").missing:
        pytest.skip("the openai client is not installed")
    kind = backends.find("openai")
    real = kind.decode
    monkeypatch.setattr(kind, "decode", lambda self, reply: dataclasses.replace(real(self, reply), usage=None))


def test_compare(embedded: None, typed: Typed) -> None:
    """Every installed backend is a row of the table; without a workspace the local endpoint answers."""
    done = typed("compare", "Hello", "there")

    assert 0 == done.code
    assert "the local endpoint answers" in done.err
    for info in backends.available():
        if not info.missing:
            assert re.search(rf"^{info.name} +same +[\d.]+ +[\d.]+ +-?[\d.]+ +1\b", done.out, re.MULTILINE)
        else:
            assert f"Not installed: {info.name} ({info.install})" in done.out


def test_compare_sees_a_difference(configured: LocalEndpoint, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client loses is named, and gives 1."""
    loses_usage(monkeypatch)
    done = typed("compare", "-b", "rest, openai", "-n", "2", "Hello")

    assert 1 == done.code
    assert done.out.startswith("1 question through 2 backends: 1 thing differs that must not\n")
    assert re.search(r"^openai +differs .* usage lost$", done.out, re.MULTILINE)
    assert "\nopenai: usage came over the wire and is not in the answer: expected {" in done.out
    assert 4 == len(configured.questions)


def test_compare_lets_a_model_vary(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the service itself says otherwise gives 1, unless it may."""
    from isochat.local import LocalEndpoint

    script = [{"reply": "Heads.", "times": 1}, {"reply": "Tails.", "times": 1}] * 2
    if next(info for info in backends.available() if info.name == "openai").missing:
        pytest.skip("the openai client is not installed")
    with LocalEndpoint(script) as fickle:
        monkeypatch.setenv("DATABRICKS_HOST", fickle.host)
        monkeypatch.setenv("DATABRICKS_TOKEN", fickle.token)
        words = ("compare", "-e", CLAUDE, "-b", "rest,openai", "Toss a coin.")
        done, let_pass = typed(*words), typed(*words, "--may-vary")

    assert (1, 0) == (done.code, let_pass.code)
    assert "openai: the service itself gave another text: expected 'Heads.', found 'Tails.'\n" in done.out
    assert "--may-vary" in done.err
    assert "the same answer" in let_pass.out.splitlines()[0]
    assert "varies" in let_pass.out


def test_compare_as_data_and_as_a_page(configured: LocalEndpoint, typed: Typed, folder: Path) -> None:
    """`--json` has everything, `--html` writes the page."""
    pytest.importorskip("pygal", reason="the report needs pygal: pip install 'isochat[report]'")
    done = typed("compare", "-b", "rest", "--stream", "--json", "--html", "report.html", "-o", "top_k=3", "Hello")
    said = json.loads(done.out)

    assert 0 == done.code
    assert (True, 3) == (said["same"], said["askings"][0]["exchanges"][0]["body"]["top_k"])
    assert said["backends"][0]["ms"]["first_token"]["n"] == 1
    assert "the report is in report.html" in done.err
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_compare_asks_a_file_of_questions(configured: LocalEndpoint, typed: Typed, folder: Path) -> None:
    """Each line is a question with options of its own; the rest is said for all."""
    lines = ['"one"', "", json.dumps({"messages": "two words", "name": "second", "max_tokens": 1, "stream": True})]
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = typed(
        "compare", "--questions", "questions.jsonl", "-b", "rest", "-s", "Be brief.", "--concurrency", "2", "--json"
    )
    said = json.loads(done.out)

    assert 0 == done.code
    assert ["line 1", "second"] == [each["name"] for each in said["questions"]]
    bodies = sorted((each.json for each in configured.questions), key=lambda body: body.get("max_tokens", 0))
    assert [None, True] == [body.get("stream") for body in bodies]
    assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in bodies)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--questions", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (("--questions", "bad.jsonl"), "line 2 is neither a text nor has `messages`"),
        (("--questions", "empty.jsonl"), "there is no question in it"),
        (("--questions", "wrong.jsonl", "-b", "rest"), "questions[1].temprature: no such option (line 3)"),
        (("--questions", "number.jsonl", "-b", "rest", "-s", "Be brief."), "questions[0].messages[1]: "),
        (("--questions", "bad.jsonl", "Hello"), "there is a question already"),
        (("-b", "reest", "Hello"), "no backend is called 'reest'"),
        (("-b", ",", "Hello"), "backends: there is none"),
        (("-n", "0", "Hello"), "'--repeat' / '-n'"),
        (("--html", "no/such/folder.html", "-b", "rest", "Hello"), "cannot be written"),
    ],
)
def test_compare_refuses_what_was_said_wrongly(
    configured: LocalEndpoint, typed: Typed, folder: Path, words: tuple[str, ...], says: str
) -> None:
    """It ends with 2 and says what is wrong."""
    if "--html" in words:
        pytest.importorskip("pygal", reason="the report needs pygal: pip install 'isochat[report]'")
    (folder / "bad.jsonl").write_text('"one"\n{"question": "two"}\n', encoding="utf-8")
    (folder / "wrong.jsonl").write_text('"one"\n\n{"messages": "two", "temprature": 1}\n', encoding="utf-8")
    (folder / "number.jsonl").write_text('{"messages": 5}\n', encoding="utf-8")
    (folder / "empty.jsonl").write_text("\n\n", encoding="utf-8")
    done = typed("compare", *words)

    assert 2 == done.code
    assert says in re.sub(r"\s+", " ", done.err)


@pytest.mark.parametrize(("fault", "code"), [(403, 3), (503, 4), (400, 1)])
def test_compare_ends_as_the_error_that_everybody_got(
    configured: LocalEndpoint, typed: Typed, fault: int, code: int
) -> None:
    """Where nobody was answered, the exit code is that of the error."""
    from isochat.local import Fault

    configured.order(Fault(status=fault, times=None))
    done = typed("compare", "-b", "rest", "--attempts", "1", "Hello")

    assert code == done.code
    assert re.search(r"^rest +failed", done.out, re.MULTILINE)


@posix
def test_a_terminal_sees_how_far_a_comparison_is(configured: LocalEndpoint, folder: Path) -> None:
    """There is a bar while it asks, and the table after it."""
    with Terminal("compare", "-b", "rest", "-n", "3", "Hello") as terminal:
        while terminal.read():
            pass

        assert 0 == terminal.process.wait(30)
    assert "3/3" in terminal.shown
    assert "same" in terminal.shown.rpartition("3/3")[2]
