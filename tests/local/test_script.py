"""A script answers as written, and says exactly where it is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isochat.local import LocalEndpoint, Script, ScriptError

if TYPE_CHECKING:
    from pathlib import Path

LLAMA, CLAUDE = "databricks-meta-llama-3-3-70b-instruct", "databricks-claude-sonnet-4-5"

SCRIPT = """
- when: {contains: weather, tool_result: false}
  reply:
    text: Let me look.
    tool_calls:
      - {name: get_weather, arguments: {city: Oslo}}
- when: {tool_result: sunny}
  reply: {text: It is sunny., usage: {prompt_tokens: 5, completion_tokens: 4}}
- when: {regex: "^(hi|hello)\\\\b", turn: 1}
  reply: Hello to you.
- when: {endpoint: "databricks-claude-*", contains: think}
  reply: {text: Four., reasoning: Two and two.}
- when: {contains: busy}
  fault: {status: 429, retry_after: 2}
  times: 1
- when: {contains: slow}
  reply: Slowly.
  fault: {headers: {x-slow: "1"}}
"""


def text(reply: Any) -> Any:
    """The content of the first choice."""
    return reply["choices"][0]["message"]["content"]


def test_the_first_rule_that_fits_answers(ask_of: Any) -> None:
    """Rules are tried in order; text, tool calls, usage and reasoning are given as written; the rest is echoed."""
    with LocalEndpoint(SCRIPT) as local:
        ask = ask_of(local)
        asked = [{"role": "user", "content": "How is the weather?"}]
        first = ask.chat(LLAMA, asked)["choices"][0]
        call = first["message"]["tool_calls"][0]
        assert (first["message"]["content"], first["finish_reason"]) == ("Let me look.", "tool_calls")
        assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
        done = ask.chat(
            LLAMA, [*asked, first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "very sunny"}]
        )
        assert text(done) == "It is sunny."
        assert done["usage"]["total_tokens"] == 9
        assert text(ask.chat(LLAMA, "hello there")) == "Hello to you."
        assert text(ask.chat(LLAMA, "think")) == "think"
        thought = text(ask.chat(CLAUDE, "think", thinking={"type": "enabled", "budget_tokens": 10}))
        assert [b.get("text") or b["summary"][0]["text"] for b in thought] == ["Two and two.", "Four."]
        chunks = ask.stream(LLAMA, "hi")
        assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == "Hello to you."


def test_a_rule_can_order_a_fault(ask_of: Any) -> None:
    """A fault instead of a reply, used up after `times`, or together with one."""
    with LocalEndpoint(SCRIPT) as local:
        ask = ask_of(local)
        with pytest.raises(ask.Refused) as caught:
            ask.chat(LLAMA, "busy?")
        assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "2")
        assert text(ask.chat(LLAMA, "busy?")) == "busy?"
        local.reset()
        with pytest.raises(ask.Refused):
            ask.chat(LLAMA, "busy?")
        body = b'{"messages":[{"role":"user","content":"slow"}]}'
        _, headers, _ = ask.request("POST", f"/serving-endpoints/{LLAMA}/invocations", body)
        assert headers["x-slow"] == "1"


def test_a_strict_script_says_what_did_not_match(ask_of: Any) -> None:
    """Without a fitting rule there is an error that names the turn, the endpoint and what the user said."""
    with LocalEndpoint({"strict": True, "rules": [{"when": {"contains": "x"}, "reply": "y"}]}) as local:
        ask = ask_of(local)
        assert text(ask.chat(LLAMA, "x")) == "y"
        with pytest.raises(ask.Refused, match=r"No rule of the script fits turn 1 of .*llama.*Good day"):
            ask.chat(LLAMA, "Good day")


def test_a_script_is_read_from_a_path(tmp_path: Path, ask_of: Any) -> None:
    """A path, as text or Path; its name is in the errors."""
    path = tmp_path / "script.yaml"
    path.write_text("- reply: Always.\n", encoding="utf-8")
    for source in (path, str(path)):
        with LocalEndpoint(source) as local:
            assert text(ask_of(local).chat(LLAMA, "Hi")) == "Always."
    path.write_text("- reply: ok\n- replay: x\n", encoding="utf-8")
    with pytest.raises(ScriptError, match=r"script.yaml:2: \[1\].replay: there is no 'replay' here"):
        Script.read(path)
    with pytest.raises(ScriptError, match=r"gone.yaml: cannot be read"):
        Script.read(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "- reply: a\n  when: {contain: x}\n",
            r"script:2: \[0\].when.contain: there is no 'contain' here; there are contains, endpoint",
        ),
        ("- when: {contains: x}\n", r"script:1: \[0\]: a rule needs a `reply` or a `fault`"),
        (
            "rules:\n- reply:\n    tool_calls:\n    - {arguments: {}}\n",
            r"script:4: rules\[0\].reply.tool_calls\[0\]: a tool call needs a `name`",
        ),
        ("- reply: {text: 1}\n", r"script:1: \[0\].reply.text: expected a text, got 1"),
        ("- reply: {finish_reason: done}\n", "'done' is not one of content_filter, length, stop, tool_calls"),
        ("- when: {regex: '('}\n  reply: x\n", r"script:1: \[0\].when.regex: not a regular expression"),
        ("- fault: {stat: 1}\n", r"script:1: \[0\].fault: fault has no field 'stat'"),
        ("- reply: x\n  times: 0\n", r"script:2: \[0\].times: at least 1"),
        ("- reply: x\n  times: many\n", r"script:2: \[0\].times: expected a number, got 'many'"),
        ("a: [\n", "script:2: not YAML"),
        ("strict: maybe\nrules: []\n", "script:1: strict: expected true or false"),
        ({"rules": {}}, "script: rules: expected a list"),
        ([{"reply": {"usage": {"prompt_tokens": "1"}}}], r"script: \[0\].reply.usage.prompt_tokens: expected a number"),
        ("just words\n", "expected a list of rules"),
        (["no rule"], r"script: \[0\]: expected a mapping"),
    ],
)
def test_a_wrong_script_says_where(source: Any, words: str) -> None:
    """The line for text, the path for data, and what was expected."""
    with pytest.raises(ScriptError, match=words):
        Script.read(source)


def test_an_empty_script_echoes(ask_of: Any) -> None:
    """No rules, no difference."""
    with LocalEndpoint("\n") as local:
        assert text(ask_of(local).chat(LLAMA, "Hi")) == "Hi"
