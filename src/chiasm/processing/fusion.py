"""The processor of families that fuse pictures and text by attention: pairs for matching, conversations for answers.

No visual token stands in the text, so a picture's span is empty. A conversation is one user turn, and for training one
reply. A writer's row is its start token and the user's words (captioning: the words that the caption begins with);
one that answers questions has the question first, as a sentence of its own: ``[CLS] question [SEP] start``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.errors import PictureError, PromptError
from chiasm.core.messages import Conversation, ImagePart, VideoPart, parse_conversation
from chiasm.processing.processor import IGNORED, DualProcessor, Pictures, listed
from chiasm.processing.tokenizer import Tokenizer


def same_picture(source: Any) -> Any:
    """Equal for one picture given twice: by its path or address, else by which object it is."""
    return str(source) if isinstance(source, str | Path) else id(source)


class FusionProcessor(DualProcessor):
    """Texts, pictures, pairs and conversations → batches.

    Args:
        tokenizer, image_processor, context_length, settings: see `DualProcessor`.
        start_id: the id that a writer's text begins with; None = the family doesn't write.
        asks: the user's words are a question of their own, before the writer's start.
        end_id: the id that ends a reply; None = the tokenizer's separator.
        max_images: pictures that belong to one text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_processor: Pictures | None,
        context_length: int,
        *,
        start_id: int | None = None,
        asks: bool = False,
        end_id: int | None = None,
        max_images: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, image_processor, context_length, settings=settings)
        self.start_id, self.asks, self.max_images = start_id, asks, max_images
        after = tokenizer.wrapping[1]
        self.end_id = end_id if end_id is not None else (after[-1] if after else tokenizer.eos_id)

    @property
    def max_length(self) -> int:
        """Most positions of a writer's text."""
        return self.context_length

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a reply."""
        return () if self.end_id is None else (self.end_id,)

    def pairs(self, images: Sequence[Any], texts: Sequence[str], *, truncate: bool = False) -> Batch:
        """Pictures and texts that are judged together.

        Args:
            images: one picture a text, or a sequence of `max_images` of them a text.
            texts: texts.
            truncate: cut texts that are too long instead of refusing them.

        Returns:
            A batch with `pixel_values` and `input_ids` (B, T), padded on the right.

        Raises:
            PromptError: counts disagree, or a text is too long.
            PictureError: a picture can't be read.
        """
        if len(images) != len(texts):
            raise PromptError("pair_count", f"{len(images)} pictures, {len(texts)} texts; pairs need as many of each")
        batch = self.captions(texts, truncate=truncate)
        given = [list(item) if isinstance(item, (list, tuple)) else [item] for item in images]
        for row, group in enumerate(given):
            self._count(len(group), row)
        shown = [picture for group in given for picture in group]
        different = {same_picture(picture): picture for picture in shown}
        pictures = self.images(list(different.values()))
        assert pictures.pixel_values is not None and len(pictures.pixel_values) == len(different)
        places = {name: at for at, name in enumerate(different)}
        rows = [places[same_picture(picture)] for picture in shown]
        batch.pixel_values, batch.plans = pictures.pixel_values[rows], [pictures.plans[row] for row in rows]
        batch.spans = tuple(ImageSpan(row, 0, 0) for row, group in enumerate(given) for _ in group)
        return batch

    def __call__(self, conversations: Any, *, add_generation_prompt: bool = True, supervise: bool = False) -> Batch:
        """Turn conversations into what a writer or a classifier reads.

        Args:
            conversations: see `Processor`; each has one user turn with its pictures, and a reply when `supervise`.
            add_generation_prompt: taken for the sake of the protocol; there is nothing to add.
            supervise: give labels for the reply, its end included.

        Returns:
            A batch with `input_ids` (B, T) padded on the left, `attention_mask`, the pictures, and an empty span each.

        Raises:
            PromptError: several turns, too few or too many pictures, a text that is too long, nothing to learn.
            PictureError: a picture can't be read.
        """
        parsed = [parse_conversation(conversation) for conversation in listed(conversations)]
        if not parsed:
            raise PromptError("conversation_empty", "0 conversations given, at least 1 needed")
        prompts, answers, pictures, spans = [], [], [], []
        for row, conversation in enumerate(parsed):
            words, reply = _turns(conversation, row)
            sources = [part.source for part in conversation.images()]
            self._count(len(sources), row)
            pictures += [self._read(source, row) for source in sources]
            spans += [ImageSpan(row, 0, 0)] * len(sources)
            prompts.append(self._prompt(words, row))
            answers.append(self._answer(reply, row) if supervise else [])
            self._check(len(prompts[row]) + len(answers[row]), row)
        batch = self.images(pictures) if pictures else Batch()
        self._fill(batch, prompts, answers, supervise)
        batch.spans = tuple(spans)
        rows = (prompt + answer for prompt, answer in zip(prompts, answers, strict=True))
        batch.prompts = tuple(self.tokenizer.decode(ids, skip_special=False) for ids in rows)
        return batch

    def _fill(self, batch: Batch, prompts: list[list[int]], answers: list[list[int]], supervise: bool) -> None:
        """Ids, mask and labels. Where a question is asked, all answers begin in one column; else all end in one."""
        import torch

        before = max(len(ids) for ids in prompts)
        total = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        if self.asks:
            total = before + max(len(ids) for ids in answers)
            batch.source_length = before - 1  # the start token is the writer's
        ids = torch.full((len(prompts), total), self.tokenizer.pad_id, dtype=torch.long)  # (B, T)
        mask, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            start = (before if self.asks else total - len(answer)) - len(prompt)
            start = start if self.start_id is not None else 0  # what is read at its first token is padded on the right
            stop = start + len(prompt) + len(answer)
            ids[row, start:stop] = torch.tensor([*prompt, *answer], dtype=torch.long)
            mask[row, start:stop] = True
            labels[row, stop - len(answer) : stop] = ids[row, stop - len(answer) : stop]
        batch.input_ids, batch.attention_mask = ids, mask
        batch.labels = labels if supervise else None

    def _prompt(self, words: str, row: int) -> list[int]:
        ids = self.tokenizer.encode(words) if words else []
        if self.start_id is None or self.asks:
            if not ids:
                raise PromptError(
                    "question_empty", f"conversation {row} asks nothing", hint="a question beside the picture"
                )
            before, after = self.tokenizer.wrapping
            ids = [*before, *ids, *after]
            return ids if self.start_id is None else [*ids, self.start_id]
        return [self.start_id, *ids]

    def _answer(self, reply: str | None, row: int) -> list[int]:
        ids = self.tokenizer.encode(reply, first=False) if reply else []
        if not ids:
            raise PromptError("labels_empty", f"conversation {row} has 0 supervised tokens")
        return ids if self.end_id is None else [*ids, self.end_id]

    def _read(self, source: Any, row: int) -> Any:
        assert self.image_processor is not None
        try:
            return self.image_processor.read(source)
        except PictureError as error:
            raise PictureError(error.code, f"conversation {row}: {error.what}", hint=error.hint) from None

    def _count(self, given: int, row: int) -> None:
        if given != self.max_images:
            code = "too_many_images" if given > self.max_images else "image_count"
            raise PromptError(code, f"text {row} has {given} images, the model takes {self.max_images}")

    def _check(self, tokens: int, row: int) -> None:
        if tokens > self.context_length:
            raise PromptError(
                "context_exceeded", f"prompt {row} has {tokens} tokens, the model takes {self.context_length}"
            )


def _turns(conversation: Conversation, row: int) -> tuple[str, str | None]:
    """The user's words and the reply, if there is one."""
    turns = [message for message in conversation.messages if message.role != "system"]
    roles = [message.role for message in turns]
    if roles not in (["user"], ["user", "assistant"]):
        raise PromptError(
            "turns_many", f"conversation {row} has {len(turns)} turns ({', '.join(roles)}), the model takes 1 question"
        )
    for message in turns:
        if any(isinstance(part, VideoPart) for part in message.parts):
            raise PromptError("video_unsupported", f"conversation {row} has a video, the model takes pictures")
    if any(isinstance(part, ImagePart) for part in turns[-1].parts) and len(turns) > 1:
        raise PromptError("image_misplaced", f"conversation {row} has a picture in its reply")
    return turns[0].text.strip(), turns[1].text.strip() if len(turns) > 1 else None
