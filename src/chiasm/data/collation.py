"""From samples to a model's batch, by its own processor. A recipe says how; the training loop only passes it on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, PromptError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.registry import family as known_family
from chiasm.core.samples import Sample
from chiasm.processing.coordinates import Place, PlaceStyle

Collate = Callable[[Sequence[Sample]], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CollateConfig:
    """How samples become a batch.

    Attributes:
        takes_features: whether the batch may hold a frozen tower's stored `features` in place of pixels.
        gives: ``conversations`` with labels, ``pairs`` row for row, or something of its own (None).
    """

    takes_features: ClassVar[bool] = False
    gives: ClassVar[str | None] = None

    def build(self, processor: Any) -> Collate:
        """A function from samples to what the objective takes; `processor` is the model's own."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversations(CollateConfig):
    """Whole conversations, the assistant's words supervised: `labels` (B, T) beside everything a model needs.

    Attributes:
        pack: tokens of a row in which several conversations stand, each blind to the others; None = one a row, padded.
        apart: the turns of a conversation are conversations of their own, about the pictures of the first turn.
    """

    takes_features: ClassVar[bool] = True
    gives: ClassVar[str | None] = "conversations"
    pack: int | None = None
    apart: bool = False

    def build(self, processor: Any) -> Collate:
        def collate(samples: Sequence[Sample]) -> Batch:
            conversations = [sample.conversation for sample in samples]
            if self.apart:
                conversations = [one for conversation in conversations for one in taken_apart(conversation)]
            batch: Batch = processor(conversations, add_generation_prompt=False, supervise=True)
            if self.pack is None:
                return batch
            from chiasm.data.packing import pack

            return pack(batch, self.pack)

        return collate


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers(Conversations):
    """Conversations, in which a picture that nobody asked anything about is asked about.

    Attributes:
        question: what is asked then; pictures with labels become questions and answers so.
    """

    question: str = "What is in the picture?"

    def build(self, processor: Any) -> Collate:
        collate = Conversations(pack=self.pack).build(processor)
        return lambda samples: collate([asked(sample, self.question) for sample in samples])


@dataclass(frozen=True, kw_only=True, slots=True)
class Grounded(Conversations):
    """Where things are, asked for and written as a family does: a conversation for each phrase of a sample's `boxes`.

    They share their picture in packed rows and are blind to each other: in turns of one conversation, a box that was
    asked for before under another name would be copied, not found.

    Attributes:
        family: whose spelling of places is learned.
        pack: tokens of a row.
    """

    family: str
    pack: int | None = 512

    def build(self, processor: Any) -> Collate:
        style = known_family(self.family).places
        if style is None:
            raise ConfigError("capability_missing", f"{self.family} writes no places", hint="chiasm models")
        collate = Conversations(pack=self.pack).build(processor)
        return lambda samples: collate([one for sample in samples for one in located(sample, style, processor)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs(CollateConfig):
    """A picture and one of its captions each: `pixel_values` and `input_ids`, row for row.

    Attributes:
        truncate: cut captions that are longer than the text tower takes; otherwise they are errors.
    """

    takes_features: ClassVar[bool] = True
    gives: ClassVar[str | None] = "pairs"
    truncate: bool = True

    def build(self, processor: Any) -> Collate:
        def collate(samples: Sequence[Sample]) -> Batch:
            images = processor.images([picture(sample) for sample in samples])
            texts = processor.captions([caption(sample) for sample in samples], truncate=self.truncate)
            return replace(
                texts,
                pixel_values=images.pixel_values,
                plans=images.plans,
                features=images.features,
                picture_keys=images.picture_keys,
            )

        return collate


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSounds(CollateConfig):
    """A picture and its sound each: `pixel_values`, and spectrograms in `others`, row for row.

    A row's sound stands under `annotations["sound"]`: a WAV file's path or bytes, or a `core.media.LazySound`.
    """

    takes_features: ClassVar[bool] = True
    gives: ClassVar[str | None] = "picture_sounds"

    def build(self, processor: Any) -> Collate:
        def collate(samples: Sequence[Sample]) -> Batch:
            batch: Batch = processor.images([picture(sample) for sample in samples])
            clips = processor.sounds([sound(sample) for sample in samples])  # (B, clips, 1, bands, frames)
            alike = bool((clips == clips[:, :1]).all())  # of short sounds: one clip has the mean vector of them all
            return replace(batch, others=clips[:, :1] if alike else clips)

        return collate


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices(CollateConfig):
    """The user's turn, and which of a few answers is right: `labels` (B,) numbers them.

    Attributes:
        labels: the answers, in the order of the model's scores.
    """

    takes_features: ClassVar[bool] = True
    gives: ClassVar[str | None] = "choices"
    labels: tuple[str, ...]

    def build(self, processor: Any) -> Collate:
        import torch

        def collate(samples: Sequence[Sample]) -> Batch:
            turns = [Conversation(sample.conversation.messages[:1]) for sample in samples]
            batch: Batch = processor(turns)
            return replace(batch, labels=torch.tensor([_number(sample, self.labels) for sample in samples]))

        return collate


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells(CollateConfig):
    """A generated scene each, and what each of its visual tokens should know: `labels` (B, N, W), ids of words.

    The tokens are a grid over the picture. The one in which a thing's or a sign's middle lies is to know its name or
    its text and its place; the others know the tokenizer's first id, which ends texts. -100 fills up.

    Attributes:
        words: W, most ids of one token.
    """

    takes_features: ClassVar[bool] = True
    gives: ClassVar[str | None] = "cells"
    words: int = 4

    def build(self, processor: Any) -> Collate:
        import torch

        def collate(samples: Sequence[Sample]) -> Batch:
            shown = [picture(sample) for sample in samples]
            batch: Batch = processor([Conversation((Message("user", (ImagePart(stage),)),)) for stage in shown])
            labels = []
            for stage, span in zip(shown, batch.spans, strict=True):
                known, side = [[0]] * (span.stop - span.start), round((span.stop - span.start) ** 0.5)
                for element in stage.elements:
                    column, row = (
                        min(side - 1, int(side * at / extent))
                        for at, extent in zip(element.center, stage.size, strict=True)
                    )
                    known[side * row + column] = processor.tokenizer.encode(f"{element.name} {stage.cell(element)}")
                labels.append([(ids + [-100] * self.words)[: self.words] for ids in known])
            return replace(batch, labels=torch.tensor(labels))

        return collate


def _number(sample: Sample, labels: Sequence[str]) -> int:
    said = sample.conversation.messages[-1].text.strip().lower()
    if said not in labels:
        raise PromptError("answer_unknown", f"{sample.place}: {said!r} is none of the {len(labels)} answers")
    return labels.index(said)


def asked(sample: Sample, question: str) -> Sample:
    """The sample with a question in its user's turns that have pictures and no words."""
    messages = tuple(
        Message(message.role, (*message.parts, TextPart(question)))
        if message.role == "user" and message.parts and not message.text.strip()
        else message
        for message in sample.conversation.messages
    )
    return replace(sample, conversation=Conversation(messages))


def taken_apart(conversation: Conversation) -> list[Conversation]:
    """Each question with its answer, by itself, the pictures of the first one shown again."""
    turns = conversation.messages
    shown = tuple(part for part in turns[0].parts if isinstance(part, ImagePart))
    return [
        Conversation((Message("user", (*shown, TextPart(asked.text))), answered))
        for asked, answered in zip(turns[::2], turns[1::2], strict=True)
    ]


def located(sample: Sample, style: PlaceStyle, processor: Any) -> list[Sample]:
    """The sample once for each phrase of its boxes, asked for and answered in a family's spelling.

    Raises:
        PromptError: the sample has no boxes, or no picture.
    """
    shown = picture(sample)
    found: dict[str, list[Place]] = {}
    for marked in sample.annotations.get("boxes", ()):
        found.setdefault(marked["phrase"], []).append(Place(box=tuple(marked["box"]), label=marked["phrase"]))
    if not found:
        raise PromptError("sample_no_boxes", f"{sample.place}: 0 boxes, at least 1 needed", hint="chiasm data check")
    size = getattr(shown, "size", None)  # a generated picture's is known before it is drawn
    pictures = processor.image_processor
    plan = pictures.plan(size if isinstance(size, tuple) else pictures.read(shown).size)
    samples = []
    for phrase, places in found.items():
        asked = Message("user", (ImagePart(shown), TextPart(style.question.format(phrase=phrase))))
        answered = Message("assistant", (TextPart(style.write(places, plan)),))
        samples.append(replace(sample, conversation=Conversation((asked, answered))))
    return samples


def picture(sample: Sample) -> Any:
    """The source of a sample's first picture.

    Raises:
        PromptError: the sample has none.
    """
    for message in sample.conversation.messages:
        for part in message.parts:
            if isinstance(part, ImagePart):
                return part.source
    raise PromptError("sample_no_picture", f"{sample.place}: 0 pictures, 1 needed", hint="chiasm data check")


def sound(sample: Sample) -> Any:
    """The source of a sample's sound.

    Raises:
        PromptError: the sample has none.
    """
    if (found := sample.annotations.get("sound")) is None:
        raise PromptError("sample_no_sound", f"{sample.place}: 0 sounds, 1 needed", hint='a column "sound"')
    return found


def caption(sample: Sample) -> str:
    """The first caption of a sample, or the words of its last turn.

    Raises:
        PromptError: the sample has no words.
    """
    if sample.captions:
        return sample.captions[0]
    for message in reversed(sample.conversation.messages):
        words = " ".join(part.text for part in message.parts if hasattr(part, "text")).strip()
        if words:
            return words
    raise PromptError("sample_no_caption", f"{sample.place}: 0 captions, 1 needed", hint="chiasm data check")
