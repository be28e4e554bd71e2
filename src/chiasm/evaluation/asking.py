"""Asking: every item under every condition, each different request once, long ones together, nothing lost on a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.core.errors import ChiasmError
from chiasm.core.messages import Conversation
from chiasm.core.samples import Place
from chiasm.data.rows import Fault
from chiasm.evaluation.controls import (
    CONDITIONS,
    mean_picture,
    media_key,
    partners,
    parts_of,
    pictures_of,
    with_pictures,
)
from chiasm.evaluation.journal import Journal, request_key
from chiasm.evaluation.predictor import picture_key
from chiasm.evaluation.protocol import Item, Predictor, Task

Progress = Callable[[str, int, int], None]
ERROR = "chiasm_error"  # the key of an output that says why there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing to ask: an item's conversation under a condition, and keys of its pictures."""

    key: str
    pictures: str
    conversation: Conversation
    item: Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a task came to: its usable items, the request of each under each condition, and what was unusable."""

    items: Sequence[Item]
    requests: dict[str, list[Request]]
    faults: Sequence[Fault]


def plan(task: Task, items: Sequence[Item]) -> Asked:
    """Every request of a task.

    Args:
        task: for the way of asking.
        items: its items.

    Returns:
        One request an item for `seen`, `blind` and `swapped`; items whose picture isn't there become faults.
    """
    usable, keys, faults = [], [], []
    for item in items:
        try:
            keys.append([media_key(part) for part in parts_of(item.conversation)])
            usable.append(item)
        except ChiasmError as error:
            faults.append(Fault(Place(task.name, item.key), error.code, error.what))
    shown = [" ".join(each) for each in keys]
    different = {key: item.picture for key, item in zip(shown, usable, strict=True)}
    blind = mean_picture(list(different.values())) if different else None
    mean_key = "mean " + (picture_key(blind) if blind is not None else "")
    others = partners(shown)
    requests: dict[str, list[Request]] = {condition: [] for condition in CONDITIONS}
    for at, item in enumerate(usable):
        other = pictures_of(usable[others[at]].conversation)
        views = {
            "seen": (item.conversation, keys[at]),
            "blind": (with_pictures(item.conversation, [blind]), [mean_key] * len(keys[at])),
            "swapped": (with_pictures(item.conversation, other or [blind]), _filled(keys[others[at]], len(keys[at]))),
        }
        for condition, (conversation, pictures) in views.items():
            if not keys[at] and condition != "seen":
                conversation, pictures = item.conversation, []
            key = request_key(conversation, pictures, task.way, task.max_new_tokens, list(item.options))
            shown_here = " ".join(pictures)
            requests[condition].append(Request(key=key, pictures=shown_here, conversation=conversation, item=item))
    return Asked(items=usable, requests=requests, faults=faults)


def _filled(keys: Sequence[str], count: int) -> list[str]:
    """As `with_pictures` fills: in turn, the last one kept."""
    return [keys[min(at, len(keys) - 1)] for at in range(count)] if keys else ["mean"] * count


def ask_all(
    task: Task, asked: Asked, predictor: Predictor, journal: Journal, batch_size: int, progress: Progress
) -> None:
    """Ask what the journal doesn't hold yet.

    Args:
        task: how to ask.
        asked: its requests.
        predictor: the model.
        journal: where outputs go: replies as they are done, the others after every batch.
        batch_size: requests asked together, but for replies, where the predictor has its own; no output depends on it.
        progress: told (task, done, all).
    """
    every = {request.key: request for condition in CONDITIONS for request in asked.requests[condition]}
    left = [request for key, request in every.items() if key not in journal]
    # questions about one picture stand together, since a model may read what they share once; then those of like length
    left.sort(key=lambda request: (request.pictures, -predictor.length(request.conversation), request.key))
    found = _replies(task, left, predictor) if task.way == "generate" else _batches(task, left, predictor, batch_size)
    done = len(every) - len(left)
    for outputs in found:
        journal.add(outputs)
        done += len(outputs)
        progress(task.name, done, len(every))


def _replies(task: Task, left: Sequence[Request], predictor: Predictor) -> Iterator[dict[str, Any]]:
    conversations = [request.conversation for request in left]
    for at, reply in predictor.generate(conversations, task.max_new_tokens):
        yield {left[at].key: _failure(reply) if isinstance(reply, ChiasmError) else reply}


def _batches(task: Task, left: Sequence[Request], predictor: Predictor, batch_size: int) -> Iterator[dict[str, Any]]:
    for at in range(0, len(left), batch_size):
        yield _outputs(task, left[at : at + batch_size], predictor)


def _failure(error: ChiasmError) -> dict[str, Any]:
    return {ERROR: {"code": error.code, "reason": error.what}}


def _outputs(task: Task, batch: Sequence[Request], predictor: Predictor) -> dict[str, Any]:
    try:
        return dict(zip([request.key for request in batch], _answers(task, batch, predictor), strict=True))
    except ChiasmError as error:
        if len(batch) == 1:
            return {batch[0].key: _failure(error)}
    outputs: dict[str, Any] = {}
    for request in batch:  # one bad item must not take its neighbours along
        outputs |= _outputs(task, [request], predictor)
    return outputs


def _answers(task: Task, batch: Sequence[Request], predictor: Predictor) -> Sequence[Any]:
    conversations = [request.conversation for request in batch]
    if task.way == "choose":
        pairs = [(request.conversation, option) for request in batch for option in request.item.options]
        scores = iter(predictor.score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
        # digits that batches could change are cut off
        return [[[round(x, 4) for x in next(scores)] for _ in request.item.options] for request in batch]
    places = [(pictures_of(c)[-1] if pictures_of(c) else None, str(r.item.truth.get("phrase") or r.item.question))
              for c, r in zip(conversations, batch, strict=True)]  # fmt: skip
    if task.way == "ground":
        return [_rounded(predictor.ground(picture, phrase)) for picture, phrase in places]
    assert task.way == "locate"
    return [_rounded(predictor.locate(video, query)) for video, query in places]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
