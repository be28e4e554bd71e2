"""Requests and answers of the HTTP interface, in OpenAI's shapes; unknown fields are ignored, known ones checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _whole(text: str) -> str:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text holds half a character, a lone surrogate")
    return text


Text = Annotated[str, AfterValidator(_whole)]
Name = Annotated[Text, Field(min_length=1, max_length=256)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class TextPart(_Given):
    """Text."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Given):
    """A picture's address."""

    url: str = Field(min_length=1, description="data:image/…;base64,… or, where the server allows it, an address")
    detail: str | None = None


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


Part = Annotated[TextPart | ImageUrlPart | ImagePart | VideoPart, Field(discriminator="type")]
StillPart = Annotated[TextPart | ImageUrlPart | ImagePart, Field(discriminator="type")]
PicturePart = Annotated[ImageUrlPart | ImagePart, Field(discriminator="type")]


class ChatMessage(_Given):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(max_length=1024)]


class StreamOptions(_Given):
    """What a stream tells besides text."""

    include_usage: bool = False


class ResponseFormat(_Given):
    """The form of the reply."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class ChatRequest(_Given):
    """A conversation to answer."""

    model: Name
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    n: int | None = Field(default=None, ge=1, le=16)
    stop: Name | Annotated[list[Name], Field(max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    tools: list[Any] | None = None
    logit_bias: dict[str, Any] | None = None

    def unsupported(self) -> str | None:
        """The first field that asks for what this server doesn't do."""
        asked = {
            "response_format": self.response_format is not None and self.response_format.type != "text",
            "tools": bool(self.tools),
            "logit_bias": bool(self.logit_bias),
            "presence_penalty": bool(self.presence_penalty),
            "frequency_penalty": bool(self.frequency_penalty),
            "top_logprobs": bool(self.top_logprobs),
        }
        return next((name for name, wanted in asked.items() if wanted), None)


class EmbeddingRequest(_Given):
    """Texts and pictures to embed."""

    model: Name
    input: Text | StillPart | Annotated[list[Text | StillPart], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=2**31)


class ClassifyRequest(_Given):
    """Pictures to classify among labels."""

    model: Name
    input: (
        Annotated[str, Field(min_length=1)]
        | PicturePart
        | Annotated[list[Annotated[str, Field(min_length=1)] | PicturePart], Field(min_length=1, max_length=1024)]
    )
    labels: list[Name] = Field(min_length=1, max_length=10_000)
    templates: list[Annotated[Text, Field(max_length=1024)]] | None = Field(default=None, min_length=1, max_length=128)


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorDocument(BaseModel):
    """A failure."""

    error: ErrorBody


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | None = None


class EmbeddingItem(BaseModel):
    """One vector: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingDocument(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingItem]
    usage: Usage


class LabelProbability(BaseModel):
    """One label."""

    label: str
    probability: float


class ClassifyItem(BaseModel):
    """One picture's labels, the most probable first."""

    index: int
    labels: list[LabelProbability]


class ClassifyDocument(BaseModel):
    """Classified pictures in the order of the input."""

    object: Literal["list"] = "list"
    model: str
    data: list[ClassifyItem]


class ModelItem(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    capabilities: list[str]


class ModelDocument(BaseModel):
    """Every served model."""

    object: Literal["list"] = "list"
    data: list[ModelItem]
