"""From a conversation to token ids: render, split at the template's control tokens, encode what lies between.

The rendered prompt is cut only where the *template* wrote a control token. Everything between two cuts, template
words and user words alike, is one stretch and is encoded as one text, because tokenizers treat the start of a
stretch specially. To tell the template's `<|im_end|>` from one that a user typed, a sentinel (a private-use
character that occurs nowhere else) goes into every user text after each character that could open a control token;
after the cuts the sentinels are dropped again, so ordinary text gets exactly the reference's ids.

Picture slots are the cuts at the image token: the i-th slot belongs to the i-th picture and is widened to the
number of visual tokens in that picture's plan. Supervised spans are marked the same way, by two more private-use
characters around the assistant's words, so labels never come from a second tokenization.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from chiasm.core.errors import PromptError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart, VideoPart
from chiasm.processing.templates import ChatTemplate
from chiasm.processing.tokenizer import Tokenizer

_PRIVATE_USE = range(0x100000, 0x10FFFE)
_PROBE = "chiasmprobe"


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

    def token_strings(self, tokenizer: Tokenizer) -> list[str]:
        """Every token as the vocabulary spells it, with each picture as one entry such as `<image ×576>`."""
        shown, position = [], 0
        for start, stop in self.spans:
            shown += [tokenizer.id_to_token(index) or f"#{index}" for index in self.ids[position:start]]
            shown.append(slot_name(stop - start))
            position = stop
        return shown + [tokenizer.id_to_token(index) or f"#{index}" for index in self.ids[position:]]


@dataclass(frozen=True, slots=True)
class _Marks:
    """Three private-use characters that occur nowhere in a conversation or its template."""

    guard: str
    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Text between two control tokens, with the character ranges that are supervised."""

    text: str
    first: bool
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Control:
    """A control token that the template wrote."""

    token: str
    supervised: bool


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
        self._forms: dict[str, str] = {}

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
        marks = self._marks(conversation)
        rendered = self._rendered(conversation, marks, add_generation_prompt, supervise)
        parts = list(self._split(rendered, marks, self._turn_end if supervise else None))
        slots = sum(isinstance(part, _Control) and part.token in self._slots for part in parts)
        if slots != len(pictures):
            raise PromptError("image_count", _count_message(pictures, slots))
        bos = self.tokenizer.named.get("bos_token")
        bare = self.template is not None and bos is not None and rendered.startswith(bos)
        before, after = ((), ()) if bare else self.tokenizer.wrapping
        ids: list[int] = list(before)
        learned = [False] * len(ids)
        spans: list[tuple[int, int]] = []
        shown: list[str] = []
        for part in parts:
            if isinstance(part, _Stretch):
                begins = part.first or (self.pictures_first and len(shown) == len(spans))
                shown.append(part.text)
                for index, start, stop in self.tokenizer.encode_spans(part.text, first=begins):
                    ids.append(index)
                    learned.append(any(start < end and stop > begin for begin, end in part.ranges))
            elif part.token in self._slots:
                count = num_tokens[len(spans)]
                before_slot, after_slot = self.wrap or ("", "")
                opening, closing = ([self._id(token)] for token in self.wrap) if self.wrap else ([], [])
                if opening and opening == closing == ids[-1:]:
                    opening = []  # neighbours share the token between them
                ids += opening
                spans.append((len(ids), len(ids) + count))
                shown.append(f"{before_slot}{slot_name(count)}{after_slot}")
                ids += [self._id(part.token)] * count + closing
                learned += [False] * (count + len(opening) + len(closing))
            else:
                shown.append(part.token)
                ids.append(self._id(part.token))
                learned.append(part.supervised)
        if supervise and self._left_open(conversation, parts) and self.tokenizer.eos_id is not None:
            ids.append(self.tokenizer.eos_id)
            learned.append(True)
        ids += after
        learned += [False] * len(after)
        if self.pictures_first:
            _move_behind_pictures(ids, spans, len(before))
        return Prompt("".join(shown), tuple(ids), tuple(spans), tuple(learned) if supervise else ())

    def _id(self, token: str) -> int:
        index = self.tokenizer.token_to_id(token)
        assert index is not None, token
        return index

    # Rendering

    def _marks(self, conversation: Conversation) -> _Marks:
        used = {character for message in conversation.messages for character in message.text}
        used |= set(self.template.source) if self.template else set()
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        return _Marks(next(free), next(free), next(free))

    def _rendered(self, conversation: Conversation, marks: _Marks, generate: bool, supervise: bool) -> str:
        own = supervise and not self._marks_itself
        if self.template is None:
            texts = (self._string(message, marks, own, newline="") for message in conversation.messages)
            return "".join(texts)
        messages = []
        for message in conversation.messages:
            form = self._form(message.role)
            content: Any
            if form == "parts":
                content = self._parts(message, marks, own)
            else:
                content = self._string(message, marks, own, newline="\n")
                content = [{"type": "text", "text": content}] if form == "text parts" else content
            messages.append({"role": message.role, "content": content})
        return self.template.render(
            messages,
            add_generation_prompt=generate,
            variables=self.tokenizer.named,
            marks=(marks.opening, marks.closing) if supervise and self._marks_itself else None,
        )

    def _parts(self, message: Message, marks: _Marks, own: bool) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": self._safe(part.text, marks, message.role, own)})
            elif isinstance(part, VideoPart):
                parts.append({"type": "video", "video": "video"})
            else:
                parts.append({"type": "image", "image": "image"})
        return parts

    def _string(self, message: Message, marks: _Marks, own: bool, *, newline: str) -> str:
        """The message as one string; a picture becomes the image token, on a line of its own if others follow."""
        pieces = []
        for position, part in enumerate(message.parts):
            if isinstance(part, TextPart):
                pieces.append(self._safe(part.text, marks, message.role, own))
            else:
                more = position + 1 < len(message.parts)
                slot = self.video_token if isinstance(part, VideoPart) else self.image_token
                pieces.append((slot or "") + (newline if more else ""))
        return "".join(pieces)

    def _safe(self, text: str, marks: _Marks, role: str, own: bool) -> str:
        guarded = self._openers.sub(lambda match: match.group() + marks.guard, text) if self._openers else text
        core = guarded.lstrip()
        space = guarded[: len(guarded) - len(core)]
        plain = text.strip()
        if plain and (plain.startswith(self._endings) or any(plain in token for token in self._controls)):
            core = marks.guard + core  # it could complete a control token that template words begin
        if own and role == "assistant" and plain:
            kept = core.rstrip()
            core = marks.opening + kept + marks.closing + core[len(kept) :]
        return space + core

    def _form(self, role: str) -> str:
        """How the template wants a role's content: "parts", "text parts" (pictures are ignored) or "string"."""
        if role not in self._forms:
            self._forms[role] = self._probe_form(role)
        return self._forms[role]

    def _probe_form(self, role: str) -> str:
        parts: list[dict[str, Any]] = [{"type": "text", "text": _PROBE}]
        if role == "user" and self.image_token:
            parts.insert(0, {"type": "image", "image": "image"})
        try:
            seen = self._probe(role, parts)
        except PromptError:
            return "string"
        if _PROBE not in seen or "'type'" in seen or '"type"' in seen:
            return "string"
        if role == "user" and self.image_token and self.image_token not in seen:
            return "text parts"
        return "parts"

    def _probe(self, role: str, content: Any, marks: tuple[str, str] | None = None) -> str:
        assert self.template is not None
        user = {"role": "user", "content": [{"type": "text", "text": "a"}]}
        if role != "user" and self._form("user") == "string":
            user = {"role": "user", "content": "a"}
        turn = {"role": role, "content": content}
        messages = {"user": [turn], "system": [turn, user]}.get(role, [user, turn])
        return self.template.render(messages, variables=self.tokenizer.named, marks=marks)

    @cached_property
    def _marks_itself(self) -> bool:
        """The template surrounds an assistant's words with `{% generation %}`, in the form that we send."""
        if self.template is None or not self.template.has_generation:
            return False
        text: Any = _PROBE if self._form("assistant") == "string" else [{"type": "text", "text": _PROBE}]
        marks = ("(chiasm", "chiasm)")
        return marks[0] in self._probe("assistant", text, marks)

    # Splitting

    @cached_property
    def _controls(self) -> tuple[str, ...]:
        tokens = set(self.tokenizer.control_tokens)
        tokens |= self._slots
        return tuple(sorted(tokens, key=lambda token: (-len(token), token)))

    @cached_property
    def _openers(self) -> re.Pattern[str] | None:
        first = sorted({token[0] for token in self._controls})
        return re.compile("[" + re.escape("".join(first)) + "]") if first else None

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        return tuple(sorted({token[cut:] for token in self._controls for cut in range(1, len(token))}))

    def _pattern(self, marks: _Marks) -> re.Pattern[str]:
        # A token of one character can't be broken by what follows its first, so the sentinel itself is looked for.
        spelled = [re.escape(token) + (f"(?!{marks.guard})" if len(token) == 1 else "") for token in self._controls]
        return re.compile("|".join(spelled) or "(?!)")

    def _split(self, rendered: str, marks: _Marks, turn_end: str | None) -> Iterator[_Stretch | _Control]:
        reader = _Reader(marks)
        position, first = 0, True
        for match in self._pattern(marks).finditer(rendered):
            token = self.tokenizer.control_tokens.get(match.group())
            if token is not None and token.single_word and _inside_word(rendered, match):
                continue
            text = rendered[position : match.start()]
            position = match.end()
            if token is not None and token.lstrip:
                text = text.rstrip()
            if token is not None and token.rstrip:
                position += len(rendered[position:]) - len(rendered[position:].lstrip())
            ends = match.group() == turn_end
            if stretch := reader.stretch(text, first, ends):
                yield stretch
            first = False
            yield _Control(match.group(), reader.control(ends))
        if stretch := reader.stretch(rendered[position:], first, False):
            yield stretch

    @cached_property
    def _turn_end(self) -> str | None:
        """The control token that the template writes after an assistant's last turn."""
        if self.template is None:
            return None
        turns = (Message("user", (TextPart("a"),)), Message("assistant", (TextPart(_PROBE),)))
        conversation = Conversation(turns)
        marks = self._marks(conversation)
        rendered = self._rendered(conversation, marks, False, True)
        _, _, rest = rendered.rpartition(marks.closing)
        match = self._pattern(marks).match(rest.lstrip())
        return match.group() if match else None

    def _left_open(self, conversation: Conversation, parts: Sequence[_Stretch | _Control]) -> bool:
        if conversation.messages[-1].role != "assistant":
            return False
        for part in reversed(parts):
            if isinstance(part, _Control):
                return not part.supervised
            if part.text.strip():
                return True
        return True


class _Reader:
    """Walks the rendered prompt and keeps track of what is supervised."""

    def __init__(self, marks: _Marks) -> None:
        self._marks, self._inside, self._after = marks, False, False

    def stretch(self, text: str, first: bool, ends: bool) -> _Stretch | None:
        """The text without its marks; `ends`: the token that ends a turn comes next."""
        clean: list[str] = []
        ranges: list[tuple[int, int]] = []
        begin = 0
        for character in text:
            if character == self._marks.guard:
                continue
            if character == self._marks.opening:
                self._inside, self._after, begin = True, False, len(clean)
            elif character == self._marks.closing:
                self._inside, self._after = False, True
                ranges.append((begin, len(clean)))
            else:
                clean.append(character)
                self._after = self._after and character.isspace()
        if self._inside:
            ranges.append((begin, len(clean)))
        elif self._after and ends and ranges:  # space between the words and the turn's end is learned as well
            ranges[-1] = (ranges[-1][0], len(clean))
        return _Stretch("".join(clean), first, tuple(ranges)) if clean else None

    def control(self, ends: bool) -> bool:
        """True when the token is supervised."""
        closes, self._after = self._after and ends, False
        return self._inside or closes


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


def _inside_word(text: str, match: re.Match[str]) -> bool:
    around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    return any(character.isalnum() or character == "_" for character in around)
