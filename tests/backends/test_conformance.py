"""Every backend passes the suite that is in the wheel.

Those whose route speaks another language than chat have theirs in a file of their own, with what stands in for the
scenarios that they depart from: `test_ai_query.py`, `test_openai_responses.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat._request import OPTIONS
from isochat.backends import load
from isochat.errors import BackendNotInstalled
from isochat.testing.conformance import VALUES, BackendTests

if TYPE_CHECKING:
    from isochat import Backend, Connection


class BuiltIn(BackendTests):
    """One of ours, if its client is there."""

    name: ClassVar[str]

    @pytest.fixture
    def backend(self, connection: Connection) -> Backend:
        try:
            return load(self.name)(connection)
        except BackendNotInstalled as error:
            pytest.skip(str(error))


class TestDatabricksSDK(BuiltIn):
    name = "databricks-sdk"


class TestLangChain(BuiltIn):
    name = "langchain"


class TestMLflow(BuiltIn):
    name = "mlflow"


class TestOpenAI(BuiltIn):
    name = "openai"


class TestRest(BuiltIn):
    name = "rest"


def test_the_suite_knows_every_option() -> None:
    """A new option comes with a value, so that every backend is asked whether it arrives."""
    assert {*OPTIONS, "extra_body"} == set(VALUES)
