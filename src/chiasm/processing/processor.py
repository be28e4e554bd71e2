"""Processors: conversations, texts and pictures → `Batch`, the only way into a model.

`Processor` serves models that take conversations, `DualProcessor` those that embed texts and pictures. Both read
every picture through `pictures.read_picture` and take its token count from its `ImagePlan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.errors import PictureError, PromptError
from chiasm.core.messages import Conversation, ImagePart, VideoPart, parse_conversation
from chiasm.core.plan import ImagePlan
from chiasm.processing.processor_files import counting, save_parts
from chiasm.processing.prompt import Prompt, PromptRenderer, check_videos
from chiasm.processing.tokenizer import Tokenizer
from chiasm.processing.video import VideoReading

if TYPE_CHECKING:
    import torch
    from PIL import Image

IGNORED = -100  # a label that no loss looks at


class Pictures(Protocol):
    """What a processor needs of an image processor."""

    def read(self, source: Any) -> Image.Image:
        """The picture behind any source."""
        ...

    def plan(self, picture: Any) -> ImagePlan:
        """What happens to one picture."""
        ...

    def pixels(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[ImagePlan]]:
        """(crops, 3, h, w) float32 of every picture, and one plan a picture."""
        ...

    def as_seen(self, pixels: torch.Tensor) -> Image.Image:
        """One crop (3, h, w) as a picture."""
        ...

    def to_config(self) -> dict[str, Any]:
        """The published settings."""
        ...

    def within(self, tokens: int) -> Pictures:
        """The same with at most so many visual tokens a picture."""
        ...


class Processor:
    """Conversations → batches.

    Args:
        tokenizer: the text side.
        image_processor: the picture side; None for a language model alone.
        template: the chat template's source; None joins a conversation's texts.
        image_token: the control token that stands for a picture.
        max_length: longest prompt in tokens; None = unlimited.
        max_images: most pictures in a conversation; None = unlimited.
        settings: further entries of processor_config.json, such as `processor_class` and `patch_size`.
        video: how videos are taken; None for a model without videos.
        wrap: control tokens before and after every picture's slot.
        pictures_first: see `PromptRenderer`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_processor: Pictures | None = None,
        *,
        template: str | None = None,
        image_token: str | None = "<image>",
        max_length: int | None = None,
        max_images: int | None = None,
        settings: Mapping[str, Any] | None = None,
        video: VideoReading | None = None,
        wrap: tuple[str, str] | None = None,
        pictures_first: bool = False,
    ) -> None:
        self.tokenizer, self.image_processor, self.video = tokenizer, image_processor, video
        self.template, self.image_token = template, image_token if image_processor is not None else None
        self.max_length, self.max_images = max_length, max_images
        self.settings = dict(settings or {})
        video_token = video.token if video is not None else None
        self.renderer = PromptRenderer(
            tokenizer, template, self.image_token, video_token=video_token, wrap=wrap, pictures_first=pictures_first
        )

    def within(self, tokens: int) -> Processor:
        """The same with at most so many visual tokens a picture or video; see `budget.within`."""
        limited = copy(self)
        if self.image_processor is not None:
            limited.image_processor = self.image_processor.within(tokens)
        return limited

    def told_by(self, template: str) -> Processor:
        """The same with another chat template."""
        other, own = copy(self), self.renderer
        other.template = template
        other.renderer = PromptRenderer(
            self.tokenizer,
            template,
            self.image_token,
            video_token=own.video_token,
            wrap=own.wrap,
            pictures_first=own.pictures_first,
        )
        return other

    def __call__(self, conversations: Any, *, add_generation_prompt: bool = True, supervise: bool = False) -> Batch:
        """Turn conversations into model inputs.

        Args:
            conversations: one conversation or a sequence, in any form `parse_conversation` takes.
            add_generation_prompt: end each prompt with the opening of the assistant's turn.
            supervise: give labels for the assistant's words, for training.

        Returns:
            A batch with `input_ids` (B, T) padded on the left, `attention_mask` (B, T), the pixels of every crop,
            one plan and one span a picture, and `labels` (B, T) when asked for.

        Raises:
            PromptError: empty questions, too many pictures or tokens, a row without a supervised token.
            PictureError: a picture can't be read.
        """
        parsed = [self._parsed(conversation) for conversation in listed(conversations)]
        if not parsed:
            raise PromptError("conversation_empty", "0 conversations given, at least 1 needed")
        for row, conversation in enumerate(parsed):
            self._check_images(conversation, row)
        pictures = [picture for row, conversation in enumerate(parsed) for picture in self._read(conversation, row)]
        pixels: torch.Tensor | None = None
        plans: list[ImagePlan] = []
        if pictures:
            assert self.image_processor is not None
            pixels, plans = self.image_processor.pixels(pictures)
        prompts: list[Prompt] = []
        position = 0
        for row, conversation in enumerate(parsed):
            count = sum(1 for _ in conversation.media())
            own = plans[position : position + count]
            position += count
            prompt = self.renderer.render(
                conversation,
                [plan.num_tokens for plan in own],
                add_generation_prompt=add_generation_prompt,
                supervise=supervise,
            )
            self._check_length(prompt, row, own, conversation)
            if supervise and not any(prompt.supervised):
                raise PromptError("labels_empty", f"conversation {row} has 0 supervised tokens of {len(prompt.ids)}")
            prompts.append(prompt)
        return self._batch(prompts, pixels, plans, supervise)

    def prompt(self, conversation: Any, *, add_generation_prompt: bool = True) -> Prompt:
        """The prompt of one conversation, for people to look at; same arguments and failures as the call."""
        parsed = self._parsed(conversation)
        self._check_images(parsed, 0)
        pictures = self._read(parsed, 0)
        tokens = (
            [] if self.image_processor is None else [self.image_processor.plan(each).num_tokens for each in pictures]
        )
        return self.renderer.render(parsed, tokens, add_generation_prompt=add_generation_prompt)

    def save(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """Write processor_config.json and the tokenizer's files as transformers 5 reads them.

        Args:
            folder: an existing folder.
            settings: entries of processor_config.json that go over the processor's own.
        """
        if self.template is not None:
            self.tokenizer.chat_template = self.template
        settings = {**counting(self.image_processor), **self.settings, **(settings or {})}
        if self.image_token is not None:
            settings["image_token"] = self.image_token
        save_parts(folder, self.tokenizer, self.image_processor, settings)

    def _parsed(self, conversation: Any) -> Conversation:
        parsed = parse_conversation(conversation)
        return parsed if self.video is None else self.video.spell(parsed)

    def _check_images(self, conversation: Conversation, row: int) -> None:
        places = [
            (i, j)
            for i, message in enumerate(conversation.messages)
            for j, part in enumerate(message.parts)
            if isinstance(part, ImagePart)
        ]
        most = 0 if self.image_processor is None else self.max_images
        if most is not None and len(places) > most:
            message, part = places[most]
            what = f"conversation {row} has {len(places)} images, the model takes {most}"
            raise PromptError("too_many_images", f"{what} (message {message}, part {part} is the first too many)")

    def _check_length(self, prompt: Prompt, row: int, plans: Sequence[ImagePlan], conversation: Conversation) -> None:
        if self.max_length is not None and len(prompt.ids) > self.max_length:
            seen = sum(stop - start for start, stop in prompt.spans)
            what = f"prompt {row} has {len(prompt.ids)} tokens ({seen} visual), the model takes {self.max_length}"
            if len(plans) > 1:
                costs = [f"{plan.source[0]}×{plan.source[1]}: {plan.num_tokens}" for plan in plans[:8]]
                what += f"; pictures cost {', '.join(costs)}{' …' if len(plans) > 8 else ''}"
            hint = "a shorter text, or fewer or smaller pictures"
            given = example_turns(conversation)
            if given:
                fit = self._examples_that_fit(conversation, plans, given)
                what += f"; {fit} of the {given} examples before the question fit"
                hint = f"the last {fit} examples" if fit else hint
            raise PromptError("context_exceeded", what, hint=hint)

    def _examples_that_fit(self, conversation: Conversation, plans: Sequence[ImagePlan], given: int) -> int:
        """The most answered turns, the last ones, that the context holds beside the question."""
        assert self.max_length is not None
        turns = [message for message in conversation.messages if message.role != "system"]
        system = conversation.messages[: len(conversation.messages) - len(turns)]
        low, high = 0, given - 1  # `given` don't fit
        while low < high:
            middle = (low + high + 1) // 2
            kept = Conversation((*system, *turns[2 * (given - middle) :]))
            pictures = sum(1 for _ in kept.media())
            counts = [plan.num_tokens for plan in plans[len(plans) - pictures :]]
            fits = len(self.renderer.render(kept, counts).ids) <= self.max_length
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _read(self, conversation: Conversation, row: int) -> list[Any]:
        if self.video is None:
            check_videos(conversation)
        pictures: list[Any] = []
        for i, message in enumerate(conversation.messages):
            for j, part in enumerate(message.parts):
                if isinstance(part, VideoPart):
                    pictures.append(part.source)  # sampled already; a model without videos refuses the prompt
                if not isinstance(part, ImagePart):
                    continue
                assert self.image_processor is not None
                try:
                    pictures.append(self.image_processor.read(part.source))
                except PictureError as error:
                    where = f"conversation {row}, message {i}, part {j}"
                    raise PictureError(error.code, f"{where}: {error.what}", hint=error.hint) from None
        return pictures

    def _batch(
        self, prompts: Sequence[Prompt], pixels: torch.Tensor | None, plans: Sequence[ImagePlan], supervise: bool
    ) -> Batch:
        import torch

        length = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), length), self.tokenizer.pad_id, dtype=torch.long)  # (B, T)
        mask = torch.zeros(len(prompts), length, dtype=torch.bool)  # (B, T)
        labels = torch.full_like(ids, IGNORED) if supervise else None
        spans = []
        for row, prompt in enumerate(prompts):
            start = length - len(prompt.ids)
            ids[row, start:] = torch.tensor(prompt.ids, dtype=torch.long)
            mask[row, start:] = True
            if labels is not None:
                learned = torch.tensor(prompt.supervised)
                labels[row, start:][learned] = ids[row, start:][learned]
            spans += [ImageSpan(row, start + begin, start + stop) for begin, stop in prompt.spans]
        return Batch(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels,
            plans=tuple(plans),
            spans=tuple(spans),
            labels=labels,
            source_length=None if supervise else length,
            prompts=tuple(prompt.text for prompt in prompts),
        )


class DualProcessor:
    """Texts and pictures, apart, → batches.

    Args:
        tokenizer: the text side.
        image_processor: the picture side; None for a text encoder alone.
        context_length: most tokens of a text, its special tokens included.
        pad_to_context: pad every text to the whole context and give no mask (SigLIP); otherwise pad to the longest
            and mask the padding.
        settings: further entries of processor_config.json.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_processor: Pictures | None = None,
        context_length: int = 77,
        *,
        pad_to_context: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.context_length, self.pad_to_context = context_length, pad_to_context
        self.settings = dict(settings or {})

    @property
    def wrapping(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and after every text."""
        return self.tokenizer.wrapping

    def texts(self, texts: str | Sequence[str], *, truncate: bool = False) -> Batch:
        """Turn texts into model inputs.

        Args:
            texts: one text or a sequence.
            truncate: cut a text that is too long, keeping its end token, instead of refusing it.

        Returns:
            A batch with `input_ids` (B, T) padded on the right, and `attention_mask` (B, T) unless padding belongs
            to the input.

        Raises:
            PromptError: no texts, or one longer than the context.
        """
        import torch

        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise PromptError("nothing_to_embed", "0 texts given, at least 1 needed")
        before, after = self.wrapping
        room = self.context_length - len(before) - len(after)
        rows = []
        for index, text in enumerate(texts):
            words = self.tokenizer.encode(text)
            if len(words) > room and not truncate:
                total = len(words) + len(before) + len(after)
                what = f"text {index} has {total} tokens, the model takes {self.context_length}"
                raise PromptError("text_too_long", what, hint="a shorter text, or --truncate (in Python truncate=True)")
            rows.append([*before, *words[:room], *after])
        length = self.context_length if self.pad_to_context else max(1, *(len(row) for row in rows))
        ids = torch.full((len(rows), length), self.tokenizer.pad_id, dtype=torch.long)  # (B, T)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)  # (B, T)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[index, : len(row)] = True
        return Batch(input_ids=ids, attention_mask=None if self.pad_to_context else mask, prompts=tuple(texts))

    def captions(self, texts: str | Sequence[str], *, truncate: bool = False) -> Batch:
        """Texts that are learned or judged beside their pictures; usually as they are embedded, see `texts`."""
        return self.texts(texts, truncate=truncate)

    def images(self, images: Any) -> Batch:
        """Turn pictures into model inputs.

        Args:
            images: one picture or a sequence, from any source `pictures.read_picture` takes.

        Returns:
            A batch with `pixel_values` (crops, 3, h, w) and one plan a picture.

        Raises:
            PictureError: a picture can't be read.
            PromptError: no pictures.
        """
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if not images:
            raise PromptError("nothing_to_embed", "0 pictures given, at least 1 needed")
        assert self.image_processor is not None, "this processor takes no pictures"
        pixels, plans = self.image_processor.pixels(images)
        return Batch(pixel_values=pixels, plans=tuple(plans))

    def save(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """Write processor_config.json and the tokenizer's files as transformers 5 reads them.

        Args:
            folder: an existing folder.
            settings: entries of processor_config.json that go over the processor's own.
        """
        save_parts(folder, self.tokenizer, self.image_processor, {**self.settings, **(settings or {})})


def example_turns(conversation: Conversation) -> int:
    """Answered turns before the last question; 0 where turns don't alternate so."""
    turns = [message for message in conversation.messages if message.role != "system"]
    leading = len(conversation.messages) - len(turns)
    if any(message.role == "system" for message in conversation.messages[leading:]):
        return 0
    if [message.role for message in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        return 0
    return len(turns) // 2


def listed(conversations: Any) -> list[Any]:
    """One conversation, in whatever form, or a sequence of them → a list of conversations."""
    if isinstance(conversations, (str, Mapping, Conversation)):
        return [conversations]
    items = list(conversations)
    first = items[0] if items else None
    turns = hasattr(first, "role") or (isinstance(first, Mapping) and "messages" not in first)
    return [items] if turns else items
