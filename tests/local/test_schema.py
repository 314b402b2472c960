"""What the echo makes from a JSON schema, the schema accepts."""

from __future__ import annotations

from typing import Any

import pytest

from isochat.local import instance

jsonschema = pytest.importorskip("jsonschema")
hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "required": ["value"],
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
        }
    },
}

SCHEMAS: list[Any] = [
    True,
    {},
    {"type": "object"},
    {"type": "string"},
    {"type": "string", "minLength": 30},
    {"type": "string", "maxLength": 2},
    {"const": {"a": 1}},
    {"enum": [None, 1]},
    {"type": ["null", "integer"]},
    {"type": ["string", "null"]},
    {"type": "null"},
    {"type": "boolean"},
    {"minimum": 3, "type": "number"},
    {"type": "integer", "minimum": -7, "maximum": -5},
    {"type": "integer", "exclusiveMinimum": 4},
    {"type": "integer", "exclusiveMaximum": 0},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": 0.2, "maximum": 0.3},
    {"type": "integer", "multipleOf": 7, "minimum": 10},
    {"type": "number", "multipleOf": 0.5, "minimum": 0.7},
    {"type": "integer", "minimum": 0, "maximum": 0},
    {"type": "array"},
    {"type": "array", "minItems": 3, "items": {"type": "integer"}},
    {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "string"}},
    {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"enum": ["a", "b"]}},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"type": "array", "contains": {"type": "integer", "minimum": 5}},
    {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"type": "boolean"}},
    {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {
                "type": "array",
                "items": {"type": "object", "properties": {"c": {"type": "number"}}, "required": ["c"]},
            },
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    {"type": "object", "required": ["x"]},
    {"type": "object", "minProperties": 2},
    {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1},
    {"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"never": False, "a": {"type": "string"}}},
    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]},
    {"anyOf": [False, {"type": "integer"}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    {"allOf": [{"minimum": 3}, {"maximum": 9, "type": "integer"}, {"minimum": 5}]},
    {"type": "number", "allOf": [{"type": "integer"}]},
    {
        "type": "object",
        "properties": {"kind": {"type": "string"}},
        "oneOf": [
            {"properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind", "x"]},
            {"properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        ],
    },
    TREE,
    {"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "integer"}}},
    {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/p", "description": "with a neighbour"}},
        "$defs": {"p": {"type": "string"}},
    },
    *[
        {"type": "string", "format": f}
        for f in (
            "date",
            "date-time",
            "time",
            "email",
            "uri",
            "uuid",
            "ipv4",
            "ipv6",
            "hostname",
            "duration",
            "unheard-of",
        )
    ],
    *[
        {"type": "string", "pattern": p}
        for p in (
            r"^[A-Z]{3}-\d{4}$",
            r"^(a|b)+$",
            r"\w+@\w+\.com",
            "^[^a]$",
            r"^x?y*z{2,}$",
            "^$",
            r"(\d)\1",
            r"^\S\s\D$",
            "abc",
            "^[\\w.-]+$",
        )
    ],
    {"type": "string", "pattern": "^[a-z]+$", "minLength": 5},
    {"type": "string", "pattern": "^a", "minLength": 5},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_what_it_makes_is_valid(schema: Any) -> None:
    """jsonschema accepts the value, formats included."""
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(instance(schema))


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#/$defs/gone"},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#"},
        {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"anyOf": [False]},
    ],
    ids=str,
)
def test_what_nothing_satisfies_is_an_error(schema: Any) -> None:
    """It says so rather than making something up, or turning for ever."""
    with pytest.raises(ValueError, match=r"schema|value|branch|pattern|between"):
        instance(schema)


def test_a_schema_without_a_value_is_refused_in_words(asking: Any) -> None:
    """The endpoint answers 400 and says what is wrong with the schema."""
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}, "required": ["a"]},
        },
    }
    with pytest.raises(asking.Refused, match=r"nothing at .*defs/gone"):
        asking.chat("databricks-gpt-5-1", "Hi", tools=[tool], tool_choice="required")


leaves = st.one_of(
    st.builds(
        lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
        st.integers(-99, 99),
        st.integers(-99, 99),
    ),
    st.builds(
        lambda a, b: {"type": "number", "exclusiveMinimum": a, "maximum": a + b}, st.floats(-9, 9), st.floats(0.5, 9)
    ),
    st.builds(
        lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b}, st.integers(0, 9), st.integers(0, 9)
    ),
    st.builds(lambda a: {"enum": a}, st.lists(st.integers() | st.text(), min_size=1, unique_by=repr)),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {}, True, {"type": ["integer", "null"]}, {"$ref": "#/$defs/d"}]
    ),
)


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [r for r in required if r in properties],
        "additionalProperties": False,
    }


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            _object,
            st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=4),
            st.lists(st.text("abc", min_size=1, max_size=2), unique=True),
        ),
        st.builds(
            lambda i, a, b: {"type": "array", "items": i, "minItems": a, "maxItems": a + b},
            inner,
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        st.builds(lambda a: {"anyOf": a}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=12,
)


@hypothesis.given(schema=schemas)
@hypothesis.settings(max_examples=150, deadline=None)
def test_whatever_the_schema_the_value_is_valid(schema: Any) -> None:
    """For schemas of every usual kind, nested."""
    root = {"allOf": [schema], "$defs": {"d": {"type": "string", "minLength": 1}}}
    jsonschema.Draft202012Validator(root).validate(instance(root))
