"""Real, unmodified clients are content with the local endpoint."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAUDE, GPT, LLAMA = "databricks-claude-sonnet-4-5", "databricks-gpt-5-1", "databricks-meta-llama-3-3-70b-instruct"
ASKED = [{"role": "user", "content": "What is X?"}]


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What a client leaves open is collected in its own test, not in another that looks at what is left."""
    yield
    gc.collect()


@pytest.mark.parametrize("name", [CLAUDE, GPT, LLAMA, "external-gpt"])
def test_openai_asks_and_streams(local: Any, name: str) -> None:
    """The OpenAI client gets the same answer whole and streamed, and its usage."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        whole = client.chat.completions.create(model=name, messages=ASKED)
        chunks = list(client.chat.completions.create(model=name, messages=ASKED, stream=True))
    assert whole.choices[0].message.content == "What is X?"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "What is X?"
    assert whole.usage.total_tokens == next(c.usage for c in reversed(chunks) if c.usage).total_tokens
    assert [r.path for r in local.questions] == ["/serving-endpoints/chat/completions"] * 2


def test_async_openai_asks_and_streams(local: Any) -> None:
    """The asynchronous OpenAI client works as well, many at once."""
    openai = pytest.importorskip("openai")

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
            many = await asyncio.gather(
                *[
                    client.chat.completions.create(model=CLAUDE, messages=[{"role": "user", "content": f"Number {n}"}])
                    for n in range(20)
                ]
            )
            assert [m.choices[0].message.content for m in many] == [f"Number {n}" for n in range(20)]
            stream = await client.chat.completions.create(model=CLAUDE, messages=ASKED, stream=True)
            assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "What is X?"

    asyncio.run(main())


def test_openai_runs_a_tool(local: Any) -> None:
    """The OpenAI client's dumped tool call can be answered, and the answer comes back."""
    openai = pytest.importorskip("openai")
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ]
    asked: list[Any] = [{"role": "user", "content": "Call get_weather."}]
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        message = client.chat.completions.create(model=LLAMA, messages=asked, tools=tools).choices[0].message
        call = message.tool_calls[0]
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        asked += [
            {"role": "assistant", "content": message.content, "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "Sunny."},
        ]
        assert (
            client.chat.completions.create(model=LLAMA, messages=asked, tools=tools).choices[0].message.content
            == "Sunny."
        )


def test_openai_does_not_try_again_what_is_not_emulated(local: Any) -> None:
    """Asking for embeddings fails once, plainly."""
    openai = pytest.importorskip("openai")
    with (
        openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client,
        pytest.raises(openai.APIStatusError, match="does not emulate embeddings"),
    ):
        client.embeddings.create(model=GPT, input="Hi")
    assert len(local.received) == 1


@pytest.fixture
def workspace(local: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """A databricks-sdk client by token; its construction must neither warn nor log."""
    sdk = pytest.importorskip("databricks.sdk")
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CONFIG_PROFILE", "DATABRICKS_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        client = sdk.WorkspaceClient(host=local.host, token=local.token, auth_type="pat")
        yield client
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    client.api_client._api_client._session.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # databricks-sdk does not close its sockets
def test_databricks_sdk_is_content(local: Any, workspace: Any) -> None:
    """databricks-sdk is constructed without a warning, lists, gets, asks, and knows who it is."""
    from databricks.sdk.errors import NotFound
    from databricks.sdk.service.serving import ChatMessage, ChatMessageRole

    assert workspace.config.workspace_id
    names = [e.name for e in workspace.serving_endpoints.list()]
    assert CLAUDE in names
    found = workspace.serving_endpoints.get(CLAUDE)
    assert (found.task, found.state.ready.value) == ("llm/v1/chat", "READY")
    reply = workspace.serving_endpoints.query(
        CLAUDE, messages=[ChatMessage(role=ChatMessageRole.USER, content="What is X?")], max_tokens=50
    )
    assert reply.choices[0].message.content == "What is X?"
    assert reply.usage.total_tokens == 6
    assert workspace.current_user.me().user_name == "local@example.com"
    with pytest.raises(NotFound, match="does not exist"):
        workspace.serving_endpoints.get("nope")
    assert local.questions[-1].path == f"/serving-endpoints/{CLAUDE}/invocations"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_databricks_sdk_signs_in_as_a_service(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """databricks-sdk fetches an OAuth token with client id and secret, and it is accepted."""
    sdk = pytest.importorskip("databricks.sdk")
    monkeypatch.delenv("DATABRICKS_TOKEN", raising=False)
    client = sdk.WorkspaceClient(
        host=local.host, client_id=local.client_id, client_secret=local.client_secret, auth_type="oauth-m2m"
    )
    assert CLAUDE in [e.name for e in client.serving_endpoints.list()]
    token = next(r for r in local.received if r.path == "/oidc/v1/token")
    assert local.client_secret not in repr(token) + repr(token.headers) + token.body.decode()
    client.api_client._api_client._session.close()


@pytest.mark.filterwarnings("ignore")  # LangChain's imports warn of much that is not ours
def test_langchain_asks_streams_and_runs_a_tool(local: Any) -> None:
    """ChatDatabricks works where the family suits it, and loses Gemini's signature as it does with the service."""
    langchain = pytest.importorskip("databricks_langchain")
    openai = pytest.importorskip("openai")
    from databricks.sdk import WorkspaceClient
    from langchain_core.messages import HumanMessage, ToolMessage

    def get_weather(city: str) -> None:
        """Tell the weather."""

    workspace = WorkspaceClient(host=local.host, token=local.token, auth_type="pat")
    for name, failure in ((CLAUDE, None), (LLAMA, None), ("databricks-gemini-3-pro", openai.BadRequestError)):
        model = langchain.ChatDatabricks(endpoint=name, workspace_client=workspace)
        assert "What is X?" in str(model.invoke("What is X?").content)
        assert "X?" in "".join(str(chunk.content) for chunk in model.stream("What is X?"))
        tooled = model.bind_tools([get_weather])
        called = tooled.invoke("get_weather please")
        rest = [HumanMessage("get_weather please"), called]
        rest.append(ToolMessage("Sunny", tool_call_id=called.tool_calls[0]["id"]))
        if failure is None:
            assert tooled.invoke(rest).content == "Sunny"
        else:
            with pytest.raises(failure, match="thought_signature"):
                tooled.invoke(rest)


@pytest.mark.filterwarnings("ignore")  # mlflow's imports warn of much that is not ours
def test_mlflow_asks_and_streams(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow's deployments client predicts and streams."""
    deployments = pytest.importorskip("mlflow.deployments")
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", local.token)
    client = deployments.get_deploy_client("databricks")
    reply = client.predict(endpoint=LLAMA, inputs={"messages": ASKED})
    assert reply["choices"][0]["message"]["content"] == "What is X?"
    chunks = client.predict_stream(endpoint=LLAMA, inputs={"messages": ASKED})
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "What is X?"
