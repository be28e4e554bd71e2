"""`Model`: a module, its processor and its family, behind the methods that people call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import CapabilityError, CheckpointError
from chiasm.core.inspection import Inspection
from chiasm.core.messages import parse_conversation
from chiasm.core.protocols import Answering, Embedding, Generative, Heating, Matching
from chiasm.core.registry import Family, require
from chiasm.core.replies import Grounding, Located, Reply, Score
from chiasm.generation.decoding import answer, answers, stream
from chiasm.generation.limits import Limits
from chiasm.generation.requests import Request
from chiasm.generation.sampling import Sampling
from chiasm.generation.scheduler import Scheduler
from chiasm.generation.slotted import Keeping
from chiasm.generation.store import Counts
from chiasm.models.asking import as_list, requests_for, search_beams
from chiasm.models.embedding import Embedder
from chiasm.models.grounding import ground_by_words, locate_by_words
from chiasm.models.inspecting import inspect_conversation
from chiasm.models.judging import Choosing, ground_phrase, match_pairs, score_replies
from chiasm.models.remembering import remember
from chiasm.processing.processor import Processor, listed


class Model:
    """A loaded model.

    Args:
        module: the network, in evaluation mode.
        processor: pictures, texts and conversations → `Batch`.
        family: what it is and can do.
        config: the family's configuration.
        writer: (model, folder) → writes the family's published layout; given by the loader.
        name: what it was loaded as.
        quantized: how its weights were quantized; None = they weren't.
    """

    def __init__(
        self,
        module: nn.Module,
        processor: Any,
        family: Family,
        config: Any,
        *,
        writer: Callable[[Model, Path], None] | None = None,
        name: str = "",
        quantized: str | None = None,
    ) -> None:
        self.module = module.eval()
        self.processor = processor
        self.family = family
        self.config = config
        self.name = name or family.name
        self.quantized = quantized
        self._writer = writer

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.module.parameters())
        size = f"parameters={parameters:,}" if self.quantized is None else f"quantized={self.quantized!r}"
        return f"Model({self.name!r}, family={self.family.name!r}, {size}, device={self.device})"

    def remember_pictures(self, megabytes: int = 256) -> Counts | None:
        """Encode a picture that comes again only once, over all later calls.

        Args:
            megabytes: most that is kept, in memory; 0 = forget and keep nothing.

        Returns:
            What is found and computed, counted as it goes on; None for a family whose tower can't be kept so.
        """
        kept = remember(self.module, megabytes * 2**20)
        return None if kept is None else kept.counts

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this model can do: its family's, unless its configuration has only some of the family's heads."""
        return tuple(getattr(self.config, "capabilities", self.family.capabilities))

    def embed_images(self, images: Any) -> torch.Tensor:
        """Embed pictures.

        Args:
            images: one picture or a sequence: PIL pictures, paths, bytes, data URIs, (h, w, 3) uint8 arrays.

        Returns:
            (N, E) float32, L2-normalised.

        Raises:
            CapabilityError: the family has no embeddings.
            PictureError: a picture can't be read.
        """
        return self._embedder("embed_images").images(as_list(images))

    def embed_texts(self, texts: str | Sequence[str], *, truncate: bool = False) -> torch.Tensor:
        """Embed texts.

        Args:
            texts: one text or a sequence.
            truncate: cut texts that are longer than the tower takes, instead of refusing them.

        Returns:
            (N, E) float32, L2-normalised.

        Raises:
            CapabilityError: the family has no embeddings.
            PromptError: a text is longer than the tower takes.
        """
        return self._embedder("embed_texts").texts(as_list(texts), truncate=truncate)

    def embed_sounds(self, sounds: Any, rate: int | None = None) -> torch.Tensor:
        """Embed sounds, in the space of the pictures.

        Args:
            sounds: one sound or a sequence: paths or bytes of WAV files, or arrays (n,) or (channels, n) in −1..1.
            rate: samples a second of arrays.

        Returns:
            (N, E) float32, L2-normalised: the mean direction of a sound's clips.

        Raises:
            CapabilityError: the model reads no sounds.
            DataError: a sound can't be read, or nobody says its rate.
        """
        return self._embedder("embed_sounds").sounds(as_list(sounds), rate, self.name)

    def similarity(self, images: Any, texts: str | Sequence[str]) -> torch.Tensor:
        """(images, texts) logits, scaled and biased as the family defines; arguments as for the embeddings."""
        embedder = self._embedder("similarity")
        return embedder.logits(embedder.images(as_list(images)), embedder.texts(as_list(texts)))

    def classify(
        self, images: Any, labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Zero-shot classification.

        Args:
            images: one picture or a sequence, as for `embed_images`.
            labels: at least one label.
            templates: texts with one ``{}`` for the label; a label's vector is the normalised mean over them
                (Radford et al. 2021, §3.1.4). None = the label by itself.

        Returns:
            For each picture, (label, probability) from the most to the least probable. Families with a bias
            (SigLIP) give every label its own sigmoid; the others a softmax over the labels.

        Raises:
            PromptError: no labels, a label given twice, a template without ``{}``.
        """
        templates = as_list(templates if templates is not None else "{}")
        return self._embedder("classify").classify(as_list(images), list(labels), templates)

    def match(self, images: Any, texts: str | Sequence[str], *, truncate: bool = False) -> torch.Tensor:
        """Judge pairs by a matching head.

        Args:
            images: one picture or a sequence, as for `embed_images`.
            texts: one text or a sequence; one picture or one text stands for all.
            truncate: cut texts that are longer than the model takes, instead of refusing them.

        Returns:
            (N,) probability that picture n and text n belong together.

        Raises:
            CapabilityError: the model has no matching head.
            PromptError: counts that don't pair up, or a text longer than the model takes.
        """
        self._require("match", "match()")
        assert isinstance(self.module, Matching)
        pairs = as_list(images), as_list(texts)
        return match_pairs(self.module, self.processor, *pairs, self.device, truncate=truncate)

    def generate(
        self,
        conversations: Any,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        num_beams: int = 1,
        stop: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
        constraint: Any = None,
        batch_size: int = 8,
    ) -> list[Reply]:
        """Answer conversations.

        Args:
            conversations: one conversation or a sequence of them (see `core.messages`).
            max_new_tokens: most tokens of a reply.
            temperature: 0 = greedy.
            top_p: mass of the nucleus, (0, 1].
            num_beams: beam search with that many beams; 1 = none.
            stop: strings that end a reply.
            seed: of the sampling; one for every conversation alike, or one each.
            constraint: the form of the replies: a dict is a JSON schema, a list of texts is a choice, a string or a
                compiled pattern is a regular expression that the whole reply matches; see `core.constraints`.
            batch_size: most replies in the making at once.

        Returns:
            One reply a conversation.

        Raises:
            CapabilityError: the family doesn't write text.
            PromptError: an empty question, a count that disagrees, a prompt longer than the context.
        """
        self._require("generate", "generate()")
        if isinstance(self.module, Answering):
            if constraint is not None:
                what = f"{self.name} chooses among {len(self.module.answers)} known answers and takes no constraint"
                raise CapabilityError("constraint_unsupported", what)
            return self._choosing(batch_size).all([parse_conversation(item) for item in listed(conversations)])
        module, processor = self._generative("generate")
        sampling = Sampling(temperature=temperature, top_p=top_p)
        requests = requests_for(listed(conversations), max_new_tokens, sampling, seed, num_beams, stop, constraint)
        if num_beams > 1:
            return search_beams(module, processor, self.limits, self.device, requests, batch_size)
        return answer(self.scheduler(batch_size, together=True), requests)

    def answers(
        self, conversations: Any, max_new_tokens: int = 128, batch_size: int = 8
    ) -> Iterator[tuple[int, Reply | Exception]]:
        """Answer conversations, greedily, each as soon as it is done.

        Args:
            conversations, max_new_tokens, batch_size: as for `generate`.

        Returns:
            The number of a conversation, and its reply or why there is none, in the order in which they are done.
        """
        self._require("generate", "answers()")
        given = [parse_conversation(item) for item in listed(conversations)]
        if isinstance(self.module, Answering):
            return self._choosing(batch_size).each(given)
        requests = [Request(conversation=each, max_new_tokens=max_new_tokens) for each in given]
        return answers(self.scheduler(batch_size, together=True), requests)

    def stream(
        self,
        conversation: Any,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        constraint: Any = None,
    ) -> Iterator[str]:
        """Answer one conversation in pieces of text; arguments as for `generate`."""
        self._require("generate", "stream()")
        if isinstance(self.module, Answering):
            return iter([self._choosing(1).all([parse_conversation(conversation)])[0].text])
        self._generative("stream")
        sampling = Sampling(temperature=temperature, top_p=top_p)
        (request,) = requests_for([conversation], max_new_tokens, sampling, seed, 1, stop, constraint)
        return stream(self.scheduler(1), request)

    def scheduler(
        self,
        rows: int,
        *,
        deterministic: bool = False,
        keeping: Keeping | None = None,
        workers: Executor | None = None,
        together: bool = False,
    ) -> Scheduler:
        """What answers requests to this model side by side.

        Args:
            rows: most replies in the making at once.
            deterministic: a reply doesn't depend on what else is asked.
            keeping: what is kept between requests; None = the usual.
            workers: threads in which prompts are prepared; None = the caller's.
            together: read prompts side by side, for a caller who waits for all replies.
        """
        module, processor = self._generative("generate")
        how: dict[str, Any] = {"deterministic": deterministic, "keeping": keeping, "workers": workers}
        return Scheduler(module, processor, self.limits, rows=rows, together=together, **how)

    def limits(self, max_new_tokens: int, stop: str | Sequence[str] | None) -> Limits:
        """When replies of this model end: its ending tokens and context, and what is given."""
        return Limits(
            max_new_tokens=max_new_tokens,
            eos_ids=frozenset(getattr(self.processor, "end_ids", self.processor.tokenizer.eos_ids)),
            stop=tuple(as_list(stop) if stop is not None else ()),
            context_length=self.processor.max_length,
        )

    def score(self, conversations: Any, answers: str | Sequence[str]) -> list[Score]:
        """Likelihood of given answers.

        Args:
            conversations: one conversation a answer, or one for all answers.
            answers: texts, as the reply to their conversation.

        Returns:
            One score an answer; the end of the turn is not part of it.

        Raises:
            CapabilityError: the family doesn't write text.
            PromptError: counts disagree, or an answer has no token.
        """
        self._require("generate", "score()")
        parsed = [parse_conversation(item) for item in listed(conversations)]
        return score_replies(self.module, self.processor, parsed, as_list(answers), self.device)

    def ground(self, image: Any, phrase: str) -> Grounding:
        """Find a phrase in a picture.

        Args:
            image: any picture source.
            phrase: what to look for.

        Returns:
            Boxes or points in original pixels, with scores, best first; a heat map where the family makes one.

        Raises:
            CapabilityError: the family can't.
            PictureError: the picture can't be read.
        """
        self._require("ground", "ground()")
        if self.family.places is not None:
            return ground_by_words(self, image, phrase)
        assert isinstance(self.module, Heating)
        return ground_phrase(self.module, self.processor, image, phrase, self.device)

    def locate(self, video: Any, query: str) -> Located:
        """Find when something happens in a video.

        Args:
            video: a path, a film, or a list of pictures, taken as one a second.
            query: what to look for.

        Returns:
            Spans in seconds, with scores, best first; iterating gives them.

        Raises:
            CapabilityError: the family can't.
            VideoError: the video can't be read.
        """
        self._require("locate", "locate()")
        return locate_by_words(self, video, query)

    def imagine(self, prompts: Any, seed: int | None = None) -> Any:
        """Pictures of prompts."""
        require(self.family, "imagine", "imagine()")

    def inspect(self, conversation: Any) -> Inspection:
        """Show the exact tokens and pixels of one conversation, and what memory it takes.

        Args:
            conversation: see `core.messages`; for a dual encoder, a message with a picture and a text.

        Returns:
            The inspection; nothing is computed by the model.
        """
        return inspect_conversation(self.module, self.processor, parse_conversation(conversation))

    def save(self, folder: str | Path) -> None:
        """Write the family's published layout: weights, configuration, processor and tokenizer.

        Args:
            folder: created; must not exist with files in it.

        Raises:
            CheckpointError: the folder isn't empty, the family has no published layout for this variant, or the weights
                are quantized: published layouts hold full precision.
        """
        if self.quantized is not None:
            what = f"{self.name} was loaded with quantize={self.quantized!r}; what rounding took away can't be written"
            raise CheckpointError("quantized_save", what, hint="load it without quantize and save that")
        assert self._writer is not None, "a model is saved by the loader that made it"
        self._writer(self, Path(folder))

    def _embedder(self, method: str) -> Embedder:
        self._require("embed", f"{method}()")
        assert isinstance(self.module, Embedding)
        return Embedder(self.module, self.processor, self.device)

    def _generative(self, method: str) -> tuple[Generative, Processor]:
        self._require("generate", f"{method}()")
        assert isinstance(self.module, Generative)
        return self.module, self.processor

    def _require(self, capability: str, method: str) -> None:
        require(self.family, capability, method)
        if capability not in self.capabilities:
            raise CapabilityError(
                "capability_missing",
                f"{self.name} has no {method}: its {self.family.name} checkpoint has {', '.join(self.capabilities)}",
                hint="chiasm models",
            )

    def _choosing(self, batch_size: int) -> Choosing:
        assert isinstance(self.module, Answering)
        return Choosing(self.module, self.processor, self.device, batch_size)
