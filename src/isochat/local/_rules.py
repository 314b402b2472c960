"""What an endpoint refuses to read, in the words and the shape in which it refuses.

Pure: a decoded body and an endpoint in, a `Refusal` or None out. Which rule holds for which family is data
(`_families`); the order is the service's: the decoder first, then the messages, then the model's own objections.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isochat.local import _messages
from isochat.local._quirks import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isochat.local._families import Endpoint, Family

__all__ = ["Refusal", "refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A no: the status and the body, a mapping for JSON or a text for plain text."""

    status: int
    body: dict[str, Any] | str


_HOSTED = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "stop",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "reasoning_effort",
        "thinking",
        "user",
        "enable_safety_filter",
        "usage_context",
        "client_request_id",
        "extra_params",
    ]
)
_EXTERNAL = _HOSTED - {"thinking", "enable_safety_filter", "top_k"} | frozenset(
    [
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "logit_bias",
        "max_completion_tokens",
        "parallel_tool_calls",
        "store",
        "metadata",
        "service_tier",
        "prompt_cache_key",
        "safety_identifier",
        "modalities",
        "audio",
        "prediction",
        "verbosity",
        "functions",
        "function_call",
    ]
)
_AGENT = frozenset(["model", "messages", "input", "custom_inputs", "context", "databricks_options", "stream"])

#: The JSON type each known field must have (null is always allowed: it means absent).
_FIELD_TYPES: Mapping[str, str] = {
    "model": "string",
    "messages": "array",
    "max_tokens": "integer",
    "max_completion_tokens": "integer",
    "temperature": "number",
    "top_p": "number",
    "top_k": "integer",
    "n": "integer",
    "stream": "boolean",
    "stream_options": "object",
    "tools": "array",
    "response_format": "object",
    "logprobs": "boolean",
    "top_logprobs": "integer",
    "reasoning_effort": "string",
    "thinking": "object",
    "output_config": "object",
    "user": "string",
    "usage_context": "object",
    "client_request_id": "string",
    "extra_params": "object",
    "custom_inputs": "object",
    "context": "object",
    "databricks_options": "object",
    "enable_safety_filter": "boolean",
    "parallel_tool_calls": "boolean",
    "seed": "integer",
    "frequency_penalty": "number",
    "presence_penalty": "number",
}
#: Documented ranges (D "Foundation model REST API reference"): least, greatest, whether the least itself is allowed.
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "max_tokens": (1, float("inf"), True),
    "max_completion_tokens": (1, float("inf"), True),
    "temperature": (0, 2, True),
    "top_p": (0, 1, False),
    "top_k": (1, float("inf"), True),
    "n": (1, 5, True),
    "top_logprobs": (0, 20, True),
}
MOST_TOOLS = 32


def refusal(body: object, endpoint: Endpoint, *, invocations: bool = False, responses: bool = False) -> Refusal | None:
    """Why the endpoint does not take this body, or None when it does; `responses` if it came as such a question."""
    family = endpoint.family
    if family.has("responses-only") and not responses:
        words = "BAD_REQUEST: This model is only supported in v1/responses and not in v1/chat/completions."
        return _shaped(_messages.NoError(words, field="model"), family)
    if not isinstance(body, dict):
        return _shaped(_messages.NoError(_messages.wrong_type("", "object", body)), family)
    try:
        _check_fields(body, endpoint)
        _check_types(body)
        _messages.check(body, family)
        _check_options(body, endpoint, invocations=invocations)
    except _messages.NoError as no:
        return _shaped(no, family)
    return None


def _shaped(no: _messages.NoError, family: Family) -> Refusal:
    if no.plain:
        return Refusal(400, no.words + "\n")
    if family.has("external-errors"):
        error = {
            "message": no.words.removeprefix("BAD_REQUEST: "),
            "type": "invalid_request_error",
            "param": no.field,
            "code": no.code.lower(),
        }
        inner = {"external_model_provider": "openai", "external_model_error": {"error": error}}
        return Refusal(400, {"error_code": "BAD_REQUEST", "message": json.dumps(inner, ensure_ascii=False)})
    words = json.dumps({"message": no.words}, ensure_ascii=False) if no.nested else no.words
    return Refusal(400, {"error_code": no.code, "message": words})


def _known(family: Family) -> frozenset[str]:
    if family.has("agent-fields"):
        return _AGENT
    if family.has("strict-fields"):
        adapts = family.has("thinking-budget") and not family.has("no-adaptive-thinking")
        return _HOSTED | ({"output_config"} if adapts else frozenset())
    return _EXTERNAL


def _check_fields(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    family = endpoint.family
    known = _known(family)
    for name in body:
        words = family.refused(name)
        if name not in known or words == UNKNOWN:
            if family.kind == "external":
                raise _messages.NoError(f"Unrecognized request argument supplied: {name}", field=name)
            raise _messages.unknown_field(name)
        if words is not None and body[name] is not None:
            code = "INVALID_ARGUMENT" if words.startswith("INVALID_ARGUMENT") else "BAD_REQUEST"
            raise _messages.NoError(words.replace("{model}", endpoint.model), code=code, field=name)


def _check_types(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        expected = _FIELD_TYPES.get(name)
        if value is None or expected is None:
            continue
        if not _messages.is_type(value, expected):
            raise _messages.NoError(_messages.wrong_type(name, expected, value), field=name)
        low, high, closed = _RANGES.get(name, (float("-inf"), float("inf"), True))
        if expected in {"integer", "number"} and not (low < value <= high or (closed and value == low)):
            least = "at least" if closed else "more than"
            words = f"INVALID_PARAMETER_VALUE: {name} is {value}; it must be {least} {low:g}"
            words += "" if high == float("inf") else f" and at most {high:g}"
            raise _messages.NoError(words + ".", code="INVALID_PARAMETER_VALUE", field=name)
    for name in ("usage_context", "extra_params"):
        for key, value in (body.get(name) or {}).items():
            if not isinstance(value, str):
                raise _messages.NoError(_messages.wrong_type(f"{name}.{key}", "string", value), field=name)
    stop = body.get("stop")
    if (
        stop is not None
        and not isinstance(stop, str)
        and not (isinstance(stop, list) and all(isinstance(s, str) for s in stop))
    ):
        raise _messages.NoError(_messages.wrong_type("stop", "array", stop), field="stop")


def _check_options(body: Mapping[str, Any], endpoint: Endpoint, *, invocations: bool) -> None:
    family = endpoint.family
    if (
        family.has("no-temperature-with-top-p")
        and body.get("temperature") is not None
        and body.get("top_p") is not None
    ):
        words = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        raise _messages.NoError(words, nested=True)
    if family.has("default-temperature") and body.get("temperature") not in {None, 1}:
        words = f"BAD_REQUEST: Unsupported value: 'temperature' does not support {body['temperature']} with this model."
        raise _messages.NoError(words, field="temperature")
    limit, asked = family.limit(), body.get("max_tokens")
    if limit is not None and asked is not None and asked > limit:
        if family.has("plain-text-refusals"):
            words = f"Bad request: rpc error: code = InvalidArgument desc = max_tokens ({asked}) cannot exceed {limit}."
            raise _messages.NoError(words, plain=invocations)
        words = f"BAD_REQUEST: max_new_tokens {asked} cannot be greater than max_output_tokens {limit}."
        raise _messages.NoError(words)
    if family.has("alternation"):
        _messages.check_alternation(body["messages"], plain=invocations and family.has("plain-text-refusals"))
    _check_thinking(body, family)
    _check_format(body, family)
    _check_tools(body, family)


def _check_thinking(body: Mapping[str, Any], family: Family) -> None:
    thinking = body.get("thinking")
    if thinking is None or not family.has("thinking-budget"):
        return
    kind = thinking.get("type")
    kinds = ["enabled", "disabled"] + ([] if family.has("no-adaptive-thinking") else ["adaptive"])
    if not _messages.is_one_of(kind, kinds):
        words = f"thinking: Input tag {kind!r} does not match any of the expected tags: {', '.join(kinds)}"
        raise _messages.NoError(words, nested=True)
    budget = thinking.get("budget_tokens")
    if kind == "enabled":
        if not _messages.is_type(budget, "integer"):
            raise _messages.NoError("thinking.enabled.budget_tokens: Field required", nested=True)
        if body.get("max_tokens") is not None and budget >= body["max_tokens"]:
            raise _messages.NoError("`max_tokens` must be greater than `thinking.budget_tokens`.", nested=True)
    effort = (body.get("output_config") or {}).get("effort")
    if effort is not None and not _messages.is_one_of(effort, ("low", "medium", "high", "xhigh", "max")):
        raise _messages.NoError(f"output_config.effort: {effort!r} is not an effort", nested=True)


def _check_format(body: Mapping[str, Any], family: Family) -> None:
    wanted = body.get("response_format")
    if wanted is None:
        return
    kind = wanted.get("type")
    if not _messages.is_one_of(kind, ("text", "json_object", "json_schema")):
        words = f"INVALID_PARAMETER_VALUE: response_format.type {kind!r} is not one of text, json_object, json_schema."
        raise _messages.NoError(words, code="INVALID_PARAMETER_VALUE", field="response_format")
    if kind == "json_object" and family.has("json-word") and not _messages.mentions(body["messages"], "json"):
        words = 'BAD_REQUEST: "messages" must contain the word "json" in some form'
        raise _messages.NoError(words, field="messages")
    if kind == "json_schema":
        spec = wanted.get("json_schema")
        if (
            not isinstance(spec, dict)
            or not isinstance(spec.get("schema"), dict)
            or not isinstance(spec.get("name"), str)
        ):
            words = "INVALID_PARAMETER_VALUE: response_format.json_schema needs a name and a schema."
            raise _messages.NoError(words, code="INVALID_PARAMETER_VALUE", field="response_format")
        if family.has("no-schema-pattern") and spec.get("strict") and _uses_pattern(spec["schema"]):
            words = 'BAD_REQUEST: Invalid JSON schema - the "pattern" keyword is not supported'
            raise _messages.NoError(words, field="response_format")


def _uses_pattern(schema: object) -> bool:
    if isinstance(schema, list):
        return any(map(_uses_pattern, schema))
    if not isinstance(schema, dict):
        return False
    # A property may be *called* pattern: look at the values of `properties`, not at its keys.
    inner = [
        v for k, v in schema.items() if k not in {"properties", "$defs", "definitions", "const", "enum", "default"}
    ]
    for group in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(group), dict):
            inner.extend(schema[group].values())
    return isinstance(schema.get("pattern"), str) or any(map(_uses_pattern, inner))


def _check_tools(body: Mapping[str, Any], family: Family) -> None:
    tools = body.get("tools") or []
    if len(tools) > MOST_TOOLS:
        words = f"INVALID_PARAMETER_VALUE: {len(tools)} tools; at most {MOST_TOOLS} are supported."
        raise _messages.NoError(words, code="INVALID_PARAMETER_VALUE", field="tools")
    names = set()
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or tool.get("type") != "function"
        ):
            words = f"BAD_REQUEST: Missing 'function' in the tool specification tools.{i}, or it has no name."
            raise _messages.NoError(words, field="tools")
        if "strict" in function and family.has("no-tool-strict"):
            raise _messages.NoError(f"tools.{i}.function.strict: Extra inputs are not permitted", nested=True)
        if not isinstance(function.get("parameters") or {}, dict):
            path = f"tools.{i}.function.parameters"
            raise _messages.NoError(_messages.wrong_type(path, "object", function["parameters"]), field="tools")
        names.add(function["name"])
    choice = body.get("tool_choice")
    if choice is None:
        return
    if isinstance(choice, str):
        fine = choice in {"none", "auto"} or (choice == "required" and bool(names))
    else:
        function = choice.get("function") if isinstance(choice, dict) else None
        fine = isinstance(function, dict) and _messages.is_one_of(function.get("name"), names)
    if not fine:
        words = f"BAD_REQUEST: tool_choice {json.dumps(choice)} is neither none, auto, required nor a given tool."
        raise _messages.NoError(words, field="tool_choice")
