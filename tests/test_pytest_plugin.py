"""What isochat brings to somebody else's pytest: each test here is a project of theirs, run as they run it."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from isochat.backends import BUILT_IN

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
CLIENTS = {"aiohttp", "databricks", "databricks_langchain", "httpx", "httpx2", "langchain_core", "mlflow", "openai"}

# Backends of other people's: one that loses a part of the answer, and one whose client is not there.
STRANGERS = """
from dataclasses import replace
from isochat.backends.rest import RestBackend

class Lossy(RestBackend):
    name = "lossy"

    def decode(self, reply):
        answer = super().decode(reply)
        (choice,) = answer.choices
        return replace(answer, choices=(replace(choice, finish_reason=None),))

class Absent(RestBackend):
    name = "absent"
    requires = ("no_such_client",)
"""
BACKENDS = "[isochat.backends]\nlossy = strangers:Lossy\nabsent = strangers:Absent\n"

Run: TypeAlias = "Callable[..., pytest.RunResult]"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in the project, where isochat's own entry points are known, and no other plugin is if not asked for.

    As its metadata says it: isochat may be on the path here without being installed.
    """
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{n} = {m}\n" for n, m in named.items()) for group, named in points.items()]
    for name, text in {"isochat_": "".join(lines), "strangers": BACKENDS}.items():
        metadata = pytester.mkdir(f"{name}-0.dist-info")
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text(text, encoding="utf-8")
    pytester.makeini("[pytest]")  # whatever stands in a folder above
    pytester.makepyfile(strangers=STRANGERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), *sys.path]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def with_arguments(*arguments: str, plugin: str = "isochat") -> pytest.RunResult:
        strict = ["--strict-markers", "-W", "error", "-p", "no:cacheprovider", "-p", plugin]
        return pytester.runpytest_subprocess(*strict, *arguments, timeout=100)  # sooner than faulthandler_timeout

    return with_arguments


# ---- what it costs


def test_it_costs_nothing_unused(pytester: pytest.Pytester, run: Run) -> None:
    """A run that has no use for it imports the module that the entry point names, and no other."""
    pytester.makeconftest("""
        import pathlib, sys

        def pytest_unconfigure(config):
            name = "with" if config.pluginmanager.has_plugin("isochat") else "without"
            pathlib.Path(name).write_text("\\n".join(sys.modules))
    """)
    pytester.makepyfile("def test(): pass")
    run().assert_outcomes(passed=1)
    run(plugin="no:isochat").assert_outcomes(passed=1)
    loaded, bare = (set((pytester.path / name).read_text(encoding="utf-8").split()) for name in ("with", "without"))

    assert {"isochat", "isochat.testing", "isochat.testing.pytest_plugin"} == loaded - bare


def test_collecting_imports_no_client(pytester: pytest.Pytester, run: Run) -> None:
    """Which backends there are, and which are installed, is known without their clients."""
    pytester.makeconftest(f"""
        import sys

        def pytest_collection_finish(session):
            assert {len(BUILT_IN) + 2} == len(session.items)
            assert set() == {CLIENTS!r} & set(sys.modules)
    """)
    pytester.makepyfile("def test(chat_backend, isochat_local): pass")
    result = run("--collect-only", "-q")

    assert 0 == result.ret
    assert [
        f"test_collecting_imports_no_client.py::test[{name}]" for name in sorted([*BUILT_IN, "absent", "lossy"])
    ] == [line for line in result.outlines if "::" in line]


def test_the_options_are_told(run: Run) -> None:
    """`--help` and `--markers` say what there is."""
    run("--help").stdout.fnmatch_lines(["*--isochat-backends=NAMES*", "*--isochat-require=NAMES*"])
    run("--markers").stdout.fnmatch_lines(["@pytest.mark.isochat(script=*"])


# ---- the local endpoint


def test_any_client_finds_it(pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that takes its workspace from the environment asks the local endpoint, whatever the shell says.

    Afterwards the environment is what it was.
    """
    shell = {
        "ISOCHAT_BACKEND": "no-such-backend",
        "ISOCHAT_HOST": "https://real.cloud.databricks.com",
        "DATABRICKS_HOST": "https://real.cloud.databricks.com",
        "DATABRICKS_CONFIG_PROFILE": "prod",
        "DATABRICKS_AUTH_TYPE": "databricks-cli",
        "ARM_CLIENT_ID": "somebody",
        "ARM_CLIENT_SECRET": "secret",
        "ARM_TENANT_ID": "somewhere",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "no_proxy": "example.com",
    }
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(f"""
        import os

        import isochat
        import pytest

        ENDPOINT = "databricks-gpt-5-1"
        HI = [{{"role": "user", "content": "Hi"}}]

        def settled():  # without what pytest and MLflow put there, and take away, themselves
            return {{n: v for n, v in os.environ.items() if not n.startswith(("PYTEST_", "_MLFLOW_"))}}

        @pytest.fixture(autouse=True)
        def shell():
            before = settled()
            assert {shell!r}.items() <= before.items()
            yield
            assert before == settled()

        @pytest.fixture
        def answers(shell, isochat_local):
            def once(text):
                assert ("Hi", 1) == (text, len(isochat_local.questions))
            return once

        def test_isochat(answers):
            answers(isochat.query_chat("Hi", endpoint=ENDPOINT).text)

        @pytest.mark.skipif("ai-query" not in {installed()!r}, reason="no SDK")
        def test_isochat_over_sql(answers):
            answers(isochat.query_chat("Hi", endpoint=ENDPOINT, backend="ai-query").text)

        def test_openai(answers):
            openai = pytest.importorskip("openai")
            url = f"{{os.environ['DATABRICKS_HOST']}}/serving-endpoints"
            with openai.OpenAI(base_url=url, api_key=os.environ["DATABRICKS_TOKEN"]) as client:
                answer = client.chat.completions.create(model=ENDPOINT, messages=HI)
            answers(answer.choices[0].message.content)

        def test_databricks_sdk(answers):
            sdk = pytest.importorskip("databricks.sdk")
            body = sdk.WorkspaceClient().api_client.do(
                "POST", f"/serving-endpoints/{{ENDPOINT}}/invocations", body={{"messages": HI}}
            )
            answers(body["choices"][0]["message"]["content"])

        def test_mlflow(answers):
            deployments = pytest.importorskip("mlflow.deployments")
            answer = deployments.get_deploy_client("databricks").predict(endpoint=ENDPOINT, inputs={{"messages": HI}})
            answers(answer["choices"][0]["message"]["content"])
    """)
    result = run("-W", "ignore::ResourceWarning", "-rs")
    outcomes = result.parseoutcomes()

    assert 0 == result.ret
    assert 5 == outcomes["passed"] + outcomes.get("skipped", 0)


def installed() -> list[str]:
    from isochat.backends import available

    return [info.name for info in available() if not info.missing]


def test_a_named_profile_leads_nowhere(pytester: pytest.Pytester, run: Run) -> None:
    """An app that names a profile of the developer's own is told that there is none; it asks no workspace."""
    (Path.home() / ".databrickscfg").write_text("[prod]\nhost = https://real.cloud.databricks.com\ntoken = secret\n")
    pytester.makepyfile("""
        import pytest
        from isochat import ConfigurationError, Connection

        def test(isochat_local):
            with pytest.raises(ConfigurationError, match="no profile 'prod'"):
                Connection(profile="prod").host
    """)

    run().assert_outcomes(passed=1)


def test_markers_add_up(pytester: pytest.Pytester, run: Run) -> None:
    """A test's marker says more than its class's, and that more than its module's; a mark is enough to be served."""
    pytester.makepyfile("""
        import os

        import pytest
        from isochat import RateLimited, Retry, query_chat
        from isochat.local import Script

        pytestmark = pytest.mark.isochat(script=[{"reply": "of the module"}], models={"mine": "llama"})
        TWICE = Script.read([{"reply": "once", "times": 1}])

        def ask(endpoint="mine"):
            return query_chat("Hi", endpoint=endpoint, retry=Retry(attempts=1)).text

        def test_module():
            assert "of the module" == ask()

        @pytest.mark.isochat(script=[{"reply": "of the class"}], families=["gpt", "llama"])
        class TestClass:
            def test_class(self, isochat_local):
                assert "of the class" == ask()
                assert {"gpt", "llama"} == {each.family.name for each in isochat_local.endpoints.values()}

            @pytest.mark.isochat(family="claude")
            def test_function(self, isochat_local):
                assert "of the class" == ask()
                assert {"claude", "llama"} == {each.family.name for each in isochat_local.endpoints.values()}

            @pytest.mark.isochat(faults=[429])
            def test_fault(self, isochat_local):
                with pytest.raises(RateLimited):
                    ask()
                assert "of the class" == ask()
                assert 2 == len(isochat_local.received)

        @pytest.mark.parametrize("answer", [pytest.param("x", marks=pytest.mark.isochat(script=[{"reply": "x"}]))])
        def test_parameter(answer):
            assert answer == ask()

        @pytest.mark.isochat(script=TWICE)
        @pytest.mark.parametrize("time", [1, 2])
        def test_a_script_begins_anew(time):
            assert "once" == ask()
    """)

    run().assert_outcomes(passed=7)


def test_a_mark_reaches_no_other_test(pytester: pytest.Pytester, run: Run) -> None:
    """A class that is marked does not mark the tests that it inherits for the others that inherit them."""
    pytester.makepyfile("""
        import os
        import pytest

        class Shared:
            def test(self):
                assert self.served == ("DATABRICKS_HOST" in os.environ)

        @pytest.mark.isochat
        class TestMarked(Shared):
            served = True

        class TestUnmarked(Shared):
            served = False

        @pytest.mark.isochat
        def test_marked():
            assert "DATABRICKS_HOST" in os.environ

        def test_unmarked():
            assert "DATABRICKS_HOST" not in os.environ
    """)

    run().assert_outcomes(passed=4)


def test_a_wrong_marker_names_the_test(pytester: pytest.Pytester, run: Run) -> None:
    """A keyword or a value that makes no sense is told with the test that says it."""
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.isochat(scrip=[])
        def test_keyword(): pass

        @pytest.mark.isochat(colour="red")
        def test_nonsense(): pass

        @pytest.mark.isochat("rules: []")
        def test_position(): pass

        @pytest.mark.isochat(script="rules: [{reply: {txt: Hi}}]")
        def test_script(): pass

        @pytest.mark.isochat(family="gtp")
        def test_family(): pass

        @pytest.mark.isochat(family="gpt", families=["llama"])
        def test_both(): pass
        """
    )
    result = run()
    told = "test_it.py::test_{}: @pytest.mark.isochat: {}".format

    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines_random(
        [
            told("keyword", "there is no keyword 'scrip': did you mean 'script'?"),
            told("nonsense", "there is no keyword 'colour': there are family, script, *, faults, families*"),
            told("position", "it takes keywords, as in script='rules: []'"),
            told("script", "script*rules*[[]0].reply.txt: there is no 'txt' here*"),
            told("family", "families: there is no 'gtp'; there are *"),
            told("both", "family and families are the same thing"),
        ]
    )


def test_a_client_may_be_kept(pytester: pytest.Pytester, run: Run) -> None:
    """An app may make its client once for all tests; what arrived in one test is not in the next."""
    pytester.makepyfile("""
        import functools
        import os
        import threading

        import pytest
        from isochat import Connection, query_chat
        from isochat.backends import load

        @functools.cache
        def client():
            return load("rest")(Connection())

        @pytest.fixture(autouse=True, scope="session")
        def nothing_is_left():
            yield
            client().close()
            assert [] == [thread.name for thread in threading.enumerate() if thread.name.startswith("isochat")]

        @pytest.mark.parametrize("time", range(20))
        def test(isochat_local, time):
            assert str(time) == query_chat(str(time), endpoint="databricks-gpt-5-1", backend=client()).text
            assert 1 == len(isochat_local.received)

        @pytest.mark.isochat(token="mine", host="localhost")
        def test_elsewhere(isochat_local):
            assert "mine" == isochat_local.token == os.environ["DATABRICKS_TOKEN"]

        def test_here_again(isochat_local):
            assert "Hi" == query_chat("Hi", endpoint="databricks-gpt-5-1", backend=client()).text
    """)

    run().assert_outcomes(passed=22)


def test_what_isochat_keeps_is_closed(pytester: pytest.Pytester, run: Run) -> None:
    """The sessions that `query_chat()` made for a test end with it."""
    pytester.makepyfile("""
        import pytest
        from isochat import _api, query_chat

        @pytest.fixture
        def afterwards():
            yield
            assert {} == _api._kept

        def test(afterwards, isochat_local):
            query_chat("Hi", endpoint="databricks-gpt-5-1")
            assert 1 == len(_api._kept)
    """)

    run().assert_outcomes(passed=1)


def test_a_port_that_is_taken_is_left_to_whoever_has_it(pytester: pytest.Pytester, run: Run) -> None:
    """The next test's endpoint listens elsewhere."""
    pytester.makepyfile("""
        import socket
        import pytest
        from isochat import query_chat

        @pytest.fixture(scope="session")
        def taken():
            with socket.socket() as other:
                yield other

        def test_first(isochat_local, request):
            request.config.first = isochat_local.host

        def test_then(taken, request):
            taken.bind(("127.0.0.1", int(request.config.first.rpartition(":")[2])))
            taken.listen()

        def test_second(isochat_local, request):
            assert request.config.first != isochat_local.host
            assert "Hi" == query_chat("Hi", endpoint="databricks-gpt-5-1").text
    """)

    run().assert_outcomes(passed=3)


def test_what_it_needs_is_told(pytester: pytest.Pytester, run: Run) -> None:
    """Where the local endpoint cannot be started, the test fails and names the line that installs it."""
    pytester.makeconftest("import sys; sys.modules['aiohttp'] = None")
    pytester.makepyfile("def test(isochat_local): pass")
    result = run()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs aiohttp: pip install 'isochat[[]local]'"])


def test_asyncio(pytester: pytest.Pytester, run: Run) -> None:
    """The fixture is a plain one: a test of any asynchronous kind can ask for it."""
    pytest.importorskip("anyio.pytest_plugin")
    pytester.makepyfile("""
        import asyncio
        import pytest
        from isochat import aquery_chat

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def asks(local):
            answers = await asyncio.gather(*(aquery_chat(str(n), endpoint="databricks-gpt-5-1") for n in range(5)))
            assert ["0", "1", "2", "3", "4"] == [answer.text for answer in answers]
            assert 5 == len(local.questions)

        @pytest.mark.anyio
        async def test_anyio(isochat_local):
            await asks(isochat_local)

        def test_asyncio(isochat_local):
            asyncio.run(asks(isochat_local))
    """)

    run("-p", "anyio").assert_outcomes(passed=2)


def test_several_processes(pytester: pytest.Pytester, run: Run) -> None:
    """Under pytest-xdist each process has its own."""
    pytest.importorskip("xdist")
    pytester.makepyfile("""
        import pytest
        from isochat import query_chat

        @pytest.mark.parametrize("time", range(20))
        def test(isochat_local, chat_backend, time):
            assert str(time) == query_chat(str(time), endpoint="databricks-gpt-5-1").text
            assert [str(time)] == [each.json["messages"][0]["content"] for each in isochat_local.received]
    """)

    run("-p", "xdist", "-n", "2", "--isochat-backends", "rest,lossy").assert_outcomes(passed=40)


# A local endpoint that takes what one with cassettes would, until there is one.
RECORDING = """
    import isochat.local

    class Recording(isochat.local.LocalEndpoint):
        def __init__(self, script=None, upstream=None, port=0, token=None, cassette=None, record_mode=None):
            super().__init__(port=port, token=token)
            self.tape = cassette, record_mode, script or upstream

    isochat.local.LocalEndpoint = Recording
"""


def test_a_cassette_has_a_place_of_its_own(pytester: pytest.Pytester, run: Run) -> None:
    """`cassette=True` is a folder named after the test; the mode of the command line is for marked tests only."""
    pytester.makeconftest(RECORDING)
    folder = pytester.mkdir("unit")
    (folder / "test_it.py").write_text(
        """
import pathlib
import pytest

HERE = pathlib.Path(__file__).parent / "cassettes" / "test_it"

@pytest.mark.isochat(cassette=True)
@pytest.mark.parametrize("x", ["a-b"])
def test_function(isochat_local, x):
    assert isochat_local.tape == (HERE / "test_function[a-b]", "once", None)

@pytest.mark.isochat(cassette=True, upstream="https://real.cloud.databricks.com")
class TestClass:
    def test_method(self, isochat_local):
        assert isochat_local.tape == (HERE / "TestClass.test_method", "once", "https://real.cloud.databricks.com")

    @pytest.mark.isochat(cassette="named", record_mode="all")
    def test_named(self, isochat_local):
        assert isochat_local.tape == ("named", "once", "https://real.cloud.databricks.com")

    @pytest.mark.isochat(cassette=None)
    def test_without(self, isochat_local):
        assert isochat_local.tape == (None, None, "https://real.cloud.databricks.com")

def test_none(isochat_local):
    assert isochat_local.tape == (None, None, None)
""",
        encoding="utf-8",
    )

    run("--isochat-record-mode=once").assert_outcomes(passed=5)


def test_no_two_tests_have_one_cassette(pytester: pytest.Pytester, run: Run) -> None:
    """Names that no folder can have, or that are told apart by what it cannot have, are still different folders."""
    pytester.makepyfile("""
        import pathlib
        import pytest
        from isochat import query_chat

        HERE = pathlib.Path(__file__).parent / "cassettes" / pathlib.Path(__file__).stem
        pytestmark = pytest.mark.isochat(cassette=True)

        @pytest.mark.parametrize("x", ["a/b", "a b", "a-b", "c" * 300, "c" * 299 + "d"])
        def test_function(x):
            assert query_chat(x, endpoint="databricks-gpt-5-1").text == x

        class TestOne:
            class TestInner:
                def test_method(self):
                    query_chat("one", endpoint="databricks-gpt-5-1")

        class TestTwo:
            class TestInner:
                def test_method(self):
                    query_chat("two", endpoint="databricks-gpt-5-1")
    """)

    run("--isochat-record-mode=once").assert_outcomes(passed=7)
    folders = sorted(folder.name for folder in pytester.path.glob("cassettes/*/*"))

    assert 7 == len(folders)
    assert {"TestOne.TestInner.test_method", "TestTwo.TestInner.test_method", "test_function[a-b]"} <= set(folders)
    run().assert_outcomes(passed=7)


def test_a_cassette_that_is_replayed_answers_alone(pytester: pytest.Pytester, run: Run) -> None:
    """What a test says about how to record it is no error when it is not recorded."""
    pytester.makeconftest(RECORDING)
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.isochat(cassette="here", upstream="https://real.cloud.databricks.com")

        def test_replayed(isochat_local):
            assert isochat_local.tape == ("here", "none", None)

        @pytest.mark.isochat(record_mode="new_episodes")
        def test_recorded(isochat_local):
            assert isochat_local.tape == ("here", "new_episodes", "https://real.cloud.databricks.com")
    """)

    run().assert_outcomes(passed=2)


def test_a_recording_answers_in_place_of_the_script(pytester: pytest.Pytester, run: Run) -> None:
    """Recorded once, the same test is answered by the file, and by nothing else."""
    pytester.makepyfile("""
        import pytest
        from isochat import query_chat

        @pytest.mark.isochat(cassette=True, script=[{"reply": "from the tape"}])
        def test_app(isochat_local):
            assert query_chat("Hi", endpoint="databricks-gpt-5-1").text == "from the tape"
            assert not isochat_local.unmatched
    """)

    run("--isochat-record-mode=once").assert_outcomes(passed=1)
    (recording,) = pytester.path.glob("cassettes/*/test_app/*.yaml")
    before = recording.read_bytes()
    run().assert_outcomes(passed=1)
    assert before == recording.read_bytes()

    changed = recording.read_text(encoding="utf-8").replace("from the tape", "from another tape")
    recording.write_text(changed, encoding="utf-8")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*from another tape*"])


# ---- backends

ASKS = """
import os
from isochat import query_chat

def test(chat_backend, isochat_local):
    answer = query_chat("Hi", endpoint="databricks-gpt-5-1")
    assert (chat_backend, "stop") == (answer.backend, answer.finish_reason)
"""


def test_each_backend_is_a_test(pytester: pytest.Pytester, run: Run) -> None:
    """One that differs fails under its name, and one that is not there is skipped with what would install it."""
    pytester.makepyfile(test_it=ASKS)
    result = run("--isochat-backends", "rest, lossy,absent", "-rA")

    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "E*AssertionError: assert ('lossy', 'stop') == ('lossy', None)",
            "PASSED test_it.py::test[[]rest[]]",
            "SKIPPED*: the 'absent' backend needs no_such_client, which is not installed: pip install strangers",
            "FAILED test_it.py::test[[]lossy[]] - *",
        ]
    )


def test_what_is_required_is_not_skipped(pytester: pytest.Pytester, run: Run) -> None:
    """A backend that has to be installed and is not fails the test, with what would install it."""
    pytester.makepyfile(test_it=ASKS)
    result = run("--isochat-backends", "rest,absent", "--isochat-require", "all")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["--isochat-require: the 'absent' backend needs no_such_client*: pip install strangers"]
    )


def test_the_configuration_file_chooses(pytester: pytest.Pytester, run: Run) -> None:
    """What stands in the file holds, unless the command line says otherwise."""
    pytester.makeini("[pytest]\nisochat_backends = rest,absent\nisochat_require = absent\n")
    pytester.makepyfile(ASKS)

    run().assert_outcomes(passed=1, errors=1)
    run("--isochat-require=").assert_outcomes(passed=1, skipped=1)
    run("--isochat-backends=rest", "--isochat-require=rest").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--isochat-backends=rest,opnai"], "--isochat-backends: 'opnai' is none of the backends: absent, ai-query, *"),
        (["--isochat-backends=rest", "--isochat-require=mlflow"], "--isochat-require: 'mlflow' is none of *: rest"),
    ],
)
def test_a_misspelt_backend_ends_the_run(pytester: pytest.Pytester, run: Run, arguments: list[str], told: str) -> None:
    """No test is run, whether or not it would have asked for a backend."""
    pytester.makepyfile("def test(): pass")
    result = run(*arguments)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_a_test_may_choose_its_backends(pytester: pytest.Pytester, run: Run) -> None:
    """By parameters, or by a fixture of its own."""
    pytester.makepyfile("""
        import os
        import pytest

        @pytest.mark.parametrize("chat_backend", ["rest", "lossy"], indirect=True)
        def test_parameters(chat_backend):
            assert chat_backend == os.environ["ISOCHAT_BACKEND"]

        class TestOverridden:
            @pytest.fixture
            def chat_backend(self):
                return "mine"

            def test(self, chat_backend):
                assert "mine" == chat_backend

        def test_too_late(request):
            request.getfixturevalue("chat_backend")
    """)
    result = run()

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["chat_backend has to be an argument of the test or of a fixture*"])


def test_comparing(pytester: pytest.Pytester, run: Run) -> None:
    """`compare()` asks the same endpoint, and its failure names the backend, the question and the field."""
    pytester.makepyfile("""
        from isochat import compare

        def test(isochat_local):
            compare("Hi", endpoint="databricks-gpt-5-1", backends=["rest", "lossy"]).assert_equal()
    """)
    result = run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*AssertionError: *", "E*lossy, question 1: finish_reason *", 'E*- "stop"'])
