"""Answers of the HTTP interface, in OpenAI's shapes where there are such: what the published description promises."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


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


class TokenProbability(BaseModel):
    """A token, its log-probability, and its bytes, which may be a part of a character only."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenProbability):
    """One token of a reply, and the most probable ones of its place."""

    top_logprobs: list[TokenProbability]


class Logprobs(BaseModel):
    """Every token of a reply."""

    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(BaseModel):
    """A reply."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One of the replies that were asked for."""

    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None


class ChatDocument(BaseModel):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: None


class RegionItem(BaseModel):
    """A place in a picture, in its own pixels: a box (left, top, right, bottom), a point (x, y), or both."""

    box: list[float] | None
    point: list[float] | None
    score: float
    phrase: str


class GroundDocument(BaseModel):
    """Where a phrase is, best first; `heat` (rows of numbers 0 to 1 over the picture) where the model makes one."""

    object: Literal["grounding"]
    model: str
    size: list[int]
    regions: list[RegionItem]
    heat: list[list[float]] | None
    text: str
    unread: list[str]
    clipped: int


class FoundPicture(BaseModel):
    """One picture of an index: its row, its file's name from the folder that was indexed, its sides, the cosine."""

    id: str
    filename: str
    size: list[int]
    score: float


class SearchDocument(BaseModel):
    """The likest pictures, best first."""

    object: Literal["list"] = "list"
    index: str
    model: str
    data: list[FoundPicture]


class SeenPicture(BaseModel):
    """One picture as the model sees it."""

    size: list[int]
    grid: list[int]
    crops: int
    crop_size: list[int]
    resized: list[int]
    tokens: int
    span: list[int]
    cropped_share: float
    shown: list[str]


class InspectDocument(BaseModel):
    """One conversation as the model sees it: tokens, pictures, and bytes of memory by use."""

    object: Literal["inspection"]
    model: str
    prompt: str
    tokens: int
    token_ids: list[int]
    pictures: list[SeenPicture]
    memory: dict[str, int]


class HealthDocument(BaseModel):
    """Whether the engines run and make progress."""

    status: Literal["ok", "failing"]
    waiting: int
    active: int
