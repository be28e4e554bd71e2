"""From a conversation to token ids: render, split at the template's control tokens, encode what lies between.

The rendered prompt is cut only where the *template* wrote a control token (`control_tokens` tells which those are).
Everything between two cuts, template words and user words alike, is one stretch and is encoded as one text, because
tokenizers treat the start of a stretch specially.

Picture slots are the cuts at the image token: the i-th slot belongs to the i-th picture and is widened to the
number of visual tokens in that picture's plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chiasm.core.errors import PromptError
from chiasm.core.messages import Conversation, ImagePart, TextPart, VideoPart
from chiasm.processing.control_tokens import Control, ControlTokens, Stretch
from chiasm.processing.template_text import TemplateText
from chiasm.processing.templates import ChatTemplate
from chiasm.processing.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation as the language model reads it.

    Attributes:
        text: the rendered prompt, with each picture slot as one entry such as `<image ×576>`.
        ids: (T,) token ids, picture slots widened.
        spans: [start, stop) in `ids` for each picture, in reading order.
        supervised: (T,) True where training asks for the token; empty unless asked for.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    supervised: tuple[bool, ...] = field(default=())


class PromptRenderer:
    """Conversations → prompts, for one tokenizer and one template.

    Args:
        tokenizer: the text side.
        template: jinja2 source; None joins the texts of a conversation as they are.
        image_token: the control token that stands for a picture; None for a model without pictures.
        video_token: the control token that stands for a video; None for a model without videos.
        wrap: control tokens written before and after every picture's slot; where they are one and the same, adjacent
            pictures have one between them.
        pictures_first: pictures that begin the prompt stand before the tokens that the tokenizer puts before a text,
            and the text after them is encoded as one that begins.

    Raises:
        PromptError: the template can't be read, or the image token is no token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        image_token: str | None = "<image>",
        *,
        video_token: str | None = None,
        wrap: tuple[str, str] | None = None,
        pictures_first: bool = False,
    ) -> None:
        self.tokenizer, self.video_token, self.wrap = tokenizer, video_token, wrap
        self.pictures_first = pictures_first
        self._slots = {token for token in (image_token, video_token) if token is not None}
        self.template = None if template is None else ChatTemplate(template)
        self.image_token = image_token
        self.image_id = None if image_token is None else tokenizer.token_to_id(image_token)
        if image_token is not None and self.image_id is None:
            what = f"the image token {image_token!r} is none of the tokenizer's {len(tokenizer)} tokens"
            raise PromptError("image_token_unknown", what)
        self._controls = ControlTokens(tokenizer, self._slots)
        self._text = TemplateText(tokenizer, self.template, self._controls, image_token, video_token)

    def render(
        self,
        conversation: Conversation,
        num_tokens: Sequence[int] = (),
        *,
        add_generation_prompt: bool = True,
        supervise: bool = False,
    ) -> Prompt:
        """Render one conversation.

        Args:
            conversation: turns with text and pictures.
            num_tokens: visual tokens of each picture, in reading order.
            add_generation_prompt: end with the opening of the assistant's turn.
            supervise: also mark the assistant's tokens, each turn's end token with them; a last turn that the
                template leaves open gets the end-of-sequence token.

        Returns:
            The prompt.

        Raises:
            PromptError: an empty question, a template failure, pictures and slots that differ in number.
        """
        check_question(conversation)
        pictures = list(_pictures(conversation, self.video_token is not None))
        if len(pictures) != len(num_tokens):
            raise PromptError(
                "image_count", f"{len(pictures)} images in the messages, {len(num_tokens)} picture plans beside them"
            )
        marks = self._text.marks(conversation)
        rendered = self._text.render(conversation, marks, add_generation_prompt, supervise)
        parts = list(self._controls.split(rendered, marks, self._text.turn_end if supervise else None))
        slots = sum(isinstance(part, Control) and part.token in self._slots for part in parts)
        if slots != len(pictures):
            raise PromptError("image_count", _count_message(pictures, slots))
        bos = self.tokenizer.named.get("bos_token")
        bare = self.template is not None and bos is not None and rendered.startswith(bos)
        before, after = ((), ()) if bare else self.tokenizer.wrapping
        line = _Line()
        line.add(before)
        for part in parts:
            if isinstance(part, Stretch):
                self._add_stretch(line, part)
            elif part.token in self._slots:
                self._add_picture(line, part.token, num_tokens[len(line.spans)])
            else:
                line.shown.append(part.token)
                line.add((self._id(part.token),), part.supervised)
        if supervise and _left_open(conversation, parts) and self.tokenizer.eos_id is not None:
            line.add((self.tokenizer.eos_id,), True)
        line.add(after)
        if self.pictures_first:
            _move_behind_pictures(line.ids, line.spans, len(before))
        learned = tuple(line.learned) if supervise else ()
        return Prompt("".join(line.shown), tuple(line.ids), tuple(line.spans), learned)

    def _add_stretch(self, line: _Line, stretch: Stretch) -> None:
        begins = stretch.first or (self.pictures_first and len(line.shown) == len(line.spans))
        line.shown.append(stretch.text)
        for index, start, stop in self.tokenizer.encode_spans(stretch.text, first=begins):
            line.add((index,), any(start < end and stop > begin for begin, end in stretch.ranges))

    def _add_picture(self, line: _Line, token: str, count: int) -> None:
        before, after = self.wrap or ("", "")
        opening, closing = ([self._id(each)] for each in self.wrap) if self.wrap else ([], [])
        if opening and opening == closing == line.ids[-1:]:
            opening = []  # neighbours share the token between them
        line.add(opening)
        line.spans.append((len(line.ids), len(line.ids) + count))
        line.shown.append(f"{before}{slot_name(count)}{after}")
        line.add([self._id(token)] * count + closing)

    def _id(self, token: str) -> int:
        index = self.tokenizer.token_to_id(token)
        assert index is not None, token
        return index


@dataclass(slots=True)
class _Line:
    """A prompt in the making."""

    ids: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def add(self, ids: Sequence[int], learned: bool = False) -> None:
        self.ids += ids
        self.learned += [learned] * len(ids)


def _left_open(conversation: Conversation, parts: Sequence[Stretch | Control]) -> bool:
    if conversation.messages[-1].role != "assistant":
        return False
    for part in reversed(parts):
        if isinstance(part, Control):
            return not part.supervised
        if part.text.strip():
            return True
    return True


def _move_behind_pictures(ids: list[int], spans: list[tuple[int, int]], count: int) -> None:
    """Let the first `count` ids change places with the pictures that follow them at once."""
    stop = count
    for number, (start, end) in enumerate(spans):
        if start != stop:
            break
        spans[number], stop = (start - count, end - count), end
    ids[:stop] = [*ids[count:stop], *ids[:count]]


def slot_name(count: int) -> str:
    """How a picture of `count` visual tokens is shown to people."""
    return f"<image ×{count}>"


def check_question(conversation: Conversation) -> None:
    """Refuse a conversation whose last user turn asks nothing.

    Raises:
        PromptError: the turn has no parts, or text parts that are all blank.
    """
    for index in range(len(conversation.messages) - 1, -1, -1):
        message = conversation.messages[index]
        if message.role != "user":
            continue
        texts = [part for part in message.parts if isinstance(part, TextPart)]
        if not message.parts or (texts and not message.text.strip()):
            what = f"the question is empty: message {index} has {len(message.text)} characters of text, all blank"
            raise PromptError("question_empty", what, hint="ask something, such as 'Describe the picture.'")
        return


def _pictures(conversation: Conversation, videos: bool) -> Iterator[tuple[int, int]]:
    if not videos:
        check_videos(conversation)
    for i, message in enumerate(conversation.messages):
        for j, part in enumerate(message.parts):
            if isinstance(part, (ImagePart, VideoPart)):
                yield i, j


def check_videos(conversation: Conversation) -> None:
    """Refuse a conversation with a video.

    Raises:
        PromptError: the video, by message and part.
    """
    for i, message in enumerate(conversation.messages):
        for j, part in enumerate(message.parts):
            if isinstance(part, VideoPart):
                raise PromptError("video_unsupported", f"message {i}, part {j} is a video; this model takes 0 videos")


def _count_message(pictures: Sequence[tuple[int, int]], slots: int) -> str:
    what = f"{len(pictures)} images in the messages, {slots} image slots in the prompt"
    if slots < len(pictures):
        message, part = pictures[slots]
        what += f" (message {message}, part {part})"
    return what
