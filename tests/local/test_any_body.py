"""Whatever a client sends, the endpoint has an answer: yes, or a no in words."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from isochat.local import endpoints

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

ENDPOINTS = endpoints()
FULL: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": "x"}]}],
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "x", "tool_call_id": "c"},
        {"role": "user", "content": "call f"},
    ],
    "max_tokens": 20,
    "temperature": 1,
    "n": 2,
    "stop": ["x"],
    "stream": False,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}},
    "logprobs": True,
    "top_logprobs": 1,
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "usage_context": {"a": "b"},
}
SIMPLE: dict[str, Any] = {"messages": [{"role": "user", "content": "f"}], "tools": FULL["tools"], "tool_choice": "auto"}
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "text", "f", "enabled", "auto"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "name", "a", "role"]), inner),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


@st.composite
def bodies(draw: Any) -> Any:
    """A body that is fine but for a place or two."""
    body = copy.deepcopy(draw(st.sampled_from([FULL, SIMPLE])))
    for name in draw(st.lists(st.sampled_from(sorted(FULL)), max_size=6)):
        body.pop(name, None)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(body)))
        if not place:
            return draw(junk)
        at = body
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = draw(junk)
    return body


@hypothesis.given(body=bodies(), name=st.sampled_from(sorted(ENDPOINTS)), stream=st.booleans())
@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_whatever_is_sent_gets_an_answer(asking: Any, body: Any, name: str, stream: bool) -> None:  # noqa: FBT001
    """Status 200, or 400 with an error in words; never 500."""
    if isinstance(body, dict) and stream:
        body = {**body, "stream": True}
    content = json.dumps(body).encode()
    status, headers, answer = asking.request("POST", f"/serving-endpoints/{name}/invocations", content)
    assert status in {200, 400}, answer
    if headers["content-type"] == "application/json" and status == 400:
        assert json.loads(answer)["message"]
