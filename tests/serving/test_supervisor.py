"""The engine's process: killed, stopped, unloadable or orphaned, the server tells the truth and helps itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import encoded
from tests.serving.live import Live, until

import chiasm
from chiasm.core.messages import parse_conversation
from chiasm.serving import supervisor, wire
from chiasm.serving.settings import Settings
from chiasm.serving.supervisor import EngineProcess, pause_before
from chiasm.serving.work import Answer, Ask, Chat, Refusal

CHAT = {"model": "llava", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llava")


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[EngineProcess]:
    made = EngineProcess({"source": str(folder)}, {"max_queue": 8, "max_batch": 4}, max_pending=12)
    assert made.card.capabilities[0] == "generate"
    yield made
    made.close(2)
    assert made.pid is None and not made.health().alive


@pytest.fixture(scope="module")
def live(host: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live({"llava": host}, Settings(), tmp_path_factory.mktemp("live"))


def well(live: Live) -> bool:
    return live.ask("GET", "/health")[0] == 200


def test_the_process_answers_as_the_library_does(host: EngineProcess, folder: Path) -> None:
    conversation = parse_conversation([{"role": "user", "content": [{"type": "image", "image": encoded()}, "what?"]}])
    (expected,) = chiasm.load(str(folder)).generate([conversation], max_new_tokens=5)
    told: list[Any] = []
    pieces: list[str] = []
    asked = Chat(conversation=conversation, max_new_tokens=5, stream=True, tokens=True, alternatives=2)
    host.submit(Ask(asked, told.append, pieces.append))
    until(lambda: bool(told))
    (answer,) = told
    assert isinstance(answer, Answer) and answer.spelled is not None
    assert b"".join(map(answer.spelled.__getitem__, expected.token_ids)).decode("utf-8", "replace") == expected.text
    assert [place[0][0] for place in answer.reply.alternatives] == list(expected.token_ids)  # it writes greedily
    assert all(index in answer.spelled for place in answer.reply.alternatives for index, _ in place)
    assert (answer.reply.text, list(answer.reply.token_ids)) == (expected.text, list(expected.token_ids))
    assert list(answer.reply.logprobs) == pytest.approx(list(expected.logprobs), abs=1e-5)  # its layers are packed
    assert answer.reply.usage == expected.usage
    assert "".join(pieces) == expected.text


def test_users_mistakes_come_back_as_they_were() -> None:
    for error in (chiasm.PictureError("picture_empty", "0 bytes", hint="x"), Refusal("engine_busy", "full", 7)):
        again = wire.error_of(json.loads(json.dumps(wire.error_head(error))))
        assert type(again) is type(error) and vars(again) == vars(error)
    assert "secret" not in str(wire.error_of(wire.error_head(KeyError("/secret"))))


def test_a_killed_engine_is_told_and_replaced(live: Live, host: EngineProcess) -> None:
    until(lambda: well(live), 60)
    assert live.ask("POST", "/v1/chat/completions", CHAT)[0] == 200
    before, first = host.health().restarts, host.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)  # so that the request is surely in the making when the process dies
    told: dict[str, Any] = {}

    def ask() -> None:
        told["answer"], told["at"] = live.ask("POST", "/v1/chat/completions", CHAT), time.monotonic()

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: len(host._pending) == 1)
    until(lambda: not well(live), supervisor.STALE_SECONDS + 0.5)  # silence alone is told
    killed = time.monotonic()
    os.kill(first, signal.SIGKILL)
    asking.join(20)
    status, headers, document = told["answer"]
    assert (status, document["error"]["code"]) == (503, "engine_lost") and int(headers["retry-after"]) >= 1
    assert told["at"] - killed < 2
    assert not well(live)
    status, _, document = live.ask("POST", "/v1/chat/completions", CHAT)
    assert (status, document["error"]["code"]) == (503, "engine_starting")
    until(lambda: well(live), 60)
    assert live.ask("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert host.pid != first and host.health().restarts == before + 1
    counted = live.ask("GET", "/metrics")[2].decode()
    assert f'chiasm_engine_restarts_total{{model="llava"}} {before + 1:.1f}' in counted


def test_a_stopped_engine_that_goes_on_is_well_again_and_one_that_hangs_is_replaced(
    live: Live, host: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: well(live), 60)
    first = host.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    until(lambda: not well(live), 5)
    told: list[Any] = []
    left = Ask(Chat(conversation=parse_conversation("hi"), max_new_tokens=2), told.append, told.append)
    host.submit(left)
    host.cancel(left)
    assert left.work is None and not host._pending, "nothing is kept for a process that doesn't listen"
    os.kill(first, signal.SIGCONT)
    until(lambda: well(live), 5)
    assert live.ask("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert host.pid == first and told == []
    monkeypatch.setattr(supervisor, "HUNG_SECONDS", 1.0)
    os.kill(first, signal.SIGSTOP)
    until(lambda: host.pid not in (first, None), 20)
    monkeypatch.undo()
    until(lambda: well(live), 60)


def test_a_model_that_can_not_be_loaded_is_told_by_its_code(tmp_path: Path) -> None:
    host = EngineProcess({"source": str(tmp_path)}, {})
    with pytest.raises(chiasm.ChiasmError) as refusal:
        _ = host.card
    assert refusal.value.code != "engine_lost"
    host.close(0)


def test_a_crash_loop_slows_down() -> None:
    pauses = [pause_before(deaths) for deaths in range(12)]
    assert pauses[:4] == [0, 0, 0.5, 1.0] and pauses[-1] == 30.0 and pauses == sorted(pauses)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_that_is_killed_takes_its_engine_along(folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "chiasm", "serve", str(folder), "--port", "0", "--ready-file", str(tmp_path / "r")]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{server.pid}/task")

    def engines() -> list[int]:
        return [int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()]

    until(lambda: bool(engines()), 30)  # while it still loads, too
    (engine,) = engines()
    server.kill()
    server.wait()

    def ended() -> bool:
        try:
            return Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(ended, 10)
