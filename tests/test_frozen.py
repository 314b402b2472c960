"""`_frozen`: what it makes is the dataclass that it says it is."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any

import pytest

from isochat import _types
from isochat._frozen import changed, frozen, maker
from isochat._gather import Gathering


class Point:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)
    name: str = field(default="", kw_only=True, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", abs(self.y))


Theirs = dataclass(frozen=True, slots=True)(type("Theirs", (), dict(vars(Point))))
Ours = frozen()(type("Ours", (), dict(vars(Point))))


class Further(Ours):  # type: ignore[misc, valid-type]
    """A class of somebody's own."""


@pytest.mark.parametrize(
    ("said", "named"),
    [((1,), {}), ((1, -5), {}), ((1,), {"tags": ["t"]}), ((), {"x": 3, "name": "n"}), ((1, 2, []), {})],
)
def test_makes_what_a_dataclass_makes(said: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = Ours(*said, **named), Theirs(*said, **named)

    assert asdict(ours) == asdict(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert (ours, ours) == (Ours(*said, **named), copy.deepcopy(ours))
    assert ours != theirs


@pytest.mark.parametrize(("said", "named"), [((), {}), ((1, 2, [], "n"), {}), ((1,), {"z": 1}), ((1,), {"x": 2})])
def test_refuses_what_a_dataclass_refuses(said: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as theirs:
        Theirs(*said, **named)
    with pytest.raises(TypeError) as ours:
        Ours(*said, **named)

    assert str(ours.value) == str(theirs.value).replace("Theirs", "Ours")


def test_has_the_signature_of_a_dataclass() -> None:
    assert inspect.signature(Ours) == inspect.signature(Theirs)
    assert [each.name for each in fields(Ours)] == [each.name for each in fields(Theirs)]


def test_each_has_a_list_of_its_own() -> None:
    assert Ours(1).tags is not Ours(1).tags


def test_cannot_be_changed_and_has_no_other_fields() -> None:
    ours: Any = Ours(1)

    with pytest.raises(FrozenInstanceError):
        ours.x = 2
    with pytest.raises(FrozenInstanceError):
        del ours.x
    assert not hasattr(ours, "__dict__")


def test_a_changed_one_is_another_and_of_the_same_class() -> None:
    one, other = Ours(1, tags=["t"], name="n"), Further(1, tags=["t"], name="n")

    assert changed(one, x=2) == replace(one, x=2) != one
    assert (changed(one, x=2).name, changed(one, x=2).tags) == ("n", ["t"])
    assert type(changed(other, x=2)) is Further
    assert changed(other, x=2) == replace(other, x=2)
    with pytest.raises(KeyError):
        changed(one, z=1)


@pytest.mark.parametrize(
    ("cls", "said", "named"),
    [
        (Ours, (1, 2), {"name": "n"}),
        (Ours, (), {"x": 1, "tags": ["t"]}),
        (_types.Delta, ("assistant", "Hi"), {}),
        (_types.ChunkChoice, (0, _types.Delta()), {"extra": {"a": 1}}),
        (_types.ChatChunk, (), {"model": "m", "raw": {"id": "i"}}),
    ],
)
def test_a_maker_makes_what_its_class_makes(cls: Any, said: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = maker(cls)(*said, **named), cls(*said, **named)
    first = fields(cls)[0].name

    assert type(ours) is cls
    assert (ours, repr(ours)) == (theirs, repr(theirs))
    assert [getattr(ours, each.name) for each in fields(cls)] == [getattr(theirs, each.name) for each in fields(cls)]
    assert changed(ours, **{first: None}) == changed(theirs, **{first: None}) != ours
    assert copy.deepcopy(ours) == ours
    with pytest.raises(FrozenInstanceError):
        setattr(ours, first, 2)


@pytest.mark.parametrize(("said", "named"), [((), {}), ((1, 2, [], "n"), {}), ((1,), {"z": 1}), ((1,), {"x": 2})])
def test_a_maker_refuses_what_its_class_refuses(said: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        maker(Ours)(*said, **named)


def test_a_maker_gives_each_a_dictionary_of_its_own() -> None:
    make = maker(_types.Delta)

    assert make().extra is not make().extra


def test_what_is_made_on_demand_is_copied_unmade() -> None:
    made: list[str] = []

    def make() -> str:
        made.append("made")
        return "raw"

    answer = _types.ChatResponse(raw=_types.Later(make, ()))
    other = changed(answer, model="m")

    assert made == []
    assert (other.raw, answer.raw, other.raw) == ("raw", "raw", "raw")
    assert made == ["made", "made"]


def test_a_chunk_of_somebodys_own_class_is_gathered() -> None:
    class Chunk(_types.ChatChunk):
        """What another's backend may give."""

    gathering = Gathering()
    gathering.add(Chunk((_types.ChunkChoice(0, _types.Delta("assistant", "Hi")),), raw={"choices": []}))

    assert gathering.response().text == "Hi"


def test_the_values_are_pickled_and_copied() -> None:
    answer = _types.ChatResponse((_types.Choice(0, _types.Message("assistant", "Hi")),), model="m", attempts=())

    assert pickle.loads(pickle.dumps(answer)) == copy.deepcopy(answer) == answer
