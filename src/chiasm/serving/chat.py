"""Chat completions: messages to a conversation, replies to OpenAI's documents, whole or as a stream of events."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from chiasm.core.constraints import ANY_OBJECT, Constraint, parse_constraint
from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation
from chiasm.serving import exchange, schemas
from chiasm.serving.faults import Fault, fault_of
from chiasm.serving.metrics import Metrics
from chiasm.serving.settings import Settings
from chiasm.serving.work import Answer, Chat, Host

DEFAULT_TOKENS = 512
_LOWEST = -9999.0  # what OpenAI gives for a probability of zero, which JSON can't hold


def check(request: schemas.ChatRequest, settings: Settings) -> None:
    """Refuse what can be told without a model.

    Raises:
        Fault: parameter_unsupported or request_invalid.
    """
    if name := request.unsupported():
        raise Fault(400, "parameter_unsupported", f"{name} is not supported by this server", name)
    if request.stream_options is not None and not request.stream:
        raise Fault(400, "request_invalid", "stream_options without stream", "stream_options")
    if request.top_logprobs is not None and not request.logprobs:
        raise Fault(400, "request_invalid", "top_logprobs without logprobs", "top_logprobs")
    constraint(request)
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted is not None and wanted > settings.max_new_tokens:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        what = f"{name} is {wanted}, the server writes at most {settings.max_new_tokens}"
        raise Fault(400, "request_invalid", what, name)


def constraint(request: schemas.ChatRequest) -> Constraint | None:
    """The form that `response_format` asks for; None = any text.

    Raises:
        Fault: request_invalid without a schema, constraint_too_large.
    """
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise Fault(400, "request_invalid", "response_format of type json_schema has no json_schema", "response_format")
    try:
        return parse_constraint({"json_schema": wanted.json_schema.schema_})
    except ConfigError as error:
        raise fault_of(error, "response_format") from None


def works(request: schemas.ChatRequest, asked: Conversation, settings: Settings) -> list[Chat]:
    """What is to be written for each reply that is asked for; with a seed, reply i draws from seed + i."""
    wanted = request.max_completion_tokens or request.max_tokens or min(DEFAULT_TOKENS, settings.max_new_tokens)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return [
        Chat(
            conversation=asked,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=None if request.seed is None else (request.seed + index) % 2**63,
            max_new_tokens=wanted,
            stop=tuple(stop),
            constraint=constraint(request),
            stream=bool(request.stream),
            tokens=bool(request.logprobs),
            alternatives=request.top_logprobs or 0,
        )
        for index in range(request.n or 1)
    ]


class Completion:
    """The documents of one request's answer.

    Args:
        request: what was asked.
        host: who answers.
        settings: the server's.
        metrics: where tokens are counted.
    """

    def __init__(self, request: schemas.ChatRequest, host: Host, settings: Settings, metrics: Metrics) -> None:
        self.request, self.host, self.settings, self.metrics = request, host, settings, metrics
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model,
            "system_fingerprint": None,
        }  # fmt: skip
        options = request.stream_options
        self.tells_usage = options is not None and bool(options.include_usage)

    async def whole(self, asked: Sequence[Chat]) -> dict[str, Any]:
        """The whole answer."""
        answers: list[Answer] = await exchange.results(self.host, asked, self.settings.request_seconds)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.reply.text, "refusal": None},
                "finish_reason": answer.reply.finish_reason,
                "logprobs": _logprobs(answer),
            }
            for index, answer in enumerate(answers)
        ]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self._usage(answers)}

    async def begin(self, asked: Sequence[Chat]) -> AsyncIterator[bytes]:
        """Start a stream; what goes wrong before its first piece is raised, so that it still gets a status."""
        stream = exchange.events(self.host, asked, self.settings.request_seconds)
        try:
            first = await anext(stream)
        except BaseException:
            await stream.aclose()
            raise
        return self._pieces(len(asked), first, stream)

    async def _pieces(self, count: int, first: tuple[int, Any], stream: Any) -> AsyncIterator[bytes]:
        answers: dict[int, Answer] = {}
        async with contextlib.aclosing(stream):
            try:
                for index in range(count):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
                yield self._event(*first, answers)
                async for index, value in stream:
                    yield self._event(index, value, answers)
            except Exception as error:  # the status is sent already: the failure becomes an event
                yield _sse(fault_of(error).document())
                return
        usage = self._usage(list(answers.values()))
        if self.tells_usage:
            yield _sse({**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _event(self, index: int, value: Any, answers: dict[int, Answer]) -> bytes:
        if isinstance(value, Answer):
            answers[index] = value
            return self._chunk(index, {}, value.reply.finish_reason, _logprobs(value))
        return self._chunk(index, {"content": value})

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        usage = {"usage": None} if self.tells_usage else {}
        return _sse({**self.head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    def _usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        usages = [answer.reply.usage for answer in answers]
        for usage in usages:
            self.metrics.count(self.request.model, usage)
        prompt = usages[0].prompt_tokens if usages else 0
        written = sum(usage.completion_tokens for usage in usages)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _logprobs(answer: Answer) -> dict[str, Any] | None:
    spelled, reply = answer.spelled, answer.reply
    if spelled is None:
        return None

    def entry(index: int, logprob: float) -> dict[str, Any]:
        word = spelled[index]
        return {"token": word.decode("utf-8", "replace"), "logprob": max(logprob, _LOWEST), "bytes": list(word)}

    places = reply.alternatives or [()] * len(reply.token_ids)
    content = [
        {**entry(index, logprob), "top_logprobs": [entry(*other) for other in place]}
        for index, logprob, place in zip(reply.token_ids, reply.logprobs, places, strict=True)
    ]
    return {"content": content, "refusal": None}


def _sse(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n\n"
