"""What only MLflow does: the seam that is called, what lies beneath it, and each surprise that is worked round.

The tests named `test_surprise_…` drive the client alone. They fail when an upgrade mends what they show, which is the
day to look whether the work-round may go.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

deployments = pytest.importorskip(
    "mlflow.deployments", reason="the mlflow backend needs mlflow-skinny: pip install 'isochat[mlflow]'"
)
pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

import requests
from mlflow.deployments import databricks
from mlflow.exceptions import MlflowException
from mlflow.utils import request_utils

from isochat import (
    ChatError,
    ConfigurationError,
    Connection,
    DeadlineExceeded,
    RateLimited,
    RequestRefused,
    Retry,
    ServiceError,
    aquery_chat,
    query_chat,
)
from isochat.backends import mlflow as ours
from isochat.backends.mlflow import MLflowBackend
from isochat.local import Fault, LocalEndpoint
from isochat.testing.conformance import ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
ONCE = Retry(attempts=1)
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def backend(local: LocalEndpoint) -> Iterator[MLflowBackend]:
    with_connection = MLflowBackend(Connection(local.host, local.token))
    yield with_connection
    with_connection.close()


@pytest.fixture
def client(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client as anyone makes it, without isochat, with the environment that it needs."""
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", local.token)
    return deployments.get_deploy_client("databricks")


def _events(*texts: str) -> list[bytes]:
    deltas = [{"index": 0, "delta": {"content": text}} for text in texts]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    lines = [
        b"data: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"
        for choice in [*deltas, last]
    ]
    return [*lines, b"data: [DONE]\n\n"]


# ── the seam ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_patched_methods_see_the_call(
    backend: MLflowBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What wraps `predict` and `predict_stream`, as tracing libraries do, sees each call and each chunk."""
    seen: list[Any] = []
    predict, predict_stream = (
        databricks.DatabricksDeploymentClient.predict,
        databricks.DatabricksDeploymentClient.predict_stream,
    )

    def traced(self: Any, deployment_name: Any = None, inputs: Any = None, endpoint: Any = None) -> Any:
        seen.append((endpoint, inputs))
        return predict(self, deployment_name, inputs, endpoint)

    def traced_stream(self: Any, deployment_name: Any = None, inputs: Any = None, endpoint: Any = None) -> Any:
        seen.append((endpoint, inputs))
        for chunk in predict_stream(self, deployment_name, inputs, endpoint):
            seen.append(chunk["choices"][0]["delta"].get("content"))
            yield chunk

    monkeypatch.setattr(databricks.DatabricksDeploymentClient, "predict", traced)
    monkeypatch.setattr(databricks.DatabricksDeploymentClient, "predict_stream", traced_stream)
    query_chat("Hi", endpoint=LLAMA, backend=backend, max_tokens=5)
    asyncio.run(aquery_chat("Hi", endpoint=LLAMA, backend=backend))
    local.reply(chunks=[b": a comment\n\n", *_events("a", "b")])
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend, stream=True).response

    assert answer.text == "ab"
    assert [(LLAMA, QUESTION | {"max_tokens": 5}), (LLAMA, QUESTION), (LLAMA, QUESTION), "a", "b", None] == seen


def test_a_wrapper_may_ask_something_else_first(
    backend: MLflowBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a wrapper asks another endpoint before, a moderation say, is not taken for the answer."""
    predict = databricks.DatabricksDeploymentClient.predict
    other = "databricks-gpt-5-1"

    def moderated(self: Any, deployment_name: Any = None, inputs: Any = None, endpoint: Any = None) -> Any:
        predict(self, inputs={"messages": [{"role": "user", "content": "Is it fine?"}]}, endpoint=other)
        return predict(self, deployment_name, inputs, endpoint)

    monkeypatch.setattr(databricks.DatabricksDeploymentClient, "predict", moderated)
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert answer.text == "Hi"
    assert [other, LLAMA] == [question.path.split("/")[2] for question in local.questions]


def test_a_wrapper_may_not_ask_again(
    backend: MLflowBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How often the question is sent is isochat's to decide, whatever a wrapper makes of a refusal."""
    predict = databricks.DatabricksDeploymentClient.predict

    def stubborn(self: Any, **said: Any) -> Any:
        try:
            return predict(self, **said)
        except requests.HTTPError:
            return predict(self, **said)

    monkeypatch.setattr(databricks.DatabricksDeploymentClient, "predict", stubborn)
    local.order(Fault(status=503))
    with pytest.raises(ServiceError) as refused:
        query_chat("Hi", endpoint=LLAMA, backend=backend, retry=ONCE)

    assert refused.value.status == 503
    assert len(local.questions) == 1


def test_raw_is_the_clients_own(backend: MLflowBackend) -> None:
    """`raw` is what `predict` gave."""
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert isinstance(answer.raw, databricks.DatabricksEndpoint)
    assert answer.raw.choices[0]["message"]["content"] == "Hi"


def test_it_is_mlflow_that_sends(backend: MLflowBackend, local: LocalEndpoint) -> None:
    """The headers are MLflow's, those of its plugins among them."""
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    headers = local.questions[0].headers

    assert headers["user-agent"].startswith("mlflow-python-client/")
    assert headers["x-databricks-endpoints-api-client"] == "Databricks Deployment Client"


def test_what_it_hangs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLflow that is installed is as we know it; one that is not is refused before anything is sent."""
    assert ours._unknown(databricks, request_utils) is None

    monkeypatch.setattr(databricks.DatabricksDeploymentClient, "_call_endpoint", lambda *_, **__: None)
    assert ours._unknown(databricks, request_utils) == "_call_endpoint does not call get_databricks_host_creds"


def test_an_mlflow_that_is_made_otherwise_is_refused(
    backend: MLflowBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MLflow no longer sends as we know it, that is said, and nothing is sent."""
    monkeypatch.setattr(databricks, "get_databricks_host_creds", lambda *_: None)  # not the one we laid
    monkeypatch.setattr(databricks.DatabricksDeploymentClient, "_call_endpoint", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="how to drive mlflow"):
        query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert local.received == []


def test_others_are_left_alone(
    backend: MLflowBackend, local: LocalEndpoint, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else uses MLflow in this process asks as before, with their own login, at the same time too."""
    monkeypatch.setenv("MLFLOW_ENABLE_DB_SDK", "false")
    monkeypatch.setenv("DATABRICKS_TOKEN", "somebody-elses")
    with query_chat("a b c", endpoint=LLAMA, backend=backend, stream=True) as stream:
        next(stream)
        with pytest.raises(requests.HTTPError):
            client.predict(endpoint=LLAMA, inputs=QUESTION)
        rest = [chunk.text for chunk in stream]
    for session in _sessions():
        session.close()

    assert [True, False] == [question.authorized for question in local.questions]
    assert rest


def _sessions() -> list[Any]:
    """The sessions that MLflow keeps for everybody: closed here, since a warning is an error."""
    import gc

    return [found for found in gc.get_objects() if type(found) is requests.Session]


# ── a client of yours ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_of_yours_is_used(local: LocalEndpoint, client: Any) -> None:
    """Its login is looked up once, as MLflow does it, and then each attempt is one request."""
    backend = MLflowBackend(client=client)
    for _ in range(3):
        query_chat("Hi", endpoint=LLAMA, backend=backend)
    local.order(Fault(status=429), Fault(status=502))
    streamed = query_chat(
        "Hi", endpoint=LLAMA, backend=backend, stream=True, retry=Retry(attempts=3, first_wait=0)
    ).response
    backend.close()

    assert streamed.text == "Hi"
    assert [429, 502] == [attempt.status for attempt in streamed.attempts]
    assert len(local.questions) == 6
    assert len(local.received) - len(local.questions) <= 3
    assert all(question.authorized for question in local.questions)
    assert "yours" in repr(backend)
    with pytest.raises(ConfigurationError, match="leave out the connection"):
        MLflowBackend(Connection(local.host, local.token), client=client)


def test_another_kind_of_client_is_refused() -> None:
    """What cannot predict is no deployments client."""
    with pytest.raises(ConfigurationError, match="client must be a deployments client of MLflow, not int"):
        MLflowBackend(client=5)


def test_a_wrapper_of_yours_is_used(backend: MLflowBackend, local: LocalEndpoint, client: Any) -> None:
    """Anything with the two methods will do: a cache, for one, whose answers come without bytes."""

    class Cache:
        target_uri = "databricks"
        asked = 0

        def predict(self, **said: Any) -> Any:
            self.asked += 1
            return client.predict(**said) if self.asked == 1 else ANSWER

        def predict_stream(self, **_: Any) -> Iterator[Any]:
            yield {"choices": [{"index": 0, "delta": {"content": "kept"}, "finish_reason": "stop"}]}

    cached = MLflowBackend(client=Cache())
    texts = [query_chat("Hi", endpoint=LLAMA, backend=cached).text for _ in range(2)]
    streamed = query_chat("Hi", endpoint=LLAMA, backend=cached, stream=True).response.text
    cached.close()

    assert ["Hi", "Hi.", "kept"] == [*texts, streamed]
    assert len(local.questions) == 1


def test_a_profile_of_yours_is_used(local: LocalEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`databricks://profile` is looked up where MLflow looks it up."""
    file = tmp_path / "cfg"
    file.write_text(f"[there]\nhost = {local.host}\ntoken = {local.token}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    backend = MLflowBackend(client=deployments.get_deploy_client("databricks://there"))
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)
    backend.close()

    assert answer.text == "Hi"


def test_a_client_for_something_else_is_refused(local: LocalEndpoint) -> None:
    """A client for another target has no workspace to ask."""

    class Other:
        target_uri = "http://gateway"
        predict = print

    with pytest.raises(ConfigurationError, match="not for Databricks"):
        query_chat("Hi", endpoint=LLAMA, backend=MLflowBackend(client=Other()))


def test_a_client_without_a_login_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLflow finds no login, that is a `ConfigurationError`."""
    monkeypatch.setenv("MLFLOW_ENABLE_DB_SDK", "false")
    with pytest.raises(ConfigurationError, match="finds no login"):
        query_chat("Hi", endpoint=LLAMA, backend=MLflowBackend(client=deployments.get_deploy_client("databricks")))


def test_a_slow_look_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's look-up of a login has no bound of its own; the question's holds."""
    over = threading.Event()

    def hang(_: Any) -> Any:
        over.wait(10)
        raise MlflowException("late")

    monkeypatch.setattr("mlflow.utils.databricks_utils.get_databricks_host_creds", hang)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="login"):
        query_chat("Hi", endpoint=LLAMA, backend=MLflowBackend(client=_Plain()), timeout=0.3)
    over.set()

    assert time.monotonic() - begun < 1


class _Plain:
    target_uri = "databricks"
    predict = print


# ── the login ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_environment_is_somebody_elses(
    backend: MLflowBackend, local: LocalEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection's login is the one that is sent: not the environment's, nor `.netrc`'s. None is written."""
    for name in ("HOST", "TOKEN", "CLIENT_ID", "CLIENT_SECRET", "WORKSPACE_ID", "CONFIG_PROFILE"):
        monkeypatch.setenv(f"DATABRICKS_{name}", f"canary-{name.lower()}")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    before = dict(os.environ)
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    assert query_chat("Hi", endpoint=LLAMA, backend=backend, stream=True).response.text == "Hi"

    assert [True, True] == [question.authorized for question in local.received]
    assert "canary" not in str([question.headers for question in local.received])
    assert before == dict(os.environ)


def test_it_logs_in_as_a_machine(local: LocalEndpoint) -> None:
    """OAuth, by the connection: one token for many questions, and a new one when it is refused."""
    pytest.importorskip("databricks.sdk")
    login = Connection(local.host, client_id=local.client_id, client_secret=local.client_secret)
    backend = MLflowBackend(login)
    for _ in range(3):
        query_chat("Hi", endpoint=LLAMA, backend=backend)
    local._sign_in._issued.clear()
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)
    backend.close()

    assert answer.text == "Hi"
    assert ["AuthenticationFailed"] == [attempt.error for attempt in answer.attempts]
    assert len([request for request in local.received if request.path.endswith("/token")]) == 2


def test_two_logins_at_once(local: LocalEndpoint) -> None:
    """Two connections in two threads do not mix, though MLflow's modules are the same."""
    wrong = MLflowBackend(Connection(local.host, "wrong"))
    right = MLflowBackend(Connection(local.host, local.token))
    told: dict[int, str] = {}

    def ask(place: int) -> None:
        try:
            told[place] = query_chat("Hi", endpoint=LLAMA, backend=right if place % 2 else wrong, retry=ONCE).text
        except ChatError as error:
            told[place] = type(error).__name__

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong.close()
    right.close()

    assert {place: "Hi" if place % 2 else "AuthenticationFailed" for place in range(16)} == told


# ── manners ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["my ep", "a?b#c", "größe", "a%2Fb"])
def test_the_name_stays_in_its_place(backend: MLflowBackend, local: LocalEndpoint, name: str) -> None:
    """Whatever stands in an endpoint's name is quoted into its one segment of the path."""
    from urllib.parse import quote

    local.reply(body=ANSWER)
    query_chat("Hi", endpoint=name, backend=backend)

    assert f"/serving-endpoints/{quote(name, safe='')}/invocations" == local.questions[0].path


@pytest.mark.parametrize(
    "chunks",
    [
        [b": hello\n\n", *_events("a", "b")],
        [b"event: message\n" + event for event in _events("a", "b")],
        [b"\xef\xbb\xbf" + _events("a", "b")[0], *_events("a", "b")[1:]],
        [b"id: 1\nretry: 5\n" + event for event in _events("a", "b")],
        [event.replace(b'{"choices"', b'{\ndata: "choices"') for event in _events("a", "b")],
        [b"".join(_events("a", "b"))[:-2]],
    ],
    ids=["comment", "event", "byte order mark", "id", "data lines", "no last blank line"],
)
def test_a_stream_that_mlflow_cannot_read(backend: MLflowBackend, local: LocalEndpoint, chunks: list[bytes]) -> None:
    """Whatever the standard allows is read, and the client does not stumble over it."""
    local.reply(chunks=chunks)
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend, stream=True).response

    assert answer.text == "ab"


def test_odd_line_breaks_in_a_stream(backend: MLflowBackend, local: LocalEndpoint) -> None:
    """What Python takes for the end of a line, and JSON does not, stays in the text."""
    local.reply(chunks=_events("a\u2028b\u0085c"))
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend, stream=True).response

    assert answer.text == "a\u2028b\u0085c"


@contextmanager
def _plain_server(*pieces: bytes, pause: float) -> Iterator[str]:
    """An answer without a length, whose end is the connection's: what a proxy may make of a stream."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                for piece in pieces:
                    peer.sendall(piece)
                    time.sleep(pause)

        serving = threading.Thread(target=serve)
        serving.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        serving.join()


def test_chunks_come_as_they_are_sent_without_a_length() -> None:
    """An answer that ends with its connection comes piece by piece, too."""
    with _plain_server(*_events("a", "b"), pause=0.1) as host:
        backend = MLflowBackend(Connection(host, "t"))
        with query_chat("Hi", endpoint="e", backend=backend, stream=True) as stream:
            answer = stream.response
        backend.close()

    assert answer.text == "ab"
    assert answer.first_event is not None
    assert answer.elapsed is not None
    assert answer.first_event < answer.elapsed - 0.15


# ── surprises ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_surprise_every_question_asks_the_host_first(client: Any, local: LocalEndpoint) -> None:
    """The client alone asks the host for its configuration before every question."""
    for _ in range(3):
        client.predict(endpoint=LLAMA, inputs=QUESTION)

    assert len(local.received) - len(local.questions) >= 3


def test_surprise_it_asks_for_minutes(client: Any, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client alone asks again, here for two seconds, by default for 600, and forgets why."""
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT", "2")
    local.order(Fault(status=429, times=None))
    with pytest.raises(TimeoutError):
        client.predict(endpoint=LLAMA, inputs=QUESTION)

    assert len(local.questions) > 1


def test_surprise_the_status_is_rewritten(client: Any, backend: MLflowBackend, local: LocalEndpoint) -> None:
    """The client alone tells a 409 as a 500; through isochat it is a 409."""
    for _ in range(2):
        local.reply(status=409, body={"error": {"message": "Not now."}})
    with pytest.raises(requests.HTTPError) as alone:
        client.predict(endpoint=LLAMA, inputs=QUESTION)
    with pytest.raises(RequestRefused) as refused:
        query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert alone.value.response.status_code == 500
    assert refused.value.status == 409


def test_surprise_retry_after_is_lost(backend: MLflowBackend, local: LocalEndpoint, client: Any) -> None:
    """The client alone has no headers of a refusal; through isochat Retry-After is told."""
    local.order(Fault(status=409, headers={"retry-after": "7"}))
    with pytest.raises(requests.HTTPError) as alone:
        client.predict(endpoint=LLAMA, inputs=QUESTION)
    local.order(Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(RateLimited) as refused:
        query_chat("Hi", endpoint=LLAMA, backend=backend, retry=ONCE)

    assert {} == dict(alone.value.response.headers)
    assert refused.value.retry_after == 7


@pytest.mark.parametrize("odd", [b": ping\n\n", b"event: message\n", b"\xef\xbb\xbf"])
def test_surprise_a_stream_it_cannot_read(client: Any, local: LocalEndpoint, odd: bytes) -> None:
    """The client alone raises for a comment, an `event:` line and a byte order mark."""
    first, *others = _events("a")
    local.reply(chunks=[odd + first, *others])

    with pytest.raises(MlflowException, match="Unknown response format"):
        list(client.predict_stream(endpoint=LLAMA, inputs=QUESTION))


def test_surprise_a_line_break_that_is_none(client: Any, local: LocalEndpoint) -> None:
    """The client alone takes U+2028 in a text for the end of the event."""
    local.reply(chunks=_events("a\u2028b"))

    with pytest.raises(ValueError, match=r"Unterminated|Invalid"):
        list(client.predict_stream(endpoint=LLAMA, inputs=QUESTION))


def test_surprise_an_error_event_is_a_chunk(client: Any, local: LocalEndpoint) -> None:
    """The client alone gives Databricks' error event as a chunk."""
    local.reply(chunks=[_events("a")[0], b'data: {"error_code": "INTERNAL_ERROR", "message": "Oh."}\n\n'])
    chunks = list(client.predict_stream(endpoint=LLAMA, inputs=QUESTION))

    assert chunks[-1] == {"error_code": "INTERNAL_ERROR", "message": "Oh."}


def test_surprise_netrc_stands_above_the_token(
    client: Any, local: LocalEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client alone, without the SDK, sends what `.netrc` says in place of the token."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("MLFLOW_ENABLE_DB_SDK", "false")
    with pytest.raises(requests.HTTPError):
        client.predict(endpoint=LLAMA, inputs=QUESTION)
    for session in _sessions():
        session.close()

    assert local.questions[0].headers["authorization"].startswith("Basic")
