"""Real pictures with captions from Debian's Tux Paint stamps, held out by identity. Fetched by the package manager."""

from __future__ import annotations

from typing import Any

from chiasm.core.messages import Conversation
from chiasm.data.named import open_named
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.embedding import Retrieval, ZeroShot
from chiasm.evaluation.metrics.answers import exact_match
from chiasm.evaluation.protocol import Item, Items, Source, Task, ask, each
from chiasm.evaluation.protocol import Metric as Figure
from chiasm.evaluation.ranking import classification_metrics, frequent_class, retrieval_metrics
from chiasm.evaluation.reading import said

TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")


def load(reference: str, question: str = "") -> Any:
    """A loader of one picture an identity, no caption twice; its reference is the caption or the bare name."""

    def find(source: Source) -> Items:
        data = open_named(f"stamps:{source.split or 'test'}")
        seen: set[str] = set()
        items: list[Item] = []
        for sample in data:
            words = {"caption": sample.captions[0], "name": str(sample.annotations["name"]).lower()}
            marks = {
                f"identity {sample.annotations['identity']}",
                f"caption {words['caption'].lower()}",
                f"name {words['name']}",
            }
            if seen & marks or (source.limit is not None and len(items) == source.limit):
                continue
            seen |= marks
            picture = next(sample.conversation.images()).source
            items.append(
                Item(
                    key=sample.key,
                    conversation=ask(picture, question) if question else Conversation(sample.conversation.messages[:1]),
                    references=(words[reference],),
                    kind=str(sample.annotations["medium"]),
                )
            )
        return Items(items=items, fingerprint=data.fingerprint)

    return find


TASKS = (
    Task(
        name="stamps_naming",
        group="stamps",
        about="what a held-out stamp shows, in words",
        way="generate",
        load=load("name", "What is in the picture?"),
        parse=said,
        metrics=(Figure(name="accuracy", values=each(lambda item, answer: exact_match(answer, item.references))),),
        prior=frequent,
        max_new_tokens=10,
        needs_folder=False,
    ),
    Task(
        name="stamps_classification",
        group="stamps",
        about="held-out stamps told from each other's names, zero-shot",
        way="embed",
        load=load("name"),
        prepare=ZeroShot(TEMPLATES),
        metrics=classification_metrics(),
        prior=frequent_class,
        needs_folder=False,
    ),
    Task(
        name="stamps_retrieval",
        group="stamps",
        about="captions of held-out stamps, and stamps of captions",
        way="embed",
        load=load("caption"),
        prepare=Retrieval(),
        metrics=retrieval_metrics(),
        needs_folder=False,
    ),
)
