"""`Table`: the rules of one layout, and the proof that they use every tensor exactly once.

Names and shapes are matched first, and everything wrong is collected and said at once; tensors are touched
only by `execute`, once a plan stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from chiasm.core.errors import CheckpointError
from chiasm.weights.rules import Rename, Rule, Shape, Side, Tied, dims, regex


@dataclass(frozen=True, slots=True)
class Step:
    """One use of a rule: which tensors go in, which come out."""

    rule: Rule
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(slots=True)
class Problems:
    """Everything wrong with a set of tensors, collected before anything is said."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    shape: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.duplicate or self.shape)

    def raise_for(self, where: str) -> None:
        """Raise one error that names them, first kind first, if there are any.

        Args:
            where: the folder or file, for the message.

        Raises:
            CheckpointError: ``tensor_missing``, ``tensor_unexpected``, ``tensor_duplicate`` or
                ``tensor_shape``; its `problems` attribute is this object, complete.
        """
        if not self:
            return
        kinds = (
            ("tensor_missing", "missing", self.missing),
            ("tensor_unexpected", "unexpected", self.unexpected),
            ("tensor_duplicate", "duplicate", self.duplicate),
            ("tensor_shape", "wrong-shaped", self.shape),
        )
        found = [(code, word, sorted(names)) for code, word, names in kinds if names]
        text = "; ".join(f"{_count(len(names))} {word}: {_few(names)}" for _, word, names in found)
        error = CheckpointError(found[0][0], f"{where}: {text}", hint="check that config.json belongs to these weights")
        error.problems = self  # type: ignore[attr-defined]
        raise error


class Table:
    """The rules of one layout, and the old spellings of their names.

    Args:
        rules: together they cover every tensor of the layout.
        aliases: (prefix, canonical prefix) pairs, tried in order, first match wins; applied to their names
            on reading only.
    """

    def __init__(self, rules: Iterable[Rule], aliases: Iterable[tuple[str, str]] = ()) -> None:
        self.rules, self.aliases = tuple(rules), tuple(aliases)
        self._compiled: dict[Side, list[tuple[re.Pattern[str], Rule]]] = {
            "theirs": [(regex(p), rule) for rule in self.rules for p in rule.patterns("theirs")],
            "ours": [(regex(p), rule) for rule in self.rules for p in rule.patterns("ours")],
        }

    def canonical(self, name: str) -> str:
        """Their name in the spelling that the rules use."""
        for old, new in self.aliases:
            if name.startswith(old):
                return new + name[len(old) :]
        return name

    def plan(self, names: Iterable[str], side: Side, problems: Problems | None = None) -> list[Step]:
        """Match every name to the one rule that takes it.

        Args:
            names: tensor names on `side`.
            side: where they come from; the plan leads to the other side.
            problems: where to collect problems instead of raising.

        Returns:
            Steps that use each name exactly once and give each target exactly once.

        Raises:
            CheckpointError: names that no rule knows, incomplete groups, or two names for one target.
        """
        found = Problems() if problems is None else problems
        groups, known = self._group(names, side, found)
        other: Side = "ours" if side == "theirs" else "theirs"
        steps: list[Step] = []
        taken: set[str] = set()
        for (rule, fields), members in groups.items():
            wanted = [pattern.format(**dict(fields)) for pattern in rule.patterns(side)]
            absent = [name for name in wanted if name not in members]
            if absent:
                found.missing += absent
                continue
            targets = tuple(pattern.format(**dict(fields)) for pattern in rule.patterns(other))
            if taken & set(targets):
                found.duplicate += [f"{members[wanted[0]]} → {t}" for t in targets if t in taken]
                continue
            taken |= set(targets)
            sources = [members[name] for name in wanted]
            if isinstance(rule, Tied):
                stays = rule.of.format(**dict(fields))
                if stays not in known:
                    found.missing.append(stays)
                    continue
                sources.append(known[stays])
            elif not targets:
                continue
            steps.append(Step(rule, tuple(sources), targets))
        if problems is None:
            found.raise_for("these tensors")
        return steps

    def _group(
        self, names: Iterable[str], side: Side, problems: Problems
    ) -> tuple[dict[tuple[Rule, tuple[tuple[str, str], ...]], dict[str, str]], dict[str, str]]:
        groups: dict[tuple[Rule, tuple[tuple[str, str], ...]], dict[str, str]] = {}
        known: dict[str, str] = {}
        for name in names:
            spelled = self.canonical(name) if side == "theirs" else name
            if spelled in known:
                problems.duplicate.append(f"{known[spelled]} and {name}")
                continue
            known[spelled] = name
            hits = [(rule, match) for pattern, rule in self._compiled[side] if (match := pattern.fullmatch(spelled))]
            if len(hits) > 1:
                problems.duplicate.append(f"{name} fits {len(hits)} rules")
            elif not hits:
                problems.unexpected.append(name)
            else:
                rule, match = hits[0]
                groups.setdefault((rule, tuple(sorted(match.groupdict().items()))), {})[spelled] = name
        return groups, known

    def check(self, theirs: Mapping[str, Shape], ours: Mapping[str, Shape], where: str = "these tensors") -> list[Step]:
        """Prove that a set of tensors fills a module exactly, from names and shapes alone.

        Args:
            theirs: shape of every tensor of a checkpoint.
            ours: shape of every entry of the module's state dict.
            where: the folder, for messages.

        Returns:
            The plan to execute.

        Raises:
            CheckpointError: every missing, unexpected, duplicate and wrong-shaped tensor, by name.
        """
        problems = Problems()
        steps = self.plan(theirs, "theirs", problems)
        filled: set[str] = set()
        for step in steps:
            if isinstance(step.rule, Tied):
                if theirs[step.sources[0]] != theirs[step.sources[1]]:
                    problems.shape.append(f"{step.sources[0]} differs from {step.sources[1]}, to which it is tied")
                continue
            filled |= set(step.targets)
            self._check_step(step, theirs, ours, problems)
        # a missing tensor is named as their file would name it, where that is known
        absent = [name for name in ours if name not in filled]
        blind = Problems()
        back = {target: step.targets for step in self.plan(ours, "ours", blind) for target in step.sources}
        problems.missing += sorted({n for name in absent for n in back.get(name, (name,))} - set(problems.missing))
        problems.raise_for(where)
        return steps

    @staticmethod
    def _check_step(step: Step, theirs: Mapping[str, Shape], ours: Mapping[str, Shape], problems: Problems) -> None:
        extra = [name for name in step.targets if name not in ours]
        if extra:
            problems.unexpected += [name for name in step.sources if name not in problems.unexpected]
            return
        shapes = [theirs[name] for name in step.sources]
        try:
            out = step.rule.forward([torch.empty(shape, device="meta") for shape in shapes])
        except (RuntimeError, IndexError, CheckpointError):
            problems.shape.append(f"{step.sources[0]} {dims(shapes[0])}")
            return
        for name, tensor in zip(step.targets, out, strict=True):
            if tuple(tensor.shape) != tuple(ours[name]):
                at = f" (as {name})" if len(step.targets) > 1 or type(step.rule) is not Rename else ""
                problems.shape.append(f"{step.sources[0]}{at} is {dims(tensor.shape)}, needed {dims(ours[name])}")

    def to_ours(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Their tensors under our names; raises as `plan` does, or when tied copies differ.

        Args:
            state: every tensor of a checkpoint.

        Returns:
            Our state dict; views of the given tensors where that is possible.

        Raises:
            CheckpointError: see `plan`; ``tensor_untied`` when two copies of a tied tensor differ.
        """
        return execute(self.plan(state, "theirs"), state, "theirs")

    def to_theirs(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Our tensors under their names, the inverse of `to_ours`.

        Args:
            state: a module's whole state dict.

        Returns:
            Their tensors.

        Raises:
            CheckpointError: see `plan`.
        """
        return execute(self.plan(state, "ours"), state, "ours")


def execute(steps: Iterable[Step], state: Mapping[str, torch.Tensor], side: Side) -> dict[str, torch.Tensor]:
    """Carry a plan out.

    Args:
        steps: from `Table.plan` or `Table.check`.
        state: tensors by name on `side` (each is asked for once, so it may be lazy).
        side: where the tensors come from.

    Returns:
        Tensors by name on the other side.

    Raises:
        CheckpointError: ``tensor_untied`` when two copies of a tied tensor differ.
    """
    out: dict[str, torch.Tensor] = {}
    for step in steps:
        tensors = [state[name] for name in step.sources]
        if isinstance(step.rule, Tied):
            if not torch.equal(tensors[0], tensors[1]):
                raise CheckpointError(
                    "tensor_untied",
                    f"{step.sources[0]} and {step.sources[1]} differ, though the config ties them",
                    hint='"tie_word_embeddings": false in config.json, if the weights are right',
                )
            continue
        moved = step.rule.forward(tensors) if side == "theirs" else step.rule.backward(tensors)
        out.update(zip(step.targets, moved, strict=True))
    return out


def _few(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _count(number: int) -> str:
    return f"{number} tensor" if number == 1 else f"{number} tensors"
