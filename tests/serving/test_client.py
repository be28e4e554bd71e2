"""OpenAI's own client, which knows nothing of chiasm, over a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.serving.conftest import BLUE, RED, data_uri, encoded, formed, seen
from tests.serving.live import Live

from chiasm.core.messages import parse_conversation


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_equals_the_library(client: openai.OpenAI, live: Live) -> None:
    done = client.chat.completions.create(model="llava", messages=seen(RED), max_tokens=6, logprobs=True)
    (expected,) = live.hosts["llava"].engine.model.generate([[*seen(RED)]], max_new_tokens=6)
    choice = done.choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected.text, expected.finish_reason)
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [entry.logprob for entry in choice.logprobs.content] == pytest.approx(expected.logprobs, abs=1e-5)
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (
        expected.usage.prompt_tokens, expected.usage.completion_tokens,
    )  # fmt: skip


def test_the_most_probable_tokens_of_each_place(client: openai.OpenAI, live: Live) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED), "max_tokens": 6, "logprobs": True}
    content = client.chat.completions.create(**asked, top_logprobs=4).choices[0].logprobs.content  # type: ignore[union-attr]
    model = live.hosts["llava"].engine.model
    batch = model.processor([parse_conversation([*seen(RED)])])
    expected = model.module(batch)[0, -1].log_softmax(-1).topk(4)
    assert [told.logprob for told in content[0].top_logprobs] == pytest.approx(expected.values.tolist(), abs=1e-5)
    for place in content:
        first = place.top_logprobs[0]
        assert (first.token, first.logprob, first.bytes) == (place.token, place.logprob, place.bytes)  # greedy
        assert len(place.top_logprobs) == 4 and bytes(place.bytes).decode("utf-8", "replace") == place.token
    warm = client.chat.completions.create(**asked, top_logprobs=20, temperature=2.0, seed=1).choices[0]
    assert any(place.token != place.top_logprobs[0].token for place in warm.logprobs.content)  # drawn, not chosen
    assert client.chat.completions.create(**asked, top_logprobs=0).choices[0].logprobs.content[0].top_logprobs == []
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**{**asked, "logprobs": False}, top_logprobs=2)
    assert (refusal.value.code, refusal.value.param) == ("request_invalid", "top_logprobs")


def test_a_stream_is_the_same_reply_in_pieces(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED, BLUE), "max_tokens": 8}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def test_the_form_that_is_asked_for(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"]}
    schema["additionalProperties"] = False
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED), "max_tokens": 40, "temperature": 1.0, "seed": 3}
    done = client.chat.completions.create(**asked, response_format=formed(schema))
    assert json.loads(done.choices[0].message.content or "")["kind"] in ("cat", "dog")
    loose = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices[0]
    assert (loose.message.content or "").startswith("{")
    assert loose.finish_reason == "length" or isinstance(json.loads(loose.message.content or ""), dict)


def test_n_and_seeds(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED), "max_tokens": 8, "temperature": 1.5, "n": 3}
    one, two = (client.chat.completions.create(**asked, seed=5) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices]
    assert len(set(texts)) > 1 and [choice.index for choice in one.choices] == [0, 1, 2]
    first = client.chat.completions.create(**{**asked, "n": 1}, seed=6)
    assert first.choices[0].message.content == texts[1]
    huge = client.chat.completions.create(**{**asked, "n": 1}, seed=2**63 + 6)
    assert huge.choices[0].message.content == first.choices[0].message.content


def test_stop_ends_a_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="llava", messages=seen(RED), max_tokens=12).choices[0].message.content
    assert whole
    stop = whole[len(whole) // 2 :][:2]
    cut = client.chat.completions.create(model="llava", messages=seen(RED), max_tokens=12, stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.find(stop)], "stop")


def test_embeddings_of_texts_and_pictures(client: openai.OpenAI, live: Live) -> None:
    model = live.hosts["clip"].engine.model
    made = client.embeddings.create(model="clip", input=["a cat", "a dog"])  # base64 underneath
    plain = client.embeddings.create(model="clip", input=["a cat", "a dog"], encoding_format="float")
    expected = model.embed_texts(["a cat", "a dog"])
    for answer in (made, plain):
        for item, row in zip(answer.data, expected.tolist(), strict=True):
            assert item.embedding == pytest.approx(row, abs=1e-6)
    mixed: Any = [{"type": "image_url", "image_url": {"url": RED}}, "a cat"]
    rows = client.embeddings.create(model="clip", input=mixed, encoding_format="float").data
    assert rows[0].embedding == pytest.approx(model.embed_images([encoded()])[0].tolist(), abs=1e-5)
    assert rows[1].embedding == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"llava", "clip"}
    assert client.models.retrieve("clip").id == "clip"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_errors_reach_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=seen(RED))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="llava", messages=seen(RED, data_uri(b"%PDF-1.4")))
    assert (bad.value.code, bad.value.param) == ("picture_unknown_format", "messages[0].content[1]")
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model="llava", messages=seen(RED), tools=[{"type": "function"}])  # type: ignore[list-item]
    assert (tools.value.code, tools.value.param) == ("parameter_unsupported", "tools")
