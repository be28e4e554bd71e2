"""What real clients send: every field of OpenAI's interface is taken or refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.resources.chat.completions import Completions
from tests.serving.conftest import data_uri, encoded
from tests.serving.live import Live

import chiasm
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.schemas import ChatRequest
from chiasm.serving.settings import Settings

HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def live(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Live:
    names = ("llava", "clip", "albef")
    hosts = {name: LocalHost(BatchingEngine(chiasm.load(str(tiny_folder(name))))) for name in names}
    return Live(hosts, Settings(), tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_every_parameter_of_the_official_client_is_known() -> None:
    transport = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    sent = set(inspect.signature(Completions.create).parameters) - transport
    assert sent - set(ChatRequest.model_fields) == set()


@pytest.mark.parametrize(
    "given",
    [
        {"max_completion_tokens": 2, "user": "u1", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"n": 2, "stop": ["x", "y"], "seed": 1, "temperature": 0.7, "top_p": 0.9, "logprobs": True},
        {"tools": [], "tool_choice": "none", "modalities": ["text"], "response_format": {"type": "text"}},
        {"safety_identifier": "s", "prompt_cache_key": "k", "prediction": None, "presence_penalty": 0},
    ],
)
def test_what_changes_nothing_is_taken(client: openai.OpenAI, given: dict[str, Any]) -> None:
    limit = {} if "max_completion_tokens" in given else {"max_tokens": 2}
    assert client.chat.completions.create(model="llava", messages=HI, **limit, **given).choices


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty"),
    ],
)
def test_what_would_change_answers_is_refused_by_name(client: openai.OpenAI, given: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="llava", messages=HI, max_tokens=2, **given)
    assert (refusal.value.code, refusal.value.param) == ("parameter_unsupported", param)
    assert param in str(refusal.value)


def test_an_answer_can_be_given_back_whole(client: openai.OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_uri(encoded()), "detail": "low"}}
    first: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "be short"}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "what?"}], "name": "ann"},
    ]
    answer = client.chat.completions.create(model="llava", messages=first, max_tokens=3).choices[0].message
    more: Any = [*first, answer, {"role": "user", "content": "and now?"}]
    assert client.chat.completions.create(model="llava", messages=more, max_tokens=3).choices
    more[2] = {**answer.model_dump(), "tool_calls": None, "annotations": []}
    assert client.chat.completions.create(model="llava", messages=more, max_tokens=3).choices


def test_the_stream_helper_of_the_client_works(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": HI, "max_tokens": 12}
    text = client.chat.completions.create(**asked).choices[0].message.content
    assert text
    asked["stop"] = text[len(text) // 2 :][:2]  # the client's helper takes no reply that its length cut off
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = [event.type for event in stream]
        done = stream.get_final_completion()
    whole = client.chat.completions.create(**asked)
    assert "content.delta" in kinds and done.choices[0].message.content == whole.choices[0].message.content
    assert done.usage == whole.usage


class Verdict(pydantic.BaseModel):
    """What the reply must be."""

    colour: Literal["red", "green", "blue"]
    sure: bool


def test_replies_are_parsed_into_the_callers_own_types(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(model="llava", messages=HI, max_tokens=64, response_format=Verdict)
    assert isinstance(done.choices[0].message.parsed, Verdict)


def test_usage_is_told_once_and_only_where_asked(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": HI, "max_tokens": 3, "stream": True}
    told = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert [chunk.usage is not None for chunk in told] == [False] * (len(told) - 1) + [True]
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**asked))
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**{**asked, "stream": False}, stream_options={"include_usage": True})
    assert refusal.value.param == "stream_options"


def test_token_ids_of_another_tokenizer_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length") as refusal:
        client.embeddings.create(model="clip", input=[[1, 2, 3]])
    assert (refusal.value.code, refusal.value.param) == ("request_invalid", "input")


def test_ground_and_inspect_equal_the_library(live: Live) -> None:
    picture = data_uri(encoded(size=(40, 30)))
    status, _, found = live.ask("POST", "/v1/ground", {"model": "albef", "input": picture, "phrase": "red"})
    expected = live.hosts["albef"].engine.model.ground(encoded(size=(40, 30)), "red")
    assert status == 200 and found["size"] == [40, 30] and len(found["regions"]) == len(expected.regions)
    assert found["regions"][0]["score"] == pytest.approx(expected.regions[0].score, abs=1e-5)
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": content}]
    status, _, seen = live.ask("POST", "/v1/inspect", {"model": "llava", "messages": messages})
    assert status == 200 and len(seen["token_ids"]) == seen["tokens"] and "what?" in seen["prompt"]
    (shown,) = seen["pictures"]
    assert shown["size"] == [40, 30] and shown["shown"][0].startswith("data:image/png;base64,")
    assert live.ask("POST", "/v1/inspect", {"model": "clip", "messages": messages})[0] == 200
    status, _, refused = live.ask("POST", "/v1/ground", {"model": "llava", "input": picture, "phrase": "x"})
    assert (status, refused["error"]["code"]) == (400, "capability_missing")
