"""`/v1/images/search`: by words and by picture, and what it refuses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.serving.conftest import COLOURS, RED, data_uri, encoded
from tests.serving.live import Live

import chiasm
from chiasm.core.errors import ChiasmError
from chiasm.search.index import About, PictureIndex
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.searching import Searched, attach
from chiasm.serving.settings import MediaLimits, Settings

ROUTE = "/v1/images/search"


@pytest.fixture(scope="module")
def hosts(clip: chiasm.Model, tiny_folder: Callable[[str], Path]) -> dict[str, LocalHost]:
    llava = chiasm.load(str(tiny_folder("llava")))
    return {"llava": LocalHost(BatchingEngine(llava)), "clip": LocalHost(BatchingEngine(clip))}


@pytest.fixture(scope="module")
def live(index: PictureIndex, hosts: dict[str, LocalHost], tmp_path_factory: pytest.TempPathFactory) -> Live:
    searched = asyncio.run(attach({"mine": index}, hosts, 60))
    settings = Settings(media=MediaLimits(max_bytes=100_000), max_text=5_000)
    return Live(hosts, settings, tmp_path_factory.mktemp("live"), searched)


def test_a_picture_finds_itself_and_words_find_what_embedding_them_says(live: Live, clip: chiasm.Model) -> None:
    for name, colour in COLOURS.items():
        query = {"type": "image_url", "image_url": {"url": data_uri(encoded(colour=colour))}}
        status, _, found = live.ask("POST", ROUTE, {"query": query, "max_num_results": 2})
        assert status == 200 and (found["index"], found["model"], len(found["data"])) == ("mine", "clip", 2)
        best = found["data"][0]
        assert best["filename"] == f"{name}.png" and best["size"] == [24, 16]
        assert best["score"] == pytest.approx(1, abs=1e-5)
    _, _, found = live.ask("POST", ROUTE, {"index": "mine", "model": "clip", "query": "a red thing"})
    pictures = [Image.new("RGB", (24, 16), colour) for colour in COLOURS.values()]
    wanted = (clip.embed_texts(["a red thing"]) @ clip.embed_images(pictures).T)[0].tolist()
    told = {hit["filename"].removesuffix(".png"): hit["score"] for hit in found["data"]}
    assert [told[name] for name in COLOURS] == pytest.approx(wanted, abs=1e-5)
    assert [hit["score"] for hit in found["data"]] == sorted(told.values(), reverse=True)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"query": "x", "index": "other"}, 404, "index_not_found", "index"),
        ({"query": "x", "model": "llava"}, 404, "model_not_found", "model"),
        ({"query": ""}, 400, "request_invalid", "query"),
        ({"query": "x" * 5_001}, 400, "request_invalid", "query"),
        ({"query": "word " * 900}, 400, "text_too_long", None),
        ({"query": "x", "max_num_results": 0}, 400, "request_invalid", "max_num_results"),
        ({"query": "x", "limit": 3}, 400, "parameter_unsupported", "limit"),
        ({"query": {"type": "image", "url": "data:image/png;base64,AAAA"}}, 400, "picture_unknown_format", "query"),
        ({"query": {"type": "image", "url": "http://127.0.0.1/x.png"}}, 400, "picture_remote", "query"),
    ],
)  # fmt: skip
def test_refusals(live: Live, body: dict[str, object], status: int, code: str, param: str | None) -> None:
    got, _, told = live.ask("POST", ROUTE, body)
    assert (got, told["error"]["code"], told["error"]["param"]) == (status, code, param)


def test_a_server_without_an_index_says_so(hosts: dict[str, LocalHost], tmp_path: Path) -> None:
    status, _, told = Live(hosts, Settings(), tmp_path).ask("POST", ROUTE, {"query": "x"})
    assert (status, told["error"]["code"]) == (404, "index_not_found") and "0 indexes" in told["error"]["message"]


def test_without_an_index_no_model_is_asked_for_the_probe() -> None:
    assert asyncio.run(attach({}, {"clip": object()}, 1)) == {}  # type: ignore[dict-item]


def test_an_index_of_another_model_is_refused(index: PictureIndex, hosts: dict[str, LocalHost], tmp_path: Path) -> None:
    other = PictureIndex.create(tmp_path / "other", About("siglip", index.about.probe[:, ::-1].copy()))
    with pytest.raises(ChiasmError, match="index_model.*cosine"):
        asyncio.run(attach({"other": other}, hosts, 60))
    with pytest.raises(ChiasmError, match="0 of 1 served models embed"):
        asyncio.run(attach({"other": other}, {"llava": hosts["llava"]}, 60))


def test_a_broken_index_is_told_without_its_path(
    live: Live, index: PictureIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ChiasmError("index_unreadable", f"{index.folder}: lost")

    monkeypatch.setattr(PictureIndex, "search", broken)
    status, _, told = live.ask("POST", ROUTE, {"query": {"type": "image", "url": RED}})
    assert (status, told["error"]["code"]) == (503, "index_unreadable") and str(index.folder) not in str(told)


def test_an_index_that_hangs_holds_no_request(
    index: PictureIndex, hosts: dict[str, LocalHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(PictureIndex, "search", lambda *_: released.wait(30))
    live = Live(hosts, Settings(request_seconds=1.0), tmp_path, {"mine": Searched(index, "clip")})
    try:
        status, _, told = live.ask("POST", ROUTE, {"query": "x"})
    finally:
        released.set()
    assert (status, told["error"]["code"]) == (504, "request_timeout")
