"""A value that a JSON schema accepts: how the echo fills in a tool's arguments or a structured answer.

Deterministic and small: the same schema always gives the same value, numbers are the least allowed, texts are the
property's name. `not`, `if` and the counting keywords on names are not read; everything usual is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from isochat.local import _pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["instance"]

#: Down to this depth optional properties and items are filled in, below it only what is required.
_GENEROUS = 4
#: Below this depth a schema can only refer to itself without end.
_DEEPEST = 40

_FORMATS: Mapping[str, str] = {
    "date": "2024-01-31",
    "date-time": "2024-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "ada@example.com",
    "idn-email": "ada@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "iri": "https://example.com/",
    "uri-reference": "/a",
    "iri-reference": "/a",
    "uri-template": "/{a}",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "/a",
    "relative-json-pointer": "0",
    "regex": "a",
}
_BY_KEYWORD: Mapping[str, str] = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "pattern": "string",
    "minLength": "string",
    "format": "string",
    "minimum": "number",
    "exclusiveMinimum": "number",
    "multipleOf": "number",
    "maximum": "number",
}


def instance(schema: Mapping[str, Any] | bool, name: str = "text") -> Any:  # noqa: FBT001 - any JSON; `true` is a schema
    """A value the schema accepts; texts say `name` where nothing else is asked.

    Raises ValueError for a schema that nothing can satisfy, that refers to what is not there, or that is none.
    """
    try:
        return _Maker(schema).value(schema, name, 0, 0)
    except (TypeError, AttributeError, LookupError, RecursionError) as why:  # a keyword's value has the wrong type
        raise ValueError(f"not a JSON schema: {why}") from None


class _Maker:
    """The root a `$ref` is looked up in."""

    def __init__(self, root: Mapping[str, Any] | bool) -> None:  # noqa: FBT001
        self.root = root

    def value(self, schema: Any, name: str, depth: int, nth: int) -> Any:
        if depth > _DEEPEST:
            msg = "the schema refers to itself without end"
            raise ValueError(msg)
        schema = self.flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][nth % len(schema["enum"])]
        match _type(schema):
            case "object":
                return self.mapping(schema, name, depth)
            case "array":
                return self.items(schema, name, depth)
            case "string":
                return _text(schema, name, nth)
            case "integer" | "number" as kind:
                return _number(schema, kind, nth)
            case "boolean":
                return nth % 2 == 0
            case "null":
                return None
            case kind:
                raise ValueError(f"not a JSON schema: there is no type {kind!r}")

    def flat(self, schema: Any, depth: int) -> dict[str, Any]:
        """The schema with its references, `allOf` and one branch of each choice merged in."""
        if schema is True:
            return {"type": "string"}
        if not isinstance(schema, dict):
            msg = f"no value satisfies the schema {schema!r}"
            raise ValueError(msg)  # noqa: TRY004 - a schema that cannot be met, like any other
        merged = {k: v for k, v in schema.items() if k not in {"$ref", "allOf", "anyOf", "oneOf"}}
        for one in [*([{"$ref": schema["$ref"]}] if "$ref" in schema else []), *schema.get("allOf", ())]:
            target = self.look_up(one["$ref"]) if isinstance(one, dict) and set(one) == {"$ref"} else one
            if target is not True:
                if depth > _DEEPEST:
                    msg = "the schema refers to itself without end"
                    raise ValueError(msg)
                merged = _merge(merged, self.flat(target, depth + 1))
        for choice in ("anyOf", "oneOf"):
            if schema.get(choice):
                merged = self.first_fit(merged, schema[choice], depth)
        return merged

    def first_fit(self, base: dict[str, Any], branches: Sequence[Any], depth: int) -> dict[str, Any]:
        """The base merged with the first branch that fits; deep down the simplest branch comes first."""
        ordered = sorted(branches, key=_weight) if depth >= _GENEROUS else branches
        for branch in ordered:
            try:
                return _merge(base, self.flat(branch, depth + 1))
            except ValueError:
                continue
        msg = "no branch of the schema's choice fits"
        raise ValueError(msg)

    def look_up(self, ref: str) -> Any:
        """What a local reference (`#/$defs/Point`) refers to."""
        found: Any = self.root
        for step in ref.removeprefix("#").split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (KeyError, IndexError, TypeError, ValueError):
                msg = f"the schema has nothing at {ref!r}"
                raise ValueError(msg) from None
        return found

    def mapping(self, schema: Mapping[str, Any], name: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = list(schema.get("required", ()))
        names = list(properties) if depth < _GENEROUS else [n for n in properties if n in required]
        others = schema.get("additionalProperties", True)
        found: dict[str, Any] = {}
        for key in names:
            try:
                found[key] = self.value(properties[key], key, depth + 1, 0)
            except ValueError:
                if key in required:
                    raise
        for key in required:
            if key not in found:
                found[key] = self.value(others, key, depth + 1, 0)
        extra = 1
        while len(found) < schema.get("minProperties", 0):
            found[f"{name}{extra}"] = self.value(others, name, depth + 1, extra)
            extra += 1
        if "maxProperties" in schema:
            spare = [k for k in found if k not in required]
            while len(found) > schema["maxProperties"] and spare:
                del found[spare.pop()]
        return found

    def items(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems", ())
        rest = schema.get("items", True)
        wanted = max(schema.get("minItems", 0), schema.get("minContains", 1) if "contains" in schema else 0)
        if not wanted and depth < _GENEROUS and rest is not False:
            wanted = 1
        wanted = min(max(wanted, len(first)), schema.get("maxItems", math.inf))
        one = name.removesuffix("s") or name
        if "contains" in schema:
            rest = {"allOf": [rest, schema["contains"]]} if rest is not True else schema["contains"]
        made: list[Any] = []
        for i in range(int(wanted)):
            try:
                made.append(self.value(first[i] if i < len(first) else rest, one, depth + 1, i))
            except ValueError:
                if i < schema.get("minItems", 0):
                    raise
                break
        return made


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((str(k) for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind
    return next((t for k, t in _BY_KEYWORD.items() if k in schema), "string")


def _weight(branch: Any) -> int:
    return len(str(branch)) + (1000 if "$ref" in str(branch) else 0)


def _text(schema: Mapping[str, Any], name: str, nth: int) -> str:
    if "pattern" in schema:
        return _pattern.example(schema["pattern"], schema.get("minLength", 0))
    text: str = _FORMATS.get(schema.get("format", ""), name if nth == 0 else f"{name}{nth + 1}")
    text += "x" * (schema.get("minLength", 0) - len(text))
    most = schema.get("maxLength", len(text))
    if len(text) > most:  # the digits at the end tell items apart
        text = text[len(text) - most :] if nth else text[:most]
    return text


def _number(schema: Mapping[str, Any], kind: str, nth: int) -> float:
    """The number next to zero that is allowed, and from there the nth one up."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    below, above = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(below, bool):  # draft 4 says true beside minimum
        below = low if below else None
    if isinstance(above, bool):
        above = high if above else None
    step = schema.get("multipleOf") or 1
    if kind == "integer" and step != int(step):
        step = math.lcm(*(float(step).as_integer_ratio()[:1])) if float(step).as_integer_ratio()[0] else 1
    low, high = max(low, -math.inf if below is None else below), min(high, math.inf if above is None else above)
    start = 1 if low < 1 <= high and step == 1 and above != 1 else 0
    if low > 0 or (low == 0 and below == 0):
        start = math.ceil(low / step) * step if low > 0 else step
    elif high < 0:
        start = math.floor(high / step) * step
    if below is not None and start <= below:
        start += step
    if above is not None and start >= above:
        start -= step
    if not low <= start <= high or start in {below, above}:
        if kind == "integer" or "multipleOf" in schema:
            msg = f"no {kind} between {low} and {high}"
            raise ValueError(msg)
        start = (low + high) / 2 if below is not None or above is not None else low
    shifted = start + nth * step
    value = shifted if shifted <= high and shifted != above else start
    return int(value) if kind == "integer" or value == int(value) else value


def _merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas at once. Raises ValueError where they leave nothing."""
    merged = dict(a)
    for key, theirs in b.items():
        if key not in merged:
            merged[key] = theirs
            continue
        ours = merged[key]
        match key:
            case "required":
                merged[key] = [*ours, *(r for r in theirs if r not in ours)]
            case "properties" | "$defs" | "definitions":
                merged[key] = {**theirs, **{k: _both(v, theirs[k]) if k in theirs else v for k, v in ours.items()}}
            case "items" | "additionalProperties" | "contains":
                merged[key] = _both(ours, theirs)
            case "minimum" | "minLength" | "minItems" | "minProperties" | "exclusiveMinimum":
                merged[key] = max(ours, theirs)
            case "maximum" | "maxLength" | "maxItems" | "maxProperties" | "exclusiveMaximum":
                merged[key] = min(ours, theirs)
            case "enum":
                merged[key] = [v for v in ours if v in theirs]
            case "type":
                merged[key] = _common_type(ours, theirs)
            case _:
                pass
    if merged.get("enum") == [] or ("const" in a and "const" in b and a["const"] != b["const"]):
        msg = "nothing is in both enumerations"
        raise ValueError(msg)
    return merged


def _both(a: Any, b: Any) -> Any:
    return b if a is True else a if b is True or a == b else {"allOf": [a, b]}


def _common_type(ours: str | Sequence[str], theirs: str | Sequence[str]) -> list[str]:
    mine, other = ([t] if isinstance(t, str) else list(t) for t in (ours, theirs))
    common = [t for t in mine if t in other]
    if not common and {"integer", "number"} <= {*mine, *other}:
        common = ["integer"]
    if not common:
        msg = f"no value is both {ours} and {theirs}"
        raise ValueError(msg)
    return common
