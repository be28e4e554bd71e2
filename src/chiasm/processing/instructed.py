"""The processor of families whose connector reads the question, too: a second tokenizer's ids go beside the prompt.

The instruction is everything that the user says, without the pictures; where an answer is given for training, it is
left out, so that the connector sees in training what it sees in use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chiasm.core.batch import Batch
from chiasm.core.errors import PromptError
from chiasm.core.messages import parse_conversation
from chiasm.processing.processor import Processor, listed
from chiasm.processing.tokenizer import Tokenizer

FOLDER = "qformer_tokenizer"


class InstructedProcessor(Processor):
    """A `Processor` that also tokenizes the instruction.

    Args:
        tokenizer, pictures: of the language model and the tower.
        instructions: the connector's tokenizer.
        most: most tokens of an instruction.
        options: see `Processor`.
    """

    def __init__(self, tokenizer: Tokenizer, pictures: Any, instructions: Tokenizer, most: int, **options: Any) -> None:
        super().__init__(tokenizer, pictures, **options)
        self.instructions, self.most = instructions, most

    def __call__(self, conversations: Any, *, add_generation_prompt: bool = True, supervise: bool = False) -> Batch:
        """Turn conversations into model inputs, see `Processor`; `instruction_ids` (B, T′) are padded on the right.

        Raises:
            PromptError: also an instruction longer than the connector takes.
        """
        import torch

        batch = super().__call__(conversations, add_generation_prompt=add_generation_prompt, supervise=supervise)
        before, after = self.instructions.wrapping
        rows = []
        for row, conversation in enumerate(listed(conversations)):
            said = [m.text for m in parse_conversation(conversation).messages if m.role != "assistant"]
            ids = [*before, *self.instructions.encode("".join(said)), *after]
            if len(ids) > self.most:
                what = f"the instruction of conversation {row} has {len(ids)} tokens, the connector takes {self.most}"
                raise PromptError("instruction_too_long", what, hint="a shorter question")
            rows.append(ids)
        length = max(1, *(len(ids) for ids in rows))
        batch.instruction_ids = torch.full((len(rows), length), self.instructions.pad_id, dtype=torch.long)
        batch.instruction_mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, ids in enumerate(rows):
            batch.instruction_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            batch.instruction_mask[row, : len(ids)] = True
        return batch

    def save(self, folder: str | Path, settings: Any = None) -> None:
        """As `Processor.save`, and the connector's tokenizer in a folder of its own."""
        super().save(folder, settings)
        inner = Path(folder) / FOLDER
        inner.mkdir(exist_ok=True)
        self.instructions.save(inner)
