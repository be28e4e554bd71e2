"""Requests of the HTTP interface, in OpenAI's shapes.

A request's own fields are taken or refused by name, and a field that nobody knows is refused too: a parameter that is
dropped in silence changes answers in silence. Inside messages, where clients echo whole answers back, the fields that
say nothing are passed over.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

_HALVES = re.compile("[\ud800-\udfff]")


def _whole(text: str) -> str:
    if not text.isascii() and _HALVES.search(text):
        raise ValueError("the text holds half a character, a lone surrogate")
    return text


Text = Annotated[str, AfterValidator(_whole)]
Name = Annotated[Text, Field(min_length=1, max_length=256)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TextPart(_Given):
    """Text."""

    type: Literal["text"]
    text: Text


class RefusalPart(_Given):
    """A refusal, in an answer that is given back."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        """Its words."""
        return self.refusal


class ImageUrl(_Given):
    """A picture's address."""

    url: str = Field(min_length=1, description="data:image/…;base64,… or, where the server allows it, an address")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        default=None, description="taken and without effect: how a picture is cut up is the model's own"
    )


class ImageUrlPart(_Given):
    """A picture, in OpenAI's spelling."""

    type: Literal["image_url"]
    image_url: ImageUrl | Annotated[str, Field(min_length=1)]

    @property
    def source(self) -> str:
        """The address."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class ImagePart(_Given):
    """A picture, in the spelling of chat templates."""

    type: Literal["image"]
    url: str = Field(min_length=1)

    @property
    def source(self) -> str:
        """The address."""
        return self.url


class VideoPart(_Given):
    """A video as its frames, in order."""

    type: Literal["video"]
    video: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=1024)
    fps: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)


Part = Annotated[TextPart | RefusalPart | ImageUrlPart | ImagePart | VideoPart, Field(discriminator="type")]
StillPart = Annotated[TextPart | ImageUrlPart | ImagePart, Field(discriminator="type")]
PicturePart = Annotated[ImageUrlPart | ImagePart, Field(discriminator="type")]


Parts = Annotated[list[Part], Field(max_length=1024)]


class GivenMessage(_Given):
    """A turn of anyone but the assistant."""

    role: Literal["system", "developer", "user", "tool"]
    content: Text | Parts


class AssistantMessage(_Given):
    """A turn of the assistant, as its answer came or shorter."""

    role: Literal["assistant"]
    content: Text | Parts | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    audio: None = None


ChatMessage = Annotated[GivenMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(_Given):
    """What a stream tells besides text."""

    include_usage: bool | None = None


class JsonSchemaFormat(_Given):
    """A schema that the reply must fit."""

    name: Annotated[str, Field(max_length=256)] = "reply"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Given):
    """The form of the reply."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None


class ChatRequest(_Asked):
    """A conversation to answer."""

    model: Name
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    n: int | None = Field(default=None, ge=1, le=16)
    stop: Name | Annotated[list[Name], Field(max_length=16)] | None = None
    seed: int | None = None  # modulo 2⁶³: clients that count in floating point can't keep to a limit there
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None
    moderation: Any = None
    user: str | None = Field(default=None, description="taken and without effect, as are the fields below")
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    prediction: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None

    def unsupported(self) -> str | None:
        """The first field that asks for what this server doesn't do."""
        asked = {
            "tools": bool(self.tools),
            "tool_choice": self.tool_choice not in (None, "none", "auto"),
            "functions": bool(self.functions),
            "function_call": self.function_call not in (None, "none", "auto"),
            "logit_bias": bool(self.logit_bias),
            "presence_penalty": bool(self.presence_penalty),
            "frequency_penalty": bool(self.frequency_penalty),
            "modalities": self.modalities not in (None, [], ["text"]),
            "audio": bool(self.audio),
            "store": bool(self.store),
            "service_tier": self.service_tier not in (None, "auto", "default"),
            "reasoning_effort": self.reasoning_effort not in (None, "none"),
            "verbosity": self.verbosity not in (None, "medium"),
            "web_search_options": self.web_search_options is not None,
            "moderation": self.moderation is not None,
        }
        return next((name for name, wanted in asked.items() if wanted), None)


class EmbeddingRequest(_Asked):
    """Texts and pictures to embed."""

    model: Name
    input: Text | StillPart | Annotated[list[Text | StillPart], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=2**31)
    user: str | None = Field(default=None, description="taken and without effect")

    @field_validator("input", mode="before")
    @classmethod
    def _no_ids(cls, value: Any) -> Any:
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, (int, list)):
            raise ValueError(
                "token ids are another tokenizer's; send text (LangChain: check_embedding_ctx_length=False)"
            )
        return value


class ClassifyRequest(_Asked):
    """Pictures to classify among labels."""

    model: Name
    input: (
        Annotated[str, Field(min_length=1)]
        | PicturePart
        | Annotated[list[Annotated[str, Field(min_length=1)] | PicturePart], Field(min_length=1, max_length=1024)]
    )
    labels: list[Name] = Field(min_length=1, max_length=10_000)
    templates: list[Annotated[Text, Field(max_length=1024)]] | None = Field(default=None, min_length=1, max_length=128)


class SearchRequest(_Asked):
    """What to find in an index of pictures; the names are those of OpenAI's search in a vector store."""

    index: Name | None = Field(default=None, description="which one; may be left out where there is one")
    model: Name | None = Field(default=None, description="the index's own, or left out")
    query: Annotated[Text, Field(min_length=1)] | PicturePart
    max_num_results: int | None = Field(default=None, ge=1, le=1000, description="10 where nothing is said")


class GroundRequest(_Asked):
    """A picture in which a phrase is to be found."""

    model: Name
    input: Annotated[str, Field(min_length=1)] | PicturePart
    phrase: Name


class InspectRequest(_Asked):
    """A conversation to show as the model would see it."""

    model: Name
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
