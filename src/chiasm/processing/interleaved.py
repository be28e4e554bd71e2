"""The processor of families that continue interleaved text: a picture is one token, and a chunk's end ends a reply."""

from __future__ import annotations

from typing import Any

from chiasm.processing.processor import Processor
from chiasm.processing.tokenizer import Tokenizer

# pictures and words as they come; what the assistant says is followed by the end of a chunk
CHUNK_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<image>' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}{{ '<|endofchunk|>' }}{%- endif -%}
{%- endfor -%}
"""


class InterleavedProcessor(Processor):
    """A `Processor` whose replies end with a token of their own.

    Args:
        tokenizer: the text side.
        pictures: the picture side.
        end_token: ends a reply, beside the tokenizer's own end tokens.
        options: see `Processor`.
    """

    def __init__(self, tokenizer: Tokenizer, pictures: Any, end_token: str | None, **options: Any) -> None:
        super().__init__(tokenizer, pictures, **options)
        found = None if end_token is None else tokenizer.token_to_id(end_token)
        self.end_ids = tuple(dict.fromkeys([*([] if found is None else [found]), *tokenizer.eos_ids]))
