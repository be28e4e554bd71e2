"""Every failure a user can cause: a stable code, what happened with both numbers, one command to try.

`str(error)` is the one line that the command line prints; `error.code` is stable and documented.
"""

from __future__ import annotations

LONGEST = 1500  # characters of what happened; a value that a hostile file made longer is cut in the middle


class ChiasmError(ValueError):
    """A user's mistake or a bad input; never our own bug (those are `assert`s).

    Args:
        code: stable dotted-free identifier, such as ``picture_truncated``.
        what: one sentence with both numbers where two things disagree.
        hint: one command or action to try next.
    """

    def __init__(self, code: str, what: str, *, hint: str | None = None) -> None:
        if len(what) > LONGEST:
            what = f"{what[: LONGEST - 500]} … {what[-500:]}"
        self.code, self.what, self.hint = code, what, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.what}" + (f"; try: {self.hint}" if self.hint else "")


class PictureError(ChiasmError):
    """A picture that can't be read, is over a limit, or is not what it says."""


class VideoError(PictureError):
    """A video that can't be read, has no frame, or has times that can't be true."""


class PromptError(ChiasmError):
    """A conversation that can't be turned into a prompt (roles, counts, lengths)."""


class CheckpointError(ChiasmError):
    """A checkpoint folder that can't be loaded whole: names, shapes, values, format."""


class SourceError(ChiasmError):
    """A model source that can't be found or reached."""


class ConfigError(ChiasmError):
    """A configuration value that no part of the library understands."""


class DataError(ChiasmError):
    """A row, file or shard of a data set that can't be used; the text names its place."""


class CapabilityError(ChiasmError):
    """A method the family doesn't have; names the families that do."""
