"""Every backend passes the suite that is in the wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat._request import OPTIONS
from isochat.backends import BUILT_IN, load
from isochat.errors import BackendNotInstalled
from isochat.testing.conformance import VALUES, BackendTests

if TYPE_CHECKING:
    from isochat import Backend, Connection


# They speak another language than chat, so that some scenarios read otherwise: test_ai_query.py has the suite of the
# one, test_openai_responses.py that of the other, each with its reasons.
ELSEWHERE = {"ai-query", "openai-responses"}


class TestBuiltIn(BackendTests):
    """Ours."""

    @pytest.fixture(params=sorted(BUILT_IN.keys() - ELSEWHERE))
    def backend(self, connection: Connection, request: pytest.FixtureRequest) -> Backend:
        try:
            return load(request.param)(connection)
        except BackendNotInstalled as error:
            pytest.skip(str(error))


def test_the_suite_knows_every_option() -> None:
    """A new option comes with a value, so that every backend is asked whether it arrives."""
    assert {*OPTIONS, "extra_body"} == set(VALUES)
