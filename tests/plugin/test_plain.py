import pytest
from isochat.backends import load
from isochat.testing.conformance import BackendTests


class TestPlain(BackendTests):
    @pytest.fixture
    def backend(self, connection):
        return load("plain")(connection)
