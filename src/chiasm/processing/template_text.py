"""From a conversation to the text that a chat template makes of it, users' words guarded and supervised ones marked."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from chiasm.core.errors import PromptError
from chiasm.core.messages import Conversation, Message, TextPart, VideoPart
from chiasm.processing.control_tokens import ControlTokens, Marks
from chiasm.processing.templates import ChatTemplate
from chiasm.processing.tokenizer import Tokenizer

_PROBE = "chiasmprobe"


class TemplateText:
    """What a template makes of conversations; the form in which it wants them is found by trying.

    Args:
        tokenizer: whose names, such as `bos_token`, the template may use.
        template: None joins the texts of a conversation as they are.
        controls: what users' words must not spell.
        image_token, video_token: what stands for a picture or a video; None for a model without.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        controls: ControlTokens,
        image_token: str | None,
        video_token: str | None,
    ) -> None:
        self.tokenizer, self.template, self.controls = tokenizer, template, controls
        self.image_token, self.video_token = image_token, video_token
        self._forms: dict[str, str] = {}

    def marks(self, conversation: Conversation) -> Marks:
        """Marks that occur neither in the conversation nor in the template."""
        used = {character for message in conversation.messages for character in message.text}
        used |= set(self.template.source) if self.template else set()
        return Marks.beside(used)

    def render(self, conversation: Conversation, marks: Marks, generate: bool, supervise: bool) -> str:
        """The prompt with its marks.

        Args:
            conversation: turns with text and pictures.
            marks: the conversation's.
            generate: end with the opening of the assistant's turn.
            supervise: mark what the assistant said.

        Raises:
            PromptError: the template refuses the conversation, fails, or takes too much.
        """
        own = "assistant" if supervise and not self._marks_itself else None
        if self.template is None:
            texts = (self._string(message, marks, message.role == own, newline="") for message in conversation.messages)
            return "".join(texts)
        messages = []
        for message in conversation.messages:
            form = self._form(message.role)
            content: Any
            if form == "parts":
                content = self._parts(message, marks, message.role == own)
            else:
                content = self._string(message, marks, message.role == own, newline="\n")
                content = [{"type": "text", "text": content}] if form == "text parts" else content
            messages.append({"role": message.role, "content": content})
        return self.template.render(
            messages,
            add_generation_prompt=generate,
            variables=self.tokenizer.named,
            marks=(marks.opening, marks.closing) if supervise and self._marks_itself else None,
        )

    def _parts(self, message: Message, marks: Marks, learn: bool) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": self.controls.guarded(part.text, marks, learn)})
            elif isinstance(part, VideoPart):
                parts.append({"type": "video", "video": "video"})
            else:
                parts.append({"type": "image", "image": "image"})
        return parts

    def _string(self, message: Message, marks: Marks, learn: bool, *, newline: str) -> str:
        """The message as one string; a picture becomes the image token, on a line of its own if others follow."""
        pieces = []
        for position, part in enumerate(message.parts):
            if isinstance(part, TextPart):
                pieces.append(self.controls.guarded(part.text, marks, learn))
            else:
                more = position + 1 < len(message.parts)
                slot = self.video_token if isinstance(part, VideoPart) else self.image_token
                pieces.append((slot or "") + (newline if more else ""))
        return "".join(pieces)

    @cached_property
    def turn_end(self) -> str | None:
        """The control token that the template writes after an assistant's last turn."""
        if self.template is None:
            return None
        turns = (Message("user", (TextPart("a"),)), Message("assistant", (TextPart(_PROBE),)))
        conversation = Conversation(turns)
        marks = self.marks(conversation)
        rendered = self.render(conversation, marks, False, True)
        _, _, rest = rendered.rpartition(marks.closing)
        return self.controls.first(rest.lstrip(), marks)

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
