"""Chat completions: messages to a conversation, replies to OpenAI's documents, whole or as a stream of events."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from chiasm.core.messages import Conversation, ImagePart, Message, TextPart, VideoPart
from chiasm.core.replies import Reply
from chiasm.generation.sampling import Sampling
from chiasm.processing.tokenizer import Tokenizer
from chiasm.serving import exchange, schemas
from chiasm.serving.engine import Engine, Job
from chiasm.serving.faults import Fault, fault_of
from chiasm.serving.metrics import Metrics
from chiasm.serving.settings import Settings

DEFAULT_TOKENS = 512
_LOWEST = -9999.0  # what OpenAI gives for a probability of zero, which JSON can't hold


def sources(request: schemas.ChatRequest) -> list[tuple[str, str]]:
    """Every picture and frame of a request, in reading order: (address, its place in the request)."""
    found = []
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages[{i}].content[{j}]"
            if isinstance(part, schemas.VideoPart):
                found += [(frame, where) for frame in part.video]
            elif not isinstance(part, schemas.TextPart):
                found.append((part.source, where))
    return found


def conversation(request: schemas.ChatRequest, pictures: Sequence[Any]) -> Conversation:
    """The request's messages around the pictures that the gate let in."""
    left = iter(pictures)

    def typed(part: Any) -> Any:
        if isinstance(part, schemas.TextPart):
            return TextPart(part.text)
        if isinstance(part, schemas.VideoPart):
            return VideoPart([next(left) for _ in part.video], part.fps)
        return ImagePart(next(left))

    messages = []
    for message in request.messages:
        role = "system" if message.role == "developer" else message.role
        if isinstance(message.content, str):
            messages.append(Message(role, (TextPart(message.content),)))
        else:
            messages.append(Message(role, tuple(typed(part) for part in message.content)))
    return Conversation(tuple(messages))


def check(request: schemas.ChatRequest, settings: Settings) -> None:
    """Refuse what can be told without a model.

    Raises:
        Fault: parameter_unsupported or request_invalid.
    """
    if name := request.unsupported():
        raise Fault(400, "parameter_unsupported", f"{name} is not supported by this server", name)
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted is not None and wanted > settings.max_new_tokens:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        what = f"{name} is {wanted}, the server writes at most {settings.max_new_tokens}"
        raise Fault(400, "request_invalid", what, name)


def jobs(request: schemas.ChatRequest, asked: Conversation, settings: Settings) -> list[Job]:
    """One job for each reply that is asked for; with a seed, reply i draws from seed + i."""
    wanted = request.max_completion_tokens or request.max_tokens or min(DEFAULT_TOKENS, settings.max_new_tokens)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    made = []
    for index in range(request.n or 1):
        seed = None if request.seed is None else (request.seed + index) % 2**63
        sampling = Sampling(
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=seed,
        )
        made.append(
            Job(
                conversation=asked,
                sampling=sampling,
                max_new_tokens=wanted,
                stop=tuple(stop),
                on_done=exchange.nobody,
                on_piece=exchange.nobody if request.stream else None,
            )
        )
    return made


class Completion:
    """The documents of one request's answer.

    Args:
        request: what was asked.
        engine: who answers.
        settings: the server's.
        metrics: where tokens are counted.
    """

    def __init__(self, request: schemas.ChatRequest, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.request, self.engine, self.settings, self.metrics = request, engine, settings, metrics
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}

    async def whole(self, asked: Sequence[Job]) -> dict[str, Any]:
        """The whole answer."""
        replies = await exchange.results(self.engine, asked, self.settings.request_seconds)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": reply.text, "refusal": None},
                "finish_reason": reply.finish_reason,
                "logprobs": self._logprobs(reply),
            }
            for index, reply in enumerate(replies)
        ]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self._usage(replies)}

    async def begin(self, asked: Sequence[Job]) -> AsyncIterator[bytes]:
        """Start a stream; what goes wrong before its first piece is raised, so that it still gets a status."""
        stream = exchange.events(self.engine, asked, self.settings.request_seconds)
        try:
            first = await anext(stream)
        except BaseException:
            await stream.aclose()
            raise
        return self._pieces(len(asked), first, stream)

    async def _pieces(self, count: int, first: tuple[int, Any], stream: Any) -> AsyncIterator[bytes]:
        replies: dict[int, Reply] = {}
        async with contextlib.aclosing(stream):
            try:
                for index in range(count):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
                yield self._event(*first, replies)
                async for index, value in stream:
                    yield self._event(index, value, replies)
            except Exception as error:  # the status is sent already: the failure becomes an event
                yield _sse(fault_of(error).document())
                return
        usage = self._usage(list(replies.values()))
        if self.request.stream_options is not None and self.request.stream_options.include_usage:
            yield _sse({**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _event(self, index: int, value: Any, replies: dict[int, Reply]) -> bytes:
        if isinstance(value, Reply):
            replies[index] = value
            return self._chunk(index, {}, value.finish_reason, self._logprobs(value))
        return self._chunk(index, {"content": value})

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        return _sse({**self.head, "object": "chat.completion.chunk", "choices": [choice]})

    def _logprobs(self, reply: Reply) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        tokenizer: Tokenizer = self.engine.model.processor.tokenizer
        content = []
        for token_id, logprob in zip(reply.token_ids, reply.logprobs, strict=False):
            token = tokenizer.decode([token_id], skip_special=False)
            entry = {"token": token, "logprob": max(logprob, _LOWEST), "bytes": list(token.encode("utf-8", "replace"))}
            content.append({**entry, "top_logprobs": []})
        return {"content": content, "refusal": None}

    def _usage(self, replies: Sequence[Reply]) -> dict[str, Any]:
        for reply in replies:
            self.metrics.count(self.request.model, reply.usage)
        prompt = replies[0].usage.prompt_tokens if replies else 0
        written = sum(reply.usage.completion_tokens for reply in replies)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _sse(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n\n"
