"""Who is measured, and the worker that measures one of them.

Each contestant asks the same question in up to four ways: `ask`, `aask`, `stream`, `astream`. A worker is a process of
one contestant, in whatever environment has its packages; it is told what to do by lines of JSON and answers by lines
of JSON, so that contestants of different environments can take turns in one run.

    python benchmarks/contestants.py NAME HOST
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import resource
import socket
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

MESSAGES: list[Any] = [{"role": "user", "content": "What is a mixture of experts model?"}]
TOKEN = "t"


class Contestant:
    """A way to ask. What it cannot do it does not have."""

    module: str = ""

    def __init__(self, host: str) -> None:
        self.host = host

    def setup(self) -> None:
        """Make what a program makes once."""


class RawSocket(Contestant):
    """The floor: the question as JSON, a head, a socket; the head of the answer as a dictionary, its body from JSON."""

    module = "json"

    def setup(self) -> None:
        address = urlsplit(self.host)
        self.socket = socket.create_connection((address.hostname, address.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.netloc = address.netloc

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        body = json.dumps({"messages": messages}).encode()
        headers = {"Host": self.netloc, "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        headers |= {"Accept": "application/json", "Content-Length": str(len(body))}
        lines = ["POST /serving-endpoints/e/invocations HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "\r\n"]
        self.socket.sendall("\r\n".join(lines).encode() + body)
        held = self.socket.recv(65536)
        while b"\r\n\r\n" not in held:
            held += self.socket.recv(65536)
        head, _, said = held.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        found = {}
        for field in fields:
            name, _, value = field.partition(":")
            found[name.lower()] = value.strip()
        while len(said) < int(found["content-length"]):
            said += self.socket.recv(65536)
        assert status.split(" ")[1] == "200"
        return json.loads(said)


class HttpClient(Contestant):
    module = "http.client"

    def setup(self) -> None:
        import http.client

        self.connection = http.client.HTTPConnection(urlsplit(self.host).netloc)

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        body = json.dumps({"messages": messages})
        self.connection.request("POST", "/serving-endpoints/e/invocations", body, headers)
        return json.loads(self.connection.getresponse().read())


class Pyreqwest(Contestant):
    """pyreqwest with orjson, by hand."""

    module = "pyreqwest.client"

    def setup(self) -> None:
        import orjson
        from pyreqwest.client import ClientBuilder, SyncClientBuilder

        self.json = orjson
        self.client = SyncClientBuilder().no_proxy().build()
        self.aclient = ClientBuilder().no_proxy().build()
        self.headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

    def _request(self, client: Any, messages: list[Any], endpoint: str = "e", **more: Any) -> Any:
        body = self.json.dumps({"messages": messages, **more})
        url = f"{self.host}/serving-endpoints/{endpoint}/invocations"
        return client.post(url).headers(self.headers).body_bytes(body)

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.json.loads(bytes(self._request(self.client, messages).build().send().bytes()))

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        response = await self._request(self.aclient, messages).build().send()
        return self.json.loads(bytes(await response.bytes()))

    def _events(self, held: bytes) -> tuple[list[Any], bytes]:
        *events, held = held.split(b"\n\n")
        return [self.json.loads(event[6:]) for event in events if event != b"data: [DONE]"], held

    def stream(self) -> Iterator[Any]:
        request = self._request(self.client, MESSAGES, stream=True).streamed_read_buffer_limit(0).build_streamed()
        held = b""
        with request as response:
            reader = response.body_reader
            while (read := reader.read_chunk()) is not None:
                events, held = self._events(held + bytes(read))
                yield from events

    async def astream(self, endpoint: str = "e") -> AsyncIterator[Any]:
        request = self._request(self.aclient, MESSAGES, endpoint, stream=True)
        held = b""
        async with request.streamed_read_buffer_limit(0).build_streamed() as response:
            reader = response.body_reader
            while (read := await reader.read_chunk()) is not None:
                events, held = self._events(held + bytes(read))
                for event in events:
                    yield event


class Httpx2(Contestant):
    module = "httpx2"

    def setup(self) -> None:
        import httpx2

        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        self.client = httpx2.Client(limits=limits, timeout=60)
        self.aclient = httpx2.AsyncClient(limits=limits, timeout=60)
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    def _said(self, messages: list[Any], endpoint: str = "e", **more: Any) -> dict[str, Any]:
        url = f"{self.host}/serving-endpoints/{endpoint}/invocations"
        return {"url": url, "json": {"messages": messages, **more}, "headers": self.headers}

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.client.post(**self._said(messages)).json()

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return (await self.aclient.post(**self._said(messages))).json()

    def stream(self) -> Iterator[Any]:
        with self.client.stream("POST", **self._said(MESSAGES, stream=True)) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    async def astream(self, endpoint: str = "e") -> AsyncIterator[Any]:
        async with self.aclient.stream("POST", **self._said(MESSAGES, endpoint, stream=True)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])


class OpenAI(Contestant):
    module = "openai"

    def setup(self) -> None:
        import openai

        said: dict[str, Any] = {"base_url": f"{self.host}/serving-endpoints", "api_key": TOKEN, "max_retries": 0}
        self.client, self.aclient = openai.OpenAI(**said), openai.AsyncOpenAI(**said)

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.client.chat.completions.create(model="e", messages=messages)

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return await self.aclient.chat.completions.create(model="e", messages=messages)

    def stream(self) -> Iterator[Any]:
        yield from self.client.chat.completions.create(model="e", messages=MESSAGES, stream=True)

    async def astream(self, endpoint: str = "e") -> AsyncIterator[Any]:
        async for chunk in await self.aclient.chat.completions.create(model=endpoint, messages=MESSAGES, stream=True):
            yield chunk


class OpenAIResponses(OpenAI):
    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.client.responses.create(model="e", input=messages)

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return await self.aclient.responses.create(model="e", input=messages)

    stream = astream = None  # type: ignore[assignment]


class MLflow(Contestant):
    module = "mlflow.deployments"

    def setup(self) -> None:
        os.environ |= {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": TOKEN, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        from mlflow.deployments import get_deploy_client

        self.client = get_deploy_client("databricks")

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.client.predict(endpoint="e", inputs={"messages": messages})

    def stream(self) -> Iterator[Any]:
        yield from self.client.predict_stream(endpoint="e", inputs={"messages": MESSAGES, "stream": True})


class DatabricksSDK(Contestant):
    module = "databricks.sdk"

    def setup(self) -> None:
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.service.serving import ChatMessage, ChatMessageRole

        self.client = WorkspaceClient(host=self.host, token=TOKEN)
        self.message, self.role = ChatMessage, ChatMessageRole

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        said = [self.message(role=self.role(message["role"]), content=message["content"]) for message in messages]
        return self.client.serving_endpoints.query("e", messages=said)


class AIQuery(DatabricksSDK):
    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        from databricks.sdk.service.sql import StatementParameterListItem

        said = StatementParameterListItem(name="p", value=messages[0]["content"])
        return self.client.statement_execution.execute_statement(
            "SELECT ai_query('e', :p, failOnError => false)", "w", parameters=[said], wait_timeout="50s"
        )


class LiteLLM(Contestant):
    module = "litellm"

    def setup(self) -> None:
        import litellm

        litellm.suppress_debug_info = True
        self.litellm = litellm
        self.said: dict[str, Any] = {"api_base": f"{self.host}/serving-endpoints", "api_key": TOKEN}

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.litellm.completion(model="databricks/e", messages=messages, **self.said)

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return await self.litellm.acompletion(model="databricks/e", messages=messages, **self.said)

    def stream(self) -> Iterator[Any]:
        yield from self.litellm.completion(model="databricks/e", messages=MESSAGES, stream=True, **self.said)


class AnyLLM(Contestant):
    module = "any_llm"

    def setup(self) -> None:
        import any_llm

        self.any_llm = any_llm
        base = f"{self.host}/serving-endpoints"
        self.said: dict[str, Any] = {"model": "databricks:e", "api_base": base, "api_key": TOKEN}

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.any_llm.completion(messages=messages, **self.said)

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return await self.any_llm.acompletion(messages=messages, **self.said)

    def stream(self) -> Iterator[Any]:
        yield from self.any_llm.completion(messages=MESSAGES, stream=True, **self.said)


class AISuite(Contestant):
    module = "aisuite"

    def setup(self) -> None:
        import aisuite

        said = {"api_key": TOKEN, "base_url": f"{self.host}/serving-endpoints"}
        self.client = aisuite.Client({"openai": said})

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.client.chat.completions.create(model="openai:e", messages=messages)


class LangChain(Contestant):
    """`init_chat_model`, which knows no Databricks, so OpenAI with the workspace's address."""

    module = "langchain.chat_models"

    def setup(self) -> None:
        from langchain.chat_models import init_chat_model

        said: dict[str, Any] = {"base_url": f"{self.host}/serving-endpoints", "api_key": TOKEN, "max_retries": 0}
        self.model = init_chat_model("e", model_provider="openai", **said)

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.model.invoke(messages)

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return await self.model.ainvoke(messages)

    def stream(self) -> Iterator[Any]:
        yield from self.model.stream(MESSAGES)


class ChatDatabricks(LangChain):
    module = "databricks_langchain"

    def setup(self) -> None:
        os.environ |= {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": TOKEN}
        from databricks_langchain import ChatDatabricks as Model

        self.model = Model(endpoint="e")


class Isochat(Contestant):
    """`query_chat` through a backend, made once."""

    module = "isochat"

    def __init__(self, host: str, backend: str, **options: Any) -> None:
        super().__init__(host)
        self.name, self.options = backend, options

    def setup(self) -> None:
        from isochat import Connection, aquery_chat, query_chat
        from isochat.backends import load

        self.backend: Any = load(self.name)(Connection(self.host, TOKEN), **self.options)
        self.query, self.aquery = query_chat, aquery_chat

    def ask(self, messages: list[Any] = MESSAGES) -> Any:
        return self.query(messages, endpoint="e", backend=self.backend)

    async def aask(self, messages: list[Any] = MESSAGES) -> Any:
        return await self.aquery(messages, endpoint="e", backend=self.backend)

    def stream(self) -> Iterator[Any]:
        yield from self.query(MESSAGES, endpoint="e", backend=self.backend, stream=True)

    async def astream(self, endpoint: str = "e") -> AsyncIterator[Any]:
        async with await self.aquery(MESSAGES, endpoint=endpoint, backend=self.backend, stream=True) as stream:
            async for chunk in stream:
                yield chunk


class IsochatWhole(Isochat):
    """A backend whose route is answered whole here."""

    stream = astream = None  # type: ignore[assignment]


CONTESTANTS: dict[str, Callable[[str], Contestant]] = {
    "raw socket": RawSocket,
    "pyreqwest": Pyreqwest,
    "http.client": HttpClient,
    "httpx2": Httpx2,
    "openai": OpenAI,
    "openai-responses": OpenAIResponses,
    "mlflow": MLflow,
    "databricks-sdk": DatabricksSDK,
    "ai-query": AIQuery,
    "litellm": LiteLLM,
    "any-llm": AnyLLM,
    "aisuite": AISuite,
    "init_chat_model": LangChain,
    "langchain": ChatDatabricks,
    "isochat rest": lambda host: Isochat(host, "rest", transport="httpx2"),
    "isochat rest+fast": lambda host: Isochat(host, "rest", transport="pyreqwest"),
    "isochat openai": lambda host: Isochat(host, "openai"),
    "isochat openai-responses": lambda host: IsochatWhole(host, "openai-responses"),
    "isochat mlflow": lambda host: Isochat(host, "mlflow"),
    "isochat databricks-sdk": lambda host: Isochat(host, "databricks-sdk"),
    "isochat ai-query": lambda host: IsochatWhole(host, "ai-query", warehouse_id="w"),
    "isochat langchain": lambda host: Isochat(host, "langchain"),
}


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────


def resident() -> int:
    """Bytes of memory in use now."""
    gc.collect()
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def counted(work: Callable[[], object], times: int) -> dict[str, Any]:
    """CPU and wall time of each of so many, after some that get the machine's caches warm again."""
    for _ in range(times // 4):
        work()
    walls = []
    cpu = time.process_time()
    for _ in range(times):
        begun = time.perf_counter()
        work()
        walls.append(time.perf_counter() - begun)
    return {"cpu": (time.process_time() - cpu) / times, "wall": statistics.median(walls), "walls": walls}


class Worker:
    def __init__(self, contestant: Contestant) -> None:
        self.it: Any = contestant
        self.loop = asyncio.new_event_loop()

    def can(self) -> list[str]:
        return [way for way in ("ask", "aask", "stream", "astream") if getattr(self.it, way, None)]

    def ask(self, times: int) -> dict[str, Any]:
        return counted(self.it.ask, times)

    def aask(self, times: int) -> dict[str, Any]:
        return self.flight(times, 1)

    def flight(self, times: int, at_once: int) -> dict[str, Any]:
        """So many questions, so many of them at once."""

        async def run(times: int) -> None:
            left = iter(range(times))

            async def one() -> None:
                for _ in left:
                    await self.it.aask()

            await asyncio.gather(*(one() for _ in range(at_once)))

        self.loop.run_until_complete(run(times // 4))
        cpu, begun = time.process_time(), time.perf_counter()
        self.loop.run_until_complete(run(times))
        wall = time.perf_counter() - begun
        return {"cpu": (time.process_time() - cpu) / times, "wall": wall / times, "rps": times / wall}

    def stream(self, times: int) -> dict[str, Any]:
        chunks, firsts = 0, []
        for _ in self.it.stream():
            pass
        cpu, begun = time.process_time(), time.perf_counter()
        for _ in range(times):
            asked = time.perf_counter()
            for place, _ in enumerate(self.it.stream()):
                if not place:
                    firsts.append(time.perf_counter() - asked)
                chunks += 1
        wall = time.perf_counter() - begun
        return {"cpu": (time.process_time() - cpu) / chunks, "wall": wall / chunks, "first": statistics.median(firsts)}

    def astream(self, times: int) -> dict[str, Any]:
        async def run(times: int) -> int:
            chunks = 0
            for _ in range(times):
                async for _ in self.it.astream():
                    chunks += 1
            return chunks

        self.loop.run_until_complete(run(1))
        cpu, begun = time.process_time(), time.perf_counter()
        chunks = self.loop.run_until_complete(run(times))
        return {"cpu": (time.process_time() - cpu) / chunks, "wall": (time.perf_counter() - begun) / chunks}

    def hold(self, times: int) -> dict[str, Any]:
        """So many streams open at once: the memory that each takes. The OpenAI client has no more than a thousand."""

        async def run() -> tuple[int, int]:
            warm = self.it.astream("hold")
            await anext(warm)
            before = resident()
            streams = [self.it.astream("hold") for _ in range(times - 1)]
            for place in range(0, len(streams), 50):
                await asyncio.gather(*(anext(stream) for stream in streams[place : place + 50]))
            after = resident()
            for stream in (warm, *streams):
                await stream.aclose()
            return before, after

        before, after = self.loop.run_until_complete(run())
        return {"bytes": (after - before) / (times - 1)}

    def grow(self, times: int) -> dict[str, Any]:
        """So many questions one after the other: what the first thousands cost, and the last, and what stays."""
        window = max(times // 20, 100)
        before = resident()
        first = counted(self.it.ask, window)["cpu"]
        for _ in range(times - 2 * window):
            self.it.ask()
        last = counted(self.it.ask, window)["cpu"]
        return {"first": first, "last": last, "ratio": last / first, "bytes": resident() - before}

    def messages(self, most: int) -> dict[str, Any]:
        """The cost of a question by the number of its messages."""
        costs = {}
        number = 1
        while number <= most:
            said = [{"role": ("user", "assistant")[place % 2], "content": "Words."} for place in range(number)]
            costs[number] = counted(lambda said=said: self.it.ask(said), max(3, 300 // number))["cpu"]
            number *= 10
        return {"cpu": costs}


def main() -> None:
    name, host = sys.argv[1:]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    contestant = CONTESTANTS[name](host)
    bare = resident()
    importlib.import_module(contestant.module)
    imported = resident()
    contestant.setup()
    worker = Worker(contestant)
    talk = os.fdopen(os.dup(1), "w")  # what a client prints is not for the orchestrator
    os.dup2(2, 1)
    print(json.dumps({"can": worker.can(), "import_bytes": imported - bare}), file=talk, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            said = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # noqa: BLE001 - told, and the others go on
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), file=talk, flush=True)


if __name__ == "__main__":
    main()
