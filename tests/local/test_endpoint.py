"""The local endpoint starts, stops, records, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from isochat.local import Fault, LocalEndpoint, serve, shared

LLAMA = "databricks-meta-llama-3-3-70b-instruct"


def soon(condition: Any, seconds: float = 5.0) -> bool:
    """Whether it comes true before long."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def test_it_starts_fast_and_leaves_nothing() -> None:
    """Fifty starts and stops: each far below a second, and no thread, socket or warning is left."""
    before = threading.active_count()
    files = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    began = time.monotonic()
    for _ in range(50):
        with LocalEndpoint() as local:
            assert local.host.startswith("http://127.0.0.1:")
    assert time.monotonic() - began < 25
    gc.collect()
    assert threading.active_count() == before
    if files:
        assert len(list(Path("/proc/self/fd").iterdir())) <= files


def test_stop_ends_what_is_going_on(ask_of: Any) -> None:
    """A request in the middle of a long stall is cut off, and stop returns at once; stopping again does nothing."""
    local = LocalEndpoint(faults=[Fault(stall=60)]).start()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            ask_of(local).chat(LLAMA, "Hi")
        except OSError as why:
            failed.append(why)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert soon(lambda: local.questions)
    began = time.monotonic()
    local.stop()
    local.stop()
    waiting.join(5)
    assert failed
    assert time.monotonic() - began < 5


def test_it_knows_its_connections(ask: Any) -> None:
    """`open_connections` counts what is open now; a client that goes away is noticed, even while it waits."""
    local = ask.local
    local.order(Fault(stall=60))
    sock = socket.create_connection((local.host.split("//")[1].split(":")[0], int(local.host.rsplit(":", 1)[1])))
    assert soon(lambda: local.open_connections == 1)
    body = b'{"messages":[{"role":"user","content":"Hi"}]}'
    head = f"POST /serving-endpoints/{LLAMA}/invocations HTTP/1.1\r\nHost: localhost\r\n"
    sock.sendall(f"{head}Authorization: Bearer {local.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert soon(lambda: local.questions)
    sock.close()
    assert soon(lambda: local.open_connections == 0)


def test_it_records_what_arrived(ask: Any) -> None:
    """Everything but its own statement, in order, with the credential masked."""
    local = ask.local
    began = time.monotonic()
    ask.get("/.isochat")
    ask.get("/api/2.0/serving-endpoints?a=1&b=%20")
    ask.post(
        f"/serving-endpoints/{LLAMA}/invocations", {"messages": [{"role": "user", "content": "Hi"}]}, {"X-Mine": "yes"}
    )
    listed, asked = local.received
    assert (listed.method, listed.path, dict(listed.query), listed.json) == (
        "GET",
        "/api/2.0/serving-endpoints",
        {"a": "1", "b": " "},
        None,
    )
    assert local.questions == [asked]
    assert asked.json == {"messages": [{"role": "user", "content": "Hi"}]}
    assert (asked.headers["x-mine"], asked.headers["AUTHORIZATION"], "X-MINE" in asked.headers) == (
        "yes",
        "Bearer ***",
        True,
    )
    assert began <= listed.at <= asked.at <= time.monotonic()
    local.reset()
    assert local.received == []


def test_every_answer_can_be_quoted_to_support(ask: Any) -> None:
    """Good or bad, an answer carries a request id of its own, and says it is Databricks."""
    seen = set()
    for method, path in (
        ("GET", "/.isochat"),
        ("GET", "/nowhere"),
        ("POST", "/serving-endpoints/nope/invocations"),
        ("GET", "/api/2.0/serving-endpoints"),
    ):
        _, headers, _ = ask.request(method, path, b"{}" if method == "POST" else None)
        assert headers["server"] == "databricks"
        assert headers["x-databricks-org-id"]
        assert headers["x-request-id"] in headers["server-timing"]
        seen.add(headers["x-request-id"])
    assert len(seen) == 4


def test_endpoints_have_metadata(ask: Any) -> None:
    """Listed and one by one, with the task where the service has it."""
    listed = ask.get("/api/2.0/serving-endpoints")["endpoints"]
    assert {e["name"] for e in listed} == set(ask.local.endpoints)
    for row in listed:
        assert ask.get(f"/api/2.0/serving-endpoints/{row['name']}") == row
    tasks = {e["name"]: e.get("task") for e in listed}
    assert (tasks[LLAMA], tasks["agent-chat"], tasks["external-gpt"]) == ("llm/v1/chat", "agent/v2/chat", None)
    with pytest.raises(ask.Refused, match="RESOURCE_DOES_NOT_EXIST"):
        ask.get("/api/2.0/serving-endpoints/nope")


def test_anyone_can_add_endpoints(ask_of: Any) -> None:
    """A name and a family are enough; a model id of one's own is named in the replies."""
    with LocalEndpoint(
        models={"mine": "claude", "other": {"family": "llama", "model": "my-llama"}}, families=["gpt"]
    ) as local:
        assert set(local.endpoints) == {"mine", "other", "databricks-gpt-5-1", "databricks-gpt-5-mini"}
        assert ask_of(local).chat("mine", "Hi")["id"].startswith("msg_bdrk_")
        assert ask_of(local).chat("other", "Hi")["model"] == "my-llama"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": {"a/b": "claude"}}, "'a/b' cannot be an endpoint's name"),
        ({"models": {"a": "clade"}}, "no family 'clade'; families are claude-3, claude"),
        ({"models": {"a": {"family": "claude", "x": 1}}}, "no key 'x'"),
        ({"models": 5}, "models: expected a mapping of names to families, got 5"),
        ({"models": {"a": 5}}, r"models\['a'\]: expected a family, or a mapping of texts, got 5"),
        ({"models": {5: "claude"}}, "models: 5 cannot be an endpoint's name"),
        ({"families": ["x"]}, "families: there is no 'x'"),
        ({"upstream": "foo"}, "upstream: expected the address of a server, http://… or https://…, got 'foo'"),
        ({"upstream": ""}, "upstream: expected the address"),
        ({"upstream": "ftp://x"}, "upstream: expected the address of a server, .* got 'ftp://x'"),
        ({"upstream": "http://x:port/v1"}, "upstream: expected the address of a server"),
        ({"upstream": 5}, "upstream: expected the address of a server, .* got 5"),
        ({"upstream": "user:secret@x/v1"}, "got 'x/v1'"),
        ({"script": "- x\n"}, "script"),
        ({"faults": [{"x": 1}]}, "no field 'x'"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], words: str) -> None:
    """Before anything starts."""
    with pytest.raises(ValueError, match=words):
        LocalEndpoint(**settings)


def test_a_taken_port_is_an_error_at_once(local: Any) -> None:
    """OSError in the caller's thread, and nothing left behind."""
    with pytest.raises(OSError, match=r"in use|Address"):
        LocalEndpoint(port=int(local.host.rsplit(":", 1)[1])).start()
    with pytest.raises(RuntimeError, match="not started"):
        LocalEndpoint().host  # noqa: B018 - the property speaks


def test_it_works_in_asynchronous_code(ask_of: Any) -> None:
    """`async with`, without blocking the loop."""

    async def main() -> str:
        async with LocalEndpoint() as local:
            reply = await asyncio.to_thread(ask_of(local).chat, LLAMA, "Hi")
            return str(reply["choices"][0]["message"]["content"])

    assert asyncio.run(main()) == "Hi"


def test_many_ask_at_once(ask: Any) -> None:
    """Fifty threads get fifty right answers."""
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: answers.update({n: ask.chat(LLAMA, f"Number {n}")["choices"][0]["message"]["content"]})
        )
        for n in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"Number {n}" for n in range(50)}


def test_ipv6_works_where_there_is_any(ask_of: Any) -> None:
    """`host="::1"` gives a bracketed URL."""
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(LocalEndpoint(host="::1"))
        except OSError:
            pytest.skip("no IPv6 here")
        assert local.host.startswith("http://[::1]:")
        assert ask_of(local).chat(LLAMA, "Hi")


SHARED = """
import os, threading
from isochat.local import shared
found = set()
threads = [threading.Thread(target=lambda: found.add(shared())) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(found) == 1
here = shared()
import http.client
def ask():
    place = shared().host.removeprefix("http://")
    c = http.client.HTTPConnection(place, timeout=5)
    c.request("GET", "/api/2.0/serving-endpoints", headers={"Authorization": "Bearer " + shared().token})
    assert c.getresponse().read()
    c.close()
ask()
child = os.fork()
if child == 0:
    assert shared() is not here
    ask()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert shared() is here
ask()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_shared_one_is_one_and_survives_a_fork() -> None:
    """One per process whoever asks first, another in a forked child, and nothing to see when the process ends."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", SHARED],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=_env(),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_the_shared_one_is_always_the_same() -> None:
    """Asked twice, it is the same."""
    assert shared() is shared()
    assert shared().host


def test_the_shared_one_forgets_in_time(ask_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run for days, so it remembers only the latest requests."""
    monkeypatch.setattr("isochat.local._endpoint.REMEMBERED", 2)
    monkeypatch.setattr("isochat.local._endpoint._shared", None)
    local = shared()
    try:
        for _ in range(4):
            ask_of(local).chat(LLAMA, "Hi")
        assert len(local.received) == 2
    finally:
        local.stop()


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
def test_serve_ends_quietly(number: signal.Signals) -> None:
    """In the foreground until Ctrl-C or SIGTERM; then exit code 0 and not a word."""
    code = "from isochat.local import serve; serve(port=0, ready=lambda l: print(l.host, flush=True))"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_env(),
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_serve_in_a_thread_of_ones_own(ask_of: Any) -> None:
    """`ready` gets the endpoint; stopping that ends serving."""
    there: list[LocalEndpoint] = []
    settings = {"port": 0, "models": {"mine": "llama"}, "token": "local-t", "ready": there.append}
    thread = threading.Thread(target=serve, kwargs=settings)
    thread.start()
    assert soon(lambda: there)
    assert (there[0].token, ask_of(there[0]).chat("mine", "Hi")["object"]) == ("local-t", "chat.completion")
    there[0].stop()
    thread.join(5)
    assert not thread.is_alive()


def test_it_imports_nothing_else_of_the_package() -> None:
    """So that a misreading of the service is not written twice; and aiohttp only when it starts."""
    code = "import sys, isochat.local; print('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=_env(), check=True
    )
    sources = "".join(
        p.read_text(encoding="utf-8") for p in (Path(__file__).parents[2] / "src/isochat/local").glob("*.py")
    )
    assert "from isochat import" not in sources
    assert not [
        line
        for line in sources.splitlines()
        if line.strip().startswith(("from isochat.", "import isochat.")) and "isochat.local" not in line
    ]
    assert done.stdout.endswith("False\n")


def test_without_aiohttp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact pip line."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'isochat\[local\]'"):
        LocalEndpoint().start()


def test_an_expect_header_is_honoured(ask: Any) -> None:
    """A client that waits for 100 Continue, as curl does, gets it."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    assert ask.request("POST", f"/serving-endpoints/{LLAMA}/invocations", body, {"Expect": "100-continue"})[0] == 200
