"""What is asked of a model that writes, and how far the answer has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from chiasm.core.batch import Batch
from chiasm.core.constraints import Constraint
from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation
from chiasm.core.replies import Reply, Usage
from chiasm.generation.constraints import Grammars
from chiasm.generation.limits import Limits, RunningReply
from chiasm.generation.sampling import Chooser, Drawn, Sampling, check_beams
from chiasm.processing.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One reply that somebody wants; plain data.

    Attributes:
        conversation: what to answer.
        sampling: how tokens are drawn.
        max_new_tokens: most tokens of the reply.
        stop: strings that end it.
        num_beams: beam search with so many beams; 1 = none. Beams are greedy and take no constraint.
        constraint: the form that the reply must have; None = any.
        alternatives: most probable tokens that are told of each place of the reply; none in a beam search.
    """

    conversation: Conversation
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    constraint: Constraint | None = None
    alternatives: int = 0

    def __post_init__(self) -> None:
        assert self.num_beams == 1 or not self.alternatives
        check_beams(self.num_beams, self.sampling)
        if self.num_beams > 1 and self.constraint is not None:
            what = f"num_beams is {self.num_beams} and there is a constraint; a constrained reply needs 1"
            raise ConfigError("beams_constrained", what)


class Ticket:
    """One reply in the making.

    Args:
        limits: when it ends.
        tokenizer: for its text.
        chooser: draws its tokens.

    Attributes:
        result: the reply or the failure, once it is done.
        cancelled: nobody wants it any more; it leaves before the next token.
    """

    def __init__(self, limits: Limits, tokenizer: Tokenizer, chooser: Chooser) -> None:
        self.limits, self.chooser = limits, chooser
        self.running = RunningReply(tokenizer.stream())
        self.result: Reply | Exception | None = None
        self.cancelled = False
        self.left = 0
        self._prompt = self._images = 0

    def begin(self, batch: Batch, row: int) -> None:
        """Take the measure of the prompt: row `row` of `batch`.

        Raises:
            PromptError: context_exceeded.
        """
        assert batch.input_ids is not None
        mask = batch.attention_mask
        self._prompt = batch.input_ids.shape[1] if mask is None else int(mask[row].sum())
        self._images = sum(span.stop - span.start for span in batch.spans if span.row == row)
        self.left = self.limits.capacity(self._prompt) - self._prompt

    def take(self, drawn: Drawn) -> None:
        """The reply goes on with this token, and perhaps ends with it."""
        self.left -= 1
        self.running.take(drawn, self.limits, last=self.left == 0, whole=self.chooser.over)
        if self.running.finish_reason is not None:
            self.finish()

    def finish(self) -> None:
        """The reply is as it is."""
        reply = self.running
        usage = Usage(self._prompt, len(reply.drawn), self._images)
        ids, logprobs, alternatives = zip(*reply.drawn, strict=True) if reply.drawn else ((), (), ())
        reason, told = reply.finish_reason or "length", alternatives if self.chooser.alternatives else ()
        self.result = Reply(reply.text, ids, logprobs, reason, usage, told)

    def fail(self, error: Exception) -> None:
        """There will be no reply."""
        self.result = error

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.cancelled or self.result is not None

    @property
    def reply(self) -> Reply:
        """The result; the failure is raised."""
        if isinstance(self.result, Exception):
            raise self.result
        assert self.result is not None
        return self.result

    def fresh(self) -> str:
        """Text that has become certain since the last call."""
        return self.running.fresh(self.limits)


def ticket(request: Request, limits: Limits, tokenizer: Tokenizer, grammars: Grammars) -> Ticket:
    """A reply that hasn't begun.

    Args:
        request: what is asked.
        limits: when the reply ends.
        tokenizer: of the model.
        grammars: where constraints become matchers.

    Raises:
        ConfigError: a constraint that can't be followed.
    """
    matcher = None if request.constraint is None else grammars.matcher(request.constraint)
    return Ticket(limits, tokenizer, Chooser(request.sampling, matcher, request.alternatives))
