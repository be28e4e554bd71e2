"""The journal: every output of a model, written once, in the order in which it came.

JSON lines, flushed as they come. A line that an interruption cut is dropped when the journal is opened again. Outputs
are keyed by what was asked (`request_key`), not by who asked: questions equal to the last pixel are asked once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, TextPart


class Journal:
    """Outputs by request.

    Args:
        path: the file; made when the first output comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outputs: dict[str, Any] = {}
        if path.is_file():
            self._read()

    def __contains__(self, request: str) -> bool:
        return request in self.outputs

    def __getitem__(self, request: str) -> Any:
        return self.outputs[request]

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Keep outputs, on disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for request, output in outputs.items():
                file.write(json.dumps({"request": request, "output": output}, ensure_ascii=False) + "\n")
        self.outputs.update(outputs)

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                self.outputs[row["request"]] = row["output"]
            except (ValueError, KeyError, TypeError):
                raise ConfigError("journal_damaged", f"{self.path}, line {number} is no output of a model") from None
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)


def request_key(conversation: Conversation, pictures: Sequence[str], *further: Any) -> str:
    """A digest of what is asked.

    Args:
        conversation: turns; their pictures and videos count by `pictures`.
        pictures: a key of each, in order.
        further: whatever else decides the output, as JSON values.
    """
    keys = iter(pictures)
    turns = [
        [message.role, [part.text if isinstance(part, TextPart) else {"picture": next(keys)} for part in message.parts]]
        for message in conversation.messages
    ]
    said = json.dumps([turns, list(further)], ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
