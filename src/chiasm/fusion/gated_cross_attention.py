"""Gated cross-attention fusion: a language model looks at pictures between its own layers (Alayrac et al. 2022,
"Flamingo", §2.2–2.3; OpenFlamingo; IDEFICS).

Before every n-th layer stands a gated layer that attends to the pictures' resampled tokens. A token of the text sees
one picture only, the last one before it; before the first picture it sees none, and attention adds 0 there. In the text
a picture is one ordinary token. With the gates at 0 the model is the language model, exactly.

A picture's keys and values are computed once for every gated layer. While the reply is written, each sequence keeps
those of its last picture alone: a new token attends to N keys, whatever the number of pictures before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import ImagePlan
from chiasm.fusion.splice import SplicedLM, SplicedState, check_slots
from chiasm.language.decoder import Decoder
from chiasm.nn.attention import AttentionConfig, QKNormConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.cross_blocks import GatedCrossBlock, GatedCrossBlockConfig
from chiasm.nn.masks import AttentionMask, packed_mask, real_tokens
from chiasm.nn.mlp import GatedMLPConfig, MLPConfig

KeysValues = tuple[torch.Tensor, torch.Tensor]
NONE = -1  # the number of no picture


@dataclass(frozen=True, kw_only=True, slots=True)
class GatesConfig:
    """The gated layers.

    Attributes:
        every: a gated layer stands before every so many layers of the language model.
        first: the first layer that has one before it.
        num_heads, head_dim, mlp_dim: H, C, M of a gated layer.
        act: activation of the MLP, or of its gate.
        norm_eps: ε of the norms.
        rms_norm, gated_mlp: RMSNorm and a gated MLP instead of LayerNorm and a plain one (IDEFICS).
        qk_norm: queries and keys pass an RMSNorm a head.
        gate_dim: numbers in each gate: 1, or one a feature.
    """

    every: int
    first: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    act: str = "gelu"
    norm_eps: float = 1e-5
    rms_norm: bool = False
    gated_mlp: bool = False
    qk_norm: bool = False
    gate_dim: int = 1

    def layers(self, num_layers: int) -> range:
        """The layers of a language model that have a gated layer before them."""
        return range(self.first, num_layers, self.every)

    def block(self, hidden_dim: int, context_dim: int) -> GatedCrossBlockConfig:
        """One gated layer between text of width `hidden_dim` and pictures of width `context_dim`."""
        attention = AttentionConfig(
            hidden_dim=hidden_dim,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            context_dim=context_dim,
            qkv_bias=False,
            out_bias=False,
            qk_norm=QKNormConfig(eps=self.norm_eps, per_head=True) if self.qk_norm else None,
        )
        mlp: GatedMLPConfig | MLPConfig
        if self.gated_mlp:
            mlp = GatedMLPConfig(input_dim=hidden_dim, hidden_dim=self.mlp_dim, act=self.act)
        else:
            mlp = MLPConfig(input_dim=hidden_dim, hidden_dim=self.mlp_dim, act=self.act, bias=False)
        block = BlockConfig(attention=attention, mlp=mlp, norm_eps=self.norm_eps, rms_norm=self.rms_norm)
        return GatedCrossBlockConfig(block=block, gate_dim=self.gate_dim)


@dataclass(slots=True)
class Gallery:
    """The pictures of a batch as the gated layers read them.

    Attributes:
        projected: keys and values (I, H, N, C) of every picture, one pair a gated layer.
        seen: (B, T) the picture that each token sees, or `NONE`.
        slots: (B, most) the pictures of each row, `NONE` beyond their number.
    """

    projected: dict[int, KeysValues]
    seen: torch.Tensor
    slots: torch.Tensor

    def rows(self, layer: int) -> KeysValues:
        """Keys and values (B, H, most·N, C) of all pictures of each row."""
        keys, values = (x[self.slots.clamp(min=0)].transpose(1, 2).flatten(2, 3) for x in self.projected[layer])
        return keys, values

    def mask(self, layer: int) -> tuple[AttentionMask, torch.Tensor]:
        """Which keys of `rows` each token may look at, and (B, T, 1) whether it sees a picture at all."""
        tokens = self.projected[layer][0].shape[2]
        sees = (self.seen != NONE)[..., None]
        # a token that sees nothing looks at everything: no row of the softmax is empty, and its result is dropped
        allowed = (self.seen[..., None] == self.slots[:, None]) | ~sees  # (B, T, most)
        return AttentionMask(allowed.repeat_interleave(tokens, -1)[:, None]), sees


@dataclass(slots=True)
class GatedState(SplicedState):
    """A running decode: beside the text's, what each sequence's last picture says to every gated layer.

    Attributes:
        gallery: of the prompts; None where there is no picture.
        last: (B,) the picture that new tokens see, or `NONE`.
        current: its keys and values, gathered; emptied when rows change.
    """

    gallery: Gallery | None
    last: torch.Tensor
    current: dict[int, KeysValues]

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (B′,), in that order."""
        SplicedState.select(self, rows)
        kept = self.last[rows]
        if not torch.equal(kept, self.last):  # beams of one prompt see one picture: most steps change nothing
            self.last, self.current = kept, {}


class GatedCrossAttentionLM(SplicedLM):
    """vision → connector → gated layers between those of the language model.

    Args:
        vision, connector, language: the parts.
        gates: the gated layers.
        context_dim: width of what the connector gives.
        reset_id: behind this token of the text no picture is seen until the next; None = there is none.
    """

    def __init__(
        self,
        vision: nn.Module,
        connector: nn.Module,
        language: Decoder,
        gates: GatesConfig,
        context_dim: int,
        reset_id: int | None = None,
    ) -> None:
        super().__init__(vision, connector, language)
        block = gates.block(language.config.hidden_dim, context_dim)
        self.gates = nn.ModuleDict({str(at): block.build() for at in gates.layers(language.config.num_layers)})
        self.reset_id = reset_id

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """(crops, P, D) features → one (N, D) tensor a picture; the frames of a video are resampled together."""
        if all(len(plan.crops) == 1 for plan in plans):
            return list(self.connector(features))
        pieces = features.split([len(plan.crops) for plan in plans])
        return [self.connector(piece[None])[0] for piece in pieces]

    def embed(self, batch: Batch) -> torch.Tensor:
        """(B, T, D) embeddings of the text; a picture's slot is a word like any other."""
        assert batch.input_ids is not None
        return self.language.embed_tokens(batch.input_ids)

    def gallery(self, batch: Batch) -> Gallery | None:
        """The batch's pictures, encoded; None where it has none.

        Args:
            batch: `pixel_values` or `features`, `plans` and `spans`.

        Raises:
            PromptError: pictures and slots differ in number, or a slot isn't one token.
        """
        dtype, plans = self.language.embed_tokens.weight.dtype, list(batch.plans)
        if batch.features is not None:
            pictures = self.connect(batch.features.to(dtype), plans)
        elif batch.pixel_values is not None:
            pictures = self.encode_images(batch.pixel_values, plans)
        else:
            return None
        assert batch.input_ids is not None
        check_slots([plan.num_tokens for plan in plans], batch.spans)
        media = torch.stack(pictures)  # (I, N, D)
        projected = {int(at): gate.cross_attn.project(media) for at, gate in self.gates.items()}  # type: ignore[union-attr,operator]
        seen = visible_pictures(batch.spans, batch.input_ids, self.reset_id)
        if batch.segments is not None:
            seen = within_texts(seen, batch.spans, batch.segments, batch.trunks)
        return Gallery(projected, seen, picture_slots(batch.spans, len(seen)).to(seen.device))

    def hidden(self, batch: Batch) -> torch.Tensor:
        """(B, T, D) final states, normalised; argument as for `SplicedLM.hidden`."""
        attend = real_tokens(batch.attention_mask)
        positions, mask = self.positions(batch, attend), attend
        look = self._looking(self.gallery(batch))
        if batch.segments is not None:
            return self.language(
                self.embed(batch),
                attend=packed_mask(batch.segments, batch.trunks),
                positions=batch.positions,
                before=look,
            )
        return self.language(self.embed(batch), attend=mask, positions=positions, before=look)

    def prefill(self, batch: Batch, capacity: int) -> tuple[torch.Tensor, GatedState]:
        """Read left-padded prompts; see `SplicedLM.prefill`."""
        embeds, gallery = self.embed(batch), self.gallery(batch)
        rows, length = embeds.shape[:2]
        cache = self.language.new_cache(rows, capacity)
        attend = real_tokens(batch.attention_mask)
        positions = self.positions(batch, attend)
        if positions is None:
            positions = torch.arange(length, device=embeds.device).expand(rows, -1)
        hidden = self.language(
            embeds,
            attend=attend,
            positions=positions,
            cache=cache,
            before=self._looking(gallery),
            keep=slice(length - 1, length),
        )
        if attend is not None:
            attend = nn.functional.pad(attend, (0, capacity - length), value=True)
        last = torch.full((rows,), NONE, device=embeds.device) if gallery is None else gallery.seen[:, -1]
        state = GatedState(cache, attend, positions.amax(1, keepdim=True) + 1, gallery, last, {})
        return self.language.logits(hidden[:, -1]), state

    def new_slots(self) -> None:
        """None: each reply also looks at its own last picture."""
        return None

    def decode(self, token_ids: torch.Tensor, state: SplicedState) -> torch.Tensor:
        """One more token: (B,) ids → (B, V) logits of the token after it; the state moves on in place."""
        assert isinstance(state, GatedState)
        attend = None if state.attend is None else state.attend[:, : state.cache.length + 1]
        hidden = self.language(
            self.language.embed_tokens(token_ids[:, None]),
            attend=attend,
            positions=state.positions,
            cache=state.cache,
            before=self._glancing(state),
        )
        state.positions = state.positions + 1
        return self.language.logits(hidden[:, -1])

    def _looking(self, gallery: Gallery | None) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """What stands before each layer while whole texts are read."""
        where = None if gallery is None else gallery.mask(next(iter(gallery.projected)))

        def look(layer: int, x: torch.Tensor) -> torch.Tensor:
            gate = self._gate(layer)
            if gate is None:
                return x
            if gallery is None or where is None:
                return gate(x, projected=None)
            return gate(x, projected=gallery.rows(layer), mask=where[0], sees=where[1])

        return look

    def _glancing(self, state: GatedState) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """What stands before each layer while one token is written: the last picture alone."""
        sees = (state.last != NONE)[:, None, None]

        def look(layer: int, x: torch.Tensor) -> torch.Tensor:
            gate = self._gate(layer)
            if gate is None:
                return x
            if state.gallery is None:
                return gate(x, projected=None)
            if layer not in state.current:
                keys, values = state.gallery.projected[layer]
                last = state.last.clamp(min=0)
                state.current[layer] = (keys[last], values[last])
            return gate(x, projected=state.current[layer], sees=sees)

        return look

    def _gate(self, layer: int) -> GatedCrossBlock | None:
        name = str(layer)
        return self.gates[name] if name in self.gates else None  # type: ignore[return-value]  # noqa: SIM401


def visible_pictures(spans: Sequence[ImageSpan], ids: torch.Tensor, reset_id: int | None = None) -> torch.Tensor:
    """The one picture that each token sees: the last whose slot has begun.

    Args:
        spans: one a picture, in reading order.
        ids: (B, T) the text.
        reset_id: behind this token nothing is seen until the next picture.

    Returns:
        (B, T) int64, a picture's number or `NONE`.
    """
    seen = torch.full_like(ids, NONE)
    for number, span in enumerate(spans):
        seen[span.row, span.start :] = number
    if reset_id is not None:
        for row, column in (ids == reset_id).nonzero().tolist():
            later = [span.start for span in spans if span.row == row and span.start > column]
            seen[row, column + 1 : min(later, default=ids.shape[1])] = NONE
    return seen


def within_texts(
    seen: torch.Tensor, spans: Sequence[ImageSpan], segments: torch.Tensor, trunks: torch.Tensor | None
) -> torch.Tensor:
    """Hide, in rows that hold several texts, a picture that stands in another text than the token's own.

    Args:
        seen: (B, T) of `visible_pictures`.
        spans, segments, trunks: of the batch.

    Returns:
        (B, T). A token of a text that shares a beginning sees the last picture of its own text, or of the beginning.
    """
    out = torch.full_like(seen, NONE)
    shared = torch.zeros_like(segments) if trunks is None else trunks
    for number, span in enumerate(spans):
        home = segments[span.row, span.start]
        reads = (segments[span.row] == home) | (shared[span.row] == home)
        columns = torch.arange(seen.shape[1], device=seen.device) >= span.start
        out[span.row] = torch.where(reads & columns, number, out[span.row])
    return out


def picture_slots(spans: Sequence[ImageSpan], rows: int) -> torch.Tensor:
    """(rows, most) the pictures of each row in reading order, `NONE` beyond their number."""
    groups: list[list[int]] = [[] for _ in range(rows)]
    for number, span in enumerate(spans):
        groups[span.row].append(number)
    most = max(1, max(len(group) for group in groups))
    return torch.tensor([group + [NONE] * (most - len(group)) for group in groups])
