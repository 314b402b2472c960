"""What a backend is held to: a suite to subclass, the same one that isochat's own backends pass."""

import pytest

pytest.register_assert_rewrite("isochat.testing.conformance")
