"""Rules and tables: bijections, inverse of each other, and every way they can fail, by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import CheckpointError
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, Split, Tied, Transpose, prefixed
from chiasm.weights.table import Table

WORDS = st.text("abcdefgh", min_size=1, max_size=6)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, dict[str, torch.Tensor]]:
    """A random table whose rules don't overlap, and a state in the layout it reads."""
    rules: list[Rule] = []
    state: dict[str, torch.Tensor] = {}
    size = st.integers(1, 4)
    for number, word in enumerate(draw(st.lists(WORDS, min_size=1, max_size=6, unique=True))):
        layers = draw(st.integers(0, 3))
        theirs = f"{word}.{number}x.{{i}}.{{p}}" if layers else f"{word}.{number}x.{{p}}"
        ours = f"o{number}.{{i}}.{word}.{{p}}" if layers else f"o{number}.{{p}}"
        kind = draw(st.sampled_from(("rename", "transpose", "reshape", "split")))
        rows, columns, parts = draw(size), draw(size), draw(st.lists(size, min_size=1, max_size=3))
        shape: tuple[int, ...] = (rows, columns)
        rule: Rule = Rename(theirs, ours)
        if kind == "transpose":
            rule = Transpose(theirs, ours)
        elif kind == "reshape":
            rule, shape = Reshape(theirs, ours, (1, -1), (-1,)), (1, columns)
        elif kind == "split":
            dim = draw(st.sampled_from((0, 1)))
            names = tuple(f"{ours}_{part}" for part in "abc"[: len(parts)])
            rule = Split(theirs, names, dim=dim, ratio=tuple(parts))
            shape = (rows * sum(parts), columns) if dim == 0 else (rows, columns * sum(parts))
        rules.append(rule)
        for layer in range(max(layers, 1)):
            for p in draw(st.lists(st.sampled_from(("weight", "bias", "running_mean")), min_size=1, unique=True)):
                state[theirs.format(i=layer, p=p)] = torch.randn(shape)
    return Table(rules), state


@settings(max_examples=60, deadline=None)
@given(tables())
def test_there_and_back_is_the_identity(made: tuple[Table, dict[str, torch.Tensor]]) -> None:
    table, state = made
    ours = table.to_ours(state)
    back = table.to_theirs(ours)
    assert list(sorted(back)) == sorted(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = table.to_ours(back)
    assert sorted(again) == sorted(ours) and all(torch.equal(again[name], ours[name]) for name in ours)


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_every_tensor_is_used_exactly_once(made: tuple[Table, dict[str, torch.Tensor]], data: st.DataObject) -> None:
    table, state = made
    steps = table.plan(state, "theirs")
    used = [name for step in steps for name in step.sources]
    given_ = [name for step in steps for name in step.targets]
    assert sorted(used) == sorted(state) and len(set(given_)) == len(given_)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    ours = {name: tuple(tensor.shape) for name, tensor in table.to_ours(state).items()}
    table.check(shapes, ours)
    lost = data.draw(st.sampled_from(sorted(state)))
    with pytest.raises(CheckpointError, match="tensor_missing") as caught:
        table.check({name: shape for name, shape in shapes.items() if name != lost}, ours)
    assert caught.value.problems.missing == [lost]  # type: ignore[attr-defined]


TABLE = Table(
    (
        Rename("layers.{i}.q.{p}", "blocks.{i}.q_proj.{p}"),
        Split("layers.{i}.kv_{p}", ("blocks.{i}.k_proj.{p}", "blocks.{i}.v_proj.{p}")),
        Rename("embed.weight", "embed.weight"),
        Tied("head.weight", of="embed.weight"),
        Drop("layers.{i}.inv_freq"),
    ),
    aliases=(("model.", ""),),
)
THEIRS = {"layers.0.q.weight": (2, 2), "layers.0.kv_weight": (4, 2), "embed.weight": (5, 2)}
OURS = {"blocks.0.q_proj.weight": (2, 2), "blocks.0.k_proj.weight": (2, 2), "blocks.0.v_proj.weight": (2, 2)}
OURS |= {"embed.weight": (5, 2)}


def refusal(theirs: dict[str, tuple[int, ...]], ours: dict[str, tuple[int, ...]] = OURS) -> str:
    with pytest.raises(CheckpointError) as caught:
        TABLE.check(theirs, ours, "folder")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_file_may_hold_besides() -> None:
    steps = TABLE.check({**THEIRS, "head.weight": (5, 2), "layers.0.inv_freq": (1,)}, OURS)
    assert sorted(name for step in steps for name in step.targets) == sorted(OURS)
    TABLE.check({f"model.{name}": shape for name, shape in THEIRS.items()}, OURS)


def test_missing_is_named_as_their_file_would_name_it() -> None:
    text = refusal({"embed.weight": (5, 2)})
    assert text.startswith("error[tensor_missing]: folder: 2 tensors missing: layers.0.kv_weight, layers.0.q.weight")


def test_unexpected_is_named_whether_a_rule_knows_it_or_not() -> None:
    assert "1 tensor unexpected: layers.1.q.weight" in refusal({**THEIRS, "layers.1.q.weight": (2, 2)})
    assert "1 tensor unexpected: surprise" in refusal({**THEIRS, "surprise": (2,)})
    assert "layers.00.q.weight" in refusal({**THEIRS, "layers.00.q.weight": (2, 2)})


def test_many_are_counted() -> None:
    text = refusal({**THEIRS, **{f"extra_{n}": (1,) for n in range(40)}})
    assert "40 tensors unexpected: extra_0, extra_1, extra_10, extra_11, extra_12 and 35 more" in text


def test_duplicates_are_refused() -> None:
    assert "tensor_duplicate" in refusal({**THEIRS, "model.embed.weight": (5, 2)})
    clash = Table((Rename("a.{p}", "x.{p}"), Rename("b.{p}", "x.{p}")))
    with pytest.raises(CheckpointError, match="tensor_duplicate"):
        clash.to_ours({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)})
    overlap = Table((Rename("a.{p}", "x.{p}"), Rename("a.weight", "y")))
    with pytest.raises(CheckpointError, match="fits 2 rules"):
        overlap.to_ours({"a.weight": torch.zeros(1)})


def test_wrong_shapes_name_both() -> None:
    text = refusal({**THEIRS, "embed.weight": (7, 2)})
    assert "tensor_shape" in text and "embed.weight is 7×2, needed 5×2" in text
    assert "layers.0.kv_weight (as blocks.0.k_proj.weight) is 3×2, needed 2×2" in refusal(
        {**THEIRS, "layers.0.kv_weight": (6, 2)}
    )
    assert "layers.0.kv_weight 5×2" in refusal({**THEIRS, "layers.0.kv_weight": (5, 2)})


def test_tied_copies_must_be_equal() -> None:
    state = {name: torch.randn(shape) for name, shape in THEIRS.items()}
    TABLE.to_ours({**state, "head.weight": state["embed.weight"].clone()})
    with pytest.raises(CheckpointError, match="tensor_untied"):
        TABLE.to_ours({**state, "head.weight": state["embed.weight"] + 1})
    alone = {name: tensor for name, tensor in state.items() if name != "embed.weight"}
    with pytest.raises(CheckpointError, match="embed.weight"):
        TABLE.to_ours({**alone, "head.weight": torch.zeros(5, 2)})


def test_prefixes_reach_every_kind_of_name() -> None:
    table = Table(prefixed(TABLE.rules, "theirs.", "ours."))
    state = {f"theirs.{name}": torch.randn(shape) for name, shape in THEIRS.items()}
    state["theirs.head.weight"] = state["theirs.embed.weight"].clone()
    assert sorted(table.to_ours(state)) == sorted(f"ours.{name}" for name in OURS)
