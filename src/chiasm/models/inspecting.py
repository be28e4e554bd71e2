"""`inspect`: tokens, spans, pixels and memory of one conversation, from the processor alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.inspection import Inspection
from chiasm.core.messages import Conversation
from chiasm.language.decoder import Decoder
from chiasm.nn.quantized import QuantizedLinear
from chiasm.processing.processor import DualProcessor


def inspect_conversation(module: nn.Module, processor: Any, conversation: Conversation) -> Inspection:
    """Look at one conversation.

    Args:
        module: for the memory estimate.
        processor: the model's own.
        conversation: with any number of pictures.

    Returns:
        Everything the model would be given.
    """
    if isinstance(processor, DualProcessor) and not callable(processor):
        batch = _dual_batch(processor, conversation)
        ids = [] if batch.input_ids is None else batch.input_ids[0].tolist()
        prompt = processor.tokenizer.decode(ids, skip_special=False)
        spans = [(0, 0)] * len(batch.plans)
    else:
        batch = processor([conversation])
        assert batch.input_ids is not None
        ids, prompt = batch.input_ids[0].tolist(), batch.prompts[0]
        spans = [(span.start, span.stop) for span in batch.spans]
    crops = _crops(processor, batch)
    return Inspection(prompt, tuple(ids), tuple(spans), tuple(batch.plans), crops, memory_estimate(module, batch))


def memory_estimate(module: nn.Module, batch: Batch) -> dict[str, int]:
    """Bytes by use for one forward pass of a batch.

    Args:
        module: the network.
        batch: its inputs.

    Returns:
        ``weights``, ``pixels``, ``cache`` (keys and values of the prompt), ``activations`` (the widest layer's, an
        estimate) and ``total``.
    """
    parameters = list(module.parameters())
    size = parameters[0].element_size()
    layers = [part for part in module.modules() if isinstance(part, QuantizedLinear)]
    memory = {"weights": sum(p.numel() * p.element_size() for p in parameters) + sum(part.nbytes for part in layers)}
    memory["pixels"] = 0 if batch.pixel_values is None else batch.pixel_values.numel() * size
    tokens = 0 if batch.input_ids is None else batch.input_ids.numel()
    decoder = next((part for part in module.modules() if isinstance(part, Decoder)), None)
    shape = decoder.config if decoder is not None else None
    memory["cache"] = (
        0 if shape is None else 2 * shape.num_layers * shape.num_kv_heads * shape.head_width * tokens * size
    )
    linear = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, QuantizedLinear))]
    widest = max((layer.out_features for layer in linear), default=0)
    crops = 0 if batch.pixel_values is None else len(batch.pixel_values)
    patches = max((plan.tokens[0] * plan.tokens[1] for plan in batch.plans), default=1)
    memory["activations"] = 4 * widest * max(tokens, crops * patches) * size if widest else 0
    memory["total"] = sum(memory.values())
    return memory


def _dual_batch(processor: DualProcessor, conversation: Conversation) -> Batch:
    images = [part.source for part in conversation.images()]
    text = "".join(message.text for message in conversation.messages)
    batch = processor.images(images) if images else Batch()
    if text:
        texts = processor.texts([text])
        batch.input_ids, batch.attention_mask = texts.input_ids, texts.attention_mask
    return batch


def _crops(processor: Any, batch: Batch) -> list[list[Any]]:
    if batch.pixel_values is None:
        return []
    own = getattr(processor.image_processor, "crops", None)
    if own is not None:  # patches in one row: the processor knows how they lie
        return own(batch.pixel_values, batch.plans)
    pieces = batch.pixel_values.split([len(plan.crops) for plan in batch.plans])
    return [[processor.image_processor.as_seen(crop) for crop in piece] for piece in pieces]
