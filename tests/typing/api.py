"""What a type checker makes of a call. Never executed: mypy and pyright read it.

An expected error is an `ignore` comment with its code; both checkers complain about one that is not needed.
"""

from __future__ import annotations

from typing import assert_type

from isochat import AsyncChatStream, ChatResponse, ChatStream, aquery_chat, query_chat


def an_answer() -> None:
    assert_type(query_chat("Hello"), ChatResponse)
    assert_type(query_chat("Hello", stream=False), ChatResponse)
    assert_type(query_chat([{"role": "user", "content": "Hello"}], endpoint="llama", backend="rest"), ChatResponse)
    assert_type(query_chat("Hello", temperature=0.0, max_tokens=10, stop=["."]), ChatResponse)


def a_stream() -> None:
    assert_type(query_chat("Hello", stream=True), ChatStream)
    with query_chat("Hello", stream=True) as stream:
        for chunk in stream:
            assert_type(chunk.text, str)
        assert_type(stream.response, ChatResponse)


def one_or_the_other(wanted: bool) -> None:  # noqa: FBT001 - that is what is tested
    assert_type(query_chat("Hello", stream=wanted), ChatResponse | ChatStream)


async def awaited(wanted: bool) -> None:  # noqa: FBT001 - that is what is tested
    assert_type(await aquery_chat("Hello"), ChatResponse)
    assert_type(await aquery_chat("Hello", stream=False), ChatResponse)
    assert_type(await aquery_chat("Hello", stream=True), AsyncChatStream)
    assert_type(await aquery_chat("Hello", stream=wanted), ChatResponse | AsyncChatStream)
    async with await aquery_chat("Hello", stream=True) as stream:
        async for chunk in stream:
            assert_type(chunk.text, str)


def said_wrongly() -> None:
    query_chat("Hello", temprature=0.0)  # type: ignore[call-overload]
    query_chat("Hello", temperature="hot")  # type: ignore[call-overload]
    query_chat("Hello", "endpoint")  # type: ignore[call-overload]
    query_chat()  # type: ignore[call-overload]
