"""An answer in the shape its family gives it on the wire, whole or in chunks.

Pure. The shapes are those of recorded and documented replies; `tests/wire` holds small ones with their sources, and a
test holds this file to them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from isochat.local import _sign
from isochat.local._question import words

if TYPE_CHECKING:
    from isochat.local._answer import Answer, Call, Choice, Usage
    from isochat.local._question import Question

__all__ = ["PROMPT_FILTERS", "SAFE", "Dress"]

Json = dict[str, Any]

SAFE: Json = {"hate": {"filtered": False, "severity": "safe"}}
PROMPT_FILTERS: list[Json] = [
    {"prompt_index": 0, "content_filter_results": {**SAFE, "jailbreak": {"filtered": False, "detected": False}}}
]


class Dress:
    """The family's shape for one question: ids, model, usage, content blocks."""

    def __init__(self, question: Question, created: int) -> None:
        """`created` is the time all replies of one endpoint name."""
        self.question, self.family, self.created = question, question.endpoint.family, created
        self.id = self.family.id_prefix + question.digits("reply", 22)

    # --- what whole replies and chunks share -----------------------------------------------------------------------

    def head(self, kind: str) -> Json:
        """What every reply and every chunk says of itself."""
        endpoint = self.question.endpoint
        model = endpoint.model if self.family.has("upstream-model") else endpoint.name
        head: Json = {"id": self.id, "object": kind, "created": self.created, "model": model}
        if self.family.has("no-model-no-usage"):
            del head["model"]
        if self.family.name == "gpt":
            head |= {"service_tier": "default", "system_fingerprint": None}
        elif self.family.has("azure-filter-results"):
            head["system_fingerprint"] = "fp_local"
        return head

    def signature(self, text: str, salt: str) -> str:
        """A signature of this text, the same in whole and streamed answers."""
        return _sign.sign(self.question.digits(f"sign/{salt}"), text)

    def thought(self, text: str, signature: str | None) -> Json:
        """A reasoning block."""
        piece: Json = {"type": "summary_text", "text": text}
        if signature is not None and not self.family.has("unsigned-reasoning"):
            piece["signature"] = signature
        return {"type": "reasoning", "summary": [piece]}

    def redacted(self, choice: int) -> Json:
        """A reasoning block that shows nothing."""
        data = self.signature("redacted", f"thought/{choice}")
        return {"type": "reasoning", "summary": [{"type": "summary_encrypted_text", "data": data}]}

    def usage(self, usage: Usage) -> Json:
        """Token counts with the keys this family has."""
        total = usage.prompt + usage.completion if usage.total is None else usage.total
        counted: Json = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": total}
        if self.family.has("cache-counts"):
            counted |= {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        if self.family.has("null-details"):
            counted |= {"completion_tokens_details": None, "prompt_tokens_details": None}
        if self.family.has("usage-details"):
            counted["prompt_tokens_details"] = {"cached_tokens": 0}
            counted["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
        return counted

    def call(self, call: Call) -> Json:
        """A tool call as it stands in a message."""
        made: Json = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        if self.family.has("tool-thought-signature"):
            made["thoughtSignature"] = self.signature(call.name + call.arguments, f"call/{call.id}")
        return made

    def logprobs(self, text: str | None) -> Json | None:
        """Made-up but well-formed log probabilities, when asked for."""
        if not (self.family.logprobs and self.question.body.get("logprobs")):
            return None
        count = self.question.number("top_logprobs", 0)

        def token(word: str, probability: float) -> Json:
            return {"token": word, "logprob": round(math.log(probability), 6), "bytes": list(word.encode())}

        def alternatives(word: str) -> list[Json]:
            return [token(word if i == 0 else f"{word}{i}", 0.5 / (i + 1)) for i in range(count)]

        content = [{**token(w, 0.5), "top_logprobs": alternatives(w)} for w in words(text or "")]
        return {"content": content, "refusal": None}

    # --- whole -----------------------------------------------------------------------------------------------------

    def whole(self, answer: Answer) -> Json:
        """The reply to a question that did not ask for a stream."""
        if self.family.has("agent-messages"):
            return self._agent_reply(answer)
        reply = self.head("chat.completion")
        if self.family.has("azure-filter-results"):
            reply["prompt_filter_results"] = PROMPT_FILTERS
        reply["choices"] = [self._choice(i, c) for i, c in enumerate(answer.choices)]
        if not self.family.has("no-model-no-usage"):
            reply["usage"] = self.usage(answer.usage)
        if self.family.has("empty-message"):
            reply["id"] = None
        return reply

    def _choice(self, index: int, choice: Choice) -> Json:
        if self.family.has("empty-message"):
            return {"index": index, "message": {}, "finish_reason": None}
        made: Json = {"index": index, "message": self._message(index, choice), "finish_reason": choice.finish_reason}
        if self.family.logprobs:
            made["logprobs"] = self.logprobs(choice.text)
        if self.family.has("azure-filter-results"):
            made["content_filter_results"] = SAFE
        return made

    def _message(self, index: int, choice: Choice) -> Json:
        message: Json = {"role": "assistant", "content": self.content(index, choice)}
        if self.family.has("usage-details"):  # OpenAI's own replies
            message["refusal"] = choice.refusal
        if self.family.name == "gpt":
            message["annotations"] = []
        if choice.calls:
            message["tool_calls"] = [self.call(c) for c in choice.calls]
        return message

    def content(self, index: int, choice: Choice) -> str | list[Json] | None:
        """The content of a message: a string, null beside calls, or a list of blocks."""
        blocks: list[Json] = []
        if choice.redacted:
            blocks.append(self.redacted(index))
        elif choice.reasoning is not None:
            blocks.append(self.thought(choice.reasoning, self.signature(choice.reasoning, f"thought/{index}")))
        if not blocks and not self.family.has("list-content"):
            return choice.text
        if choice.text or (choice.text is not None and not blocks):
            blocks.append(self.text_block(choice.text, index, signed=bool(choice.text)))
        return blocks or None

    def text_block(self, text: str, index: int, *, signed: bool = True) -> Json:
        """A text block; Gemini's carries a signature."""
        block: Json = {"type": "text", "text": text}
        if signed and self.family.has("text-thought-signature"):
            block["thoughtSignature"] = self.signature("text", f"text/{index}")
        return block

    # --- custom agents ---------------------------------------------------------------------------------------------

    def agent_id(self) -> str:
        """The id of the message an agent answers with."""
        return self.question.digits("message", 12)

    def _agent_reply(self, answer: Answer) -> Json:
        choice = answer.choices[0]
        message: Json = {"role": "assistant", "content": choice.text or "", "id": self.agent_id()}
        if choice.calls:
            message["tool_calls"] = [self.call(c) for c in choice.calls]
        outputs = self.question.body.get("custom_inputs") or {}
        reply: Json = {"messages": [message], "finish_reason": None, "custom_outputs": outputs, "usage": None}
        if (self.question.body.get("databricks_options") or {}).get("return_trace"):
            trace = {"info": {"trace_id": f"tr-{self.question.digits('trace', 32)}"}, "data": {"spans": []}}
            reply["databricks_output"] = {"trace": trace, "databricks_request_id": self.question.digits("request", 32)}
        return reply
