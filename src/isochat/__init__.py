"""One function, `query_chat()`, in front of every client that reaches a chat model on Databricks Model Serving.

```python
from isochat import query_chat

response = query_chat("What is a mixture of experts model?", endpoint="databricks-claude-sonnet-4-5")
print(response.text)
```

Importing isochat imports nothing else: each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isochat._api import aclose as aclose
    from isochat._api import aquery_chat as aquery_chat
    from isochat._api import close as close
    from isochat._api import query_chat as query_chat
    from isochat._api import render as render
    from isochat._compare import Asking as Asking
    from isochat._compare import Comparison as Comparison
    from isochat._compare import compare as compare
    from isochat._connection import Connection as Connection
    from isochat._difference import Difference as Difference
    from isochat._events import ChatEvent as ChatEvent
    from isochat._request import ChatOptions as ChatOptions
    from isochat._retry import Retry as Retry
    from isochat._retry import RetryBudget as RetryBudget
    from isochat._stream import AsyncChatStream as AsyncChatStream
    from isochat._stream import ChatStream as ChatStream
    from isochat._types import Audio as Audio
    from isochat._types import ChatChunk as ChatChunk
    from isochat._types import ChatRequest as ChatRequest
    from isochat._types import ChatResponse as ChatResponse
    from isochat._types import Choice as Choice
    from isochat._types import ChunkChoice as ChunkChoice
    from isochat._types import Delta as Delta
    from isochat._types import File as File
    from isochat._types import Image as Image
    from isochat._types import Logprobs as Logprobs
    from isochat._types import Message as Message
    from isochat._types import Reasoning as Reasoning
    from isochat._types import Refusal as Refusal
    from isochat._types import Text as Text
    from isochat._types import TokenLogprob as TokenLogprob
    from isochat._types import ToolCall as ToolCall
    from isochat._types import ToolCallDelta as ToolCallDelta
    from isochat._types import Unknown as Unknown
    from isochat._types import Usage as Usage
    from isochat._types import Video as Video
    from isochat._version import __version__ as __version__
    from isochat.backends import Backend as Backend
    from isochat.errors import Attempt as Attempt
    from isochat.errors import AuthenticationFailed as AuthenticationFailed
    from isochat.errors import BackendNotFound as BackendNotFound
    from isochat.errors import BackendNotInstalled as BackendNotInstalled
    from isochat.errors import ChatError as ChatError
    from isochat.errors import ConfigurationError as ConfigurationError
    from isochat.errors import ConnectionFailed as ConnectionFailed
    from isochat.errors import ContentFiltered as ContentFiltered
    from isochat.errors import ContextLengthExceeded as ContextLengthExceeded
    from isochat.errors import DeadlineExceeded as DeadlineExceeded
    from isochat.errors import EndpointNotFound as EndpointNotFound
    from isochat.errors import InvalidRequest as InvalidRequest
    from isochat.errors import MalformedReply as MalformedReply
    from isochat.errors import PermissionDenied as PermissionDenied
    from isochat.errors import RateLimited as RateLimited
    from isochat.errors import RequestRefused as RequestRefused
    from isochat.errors import ServiceError as ServiceError
    from isochat.errors import ServiceUnavailable as ServiceUnavailable
    from isochat.errors import StreamInterrupted as StreamInterrupted
    from isochat.errors import UnsupportedOption as UnsupportedOption

_WHERE = {
    "_api": ("aclose", "aquery_chat", "close", "query_chat", "render"),
    "_compare": ("Asking", "Comparison", "compare"),
    "_connection": ("Connection",),
    "_difference": ("Difference",),
    "_events": ("ChatEvent",),
    "_request": ("ChatOptions",),
    "_retry": ("Retry", "RetryBudget"),
    "_stream": ("AsyncChatStream", "ChatStream"),
    "_types": (
        "Audio",
        "ChatChunk",
        "ChatRequest",
        "ChatResponse",
        "Choice",
        "ChunkChoice",
        "Delta",
        "File",
        "Image",
        "Logprobs",
        "Message",
        "Reasoning",
        "Refusal",
        "Text",
        "TokenLogprob",
        "ToolCall",
        "ToolCallDelta",
        "Unknown",
        "Usage",
        "Video",
    ),
    "_version": ("__version__",),
    "backends": ("Backend",),
    "errors": (
        "Attempt",
        "AuthenticationFailed",
        "BackendNotFound",
        "BackendNotInstalled",
        "ChatError",
        "ConfigurationError",
        "ConnectionFailed",
        "ContentFiltered",
        "ContextLengthExceeded",
        "DeadlineExceeded",
        "EndpointNotFound",
        "InvalidRequest",
        "MalformedReply",
        "PermissionDenied",
        "RateLimited",
        "RequestRefused",
        "ServiceError",
        "ServiceUnavailable",
        "StreamInterrupted",
        "UnsupportedOption",
    ),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - one list, kept where the names are said


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
