"""SC-NLM against its equations written out, and that structure and content both decide what is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from chiasm.core.config import from_dict, to_dict
from chiasm.language.structured import StructuredConfig
from chiasm.models.vse import VseConfig, tiny
from chiasm.weights.load import initialise

SMALL = StructuredConfig(
    vocab_size=11, num_kinds=4, content_dim=6, hidden_dim=5, gate_dim=7, factor_dim=8, context=3, ahead=2
)


def disturbed() -> torch.nn.Module:
    torch.manual_seed(0)
    module = SMALL.build()
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


def test_logits_are_the_papers_tensor_written_out() -> None:
    module = disturbed()
    ids, kinds = torch.tensor([[1, 4, 9, 2, 7]]), torch.tensor([[3, 1, 2, 0]])
    content = torch.randn(1, 6)
    found = module(ids, kinds, content)[0]
    # T (V, K, G): every word's own matrix, in factors (§3.1, eq. 2)
    tensor = torch.einsum("fv,fk,fg->vkg", module.word_factors, module.state_factors, module.gate_factors)
    embedding = torch.einsum("fk,fv->kv", module.state_factors, module.word_factors)
    for n in range(4):
        state = torch.zeros(5)
        for i in range(3):
            if n - i >= 0:
                state = state + module.context[i] @ embedding[:, ids[0, n - i]]
        gate = module.content_proj.weight @ content[0] + module.content_proj.bias
        for j in range(3):
            if n + j < 4 and kinds[0, n + j] != 0:
                gate = gate + module.kinds[j].weight[kinds[0, n + j]]
        logits = torch.einsum("vkg,k,g->v", tensor, state, gate.clamp(min=0)) + module.word_bias
        torch.testing.assert_close(found[n], logits, atol=1e-5, rtol=1e-5)


def test_words_come_from_those_before_and_writing_agrees_with_reading() -> None:
    module = disturbed()
    content, kinds = torch.randn(2, 6), torch.tensor([[1, 2, 3, 1], [2, 2, 0, 0]])
    written = module.write(content, kinds, start_id=1)
    assert written.shape == (2, 4) and (written[1, 2:] == -1).all() and (written[0] >= 0).all()
    ids = torch.cat((torch.ones(1, 1, dtype=torch.long), written[:1]), 1)
    assert torch.equal(module(ids, kinds[:1], content[:1]).argmax(-1), written[:1])
    changed = ids.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 11
    assert torch.equal(module(ids, kinds[:1], content[:1])[0, :3], module(changed, kinds[:1], content[:1])[0, :3])


def test_structure_and_content_both_decide() -> None:
    """Two things, said in two orders: `thing verb` and `verb thing`."""
    torch.manual_seed(0)
    module = replace(SMALL, hidden_dim=16, gate_dim=24, factor_dim=24).build()
    contents = torch.eye(6)[:2].repeat_interleave(2, 0)
    kinds = torch.tensor([[1, 2], [2, 1]] * 2)
    words = torch.tensor([[3, 5], [5, 3], [4, 5], [5, 4]])
    ids = torch.cat((torch.ones(4, 1, dtype=torch.long), words), 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(120):
        loss = F.cross_entropy(module(ids, kinds, contents).flatten(0, 1), words.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(module.write(contents, kinds, start_id=1), words)


def test_it_writes_from_vse_s_joint_space_and_is_saved(tmp_path) -> None:
    import chiasm
    from chiasm.core.errors import CapabilityError
    from chiasm.core.registry import family
    from chiasm.models.model import Model
    from chiasm.weights.load import writer_for

    config, processor = tiny()
    vocab = config.language.vocab_size
    writer = replace(SMALL, vocab_size=vocab, content_dim=config.language.hidden_dim)
    config = replace(config, writer=writer)
    assert from_dict(VseConfig, to_dict(config)) == config
    model = Model(initialise(config), processor, family("vse"), config, writer=writer_for(config))
    pixels = torch.randn(2, 3, 32, 32)
    kinds = torch.tensor([[1, 2, 3], [3, 1, 0]])
    written = model.module.write(model.module.embed_images(pixels), kinds, start_id=2)
    assert written.shape == (2, 3) and written[1, 2] == -1
    model.save(tmp_path / "vse")
    again = chiasm.load(str(tmp_path / "vse")).module
    assert torch.equal(again.write(again.embed_images(pixels), kinds, start_id=2), written)
    plain = chiasm.new("vse").module
    with pytest.raises(CapabilityError, match="writer"):
        plain.write(torch.zeros(1, plain.config.language.hidden_dim), kinds[:1], start_id=2)


def test_texts_teach_the_decoder_alone_and_the_nearest_structure_is_chosen() -> None:
    from chiasm.core.batch import Batch
    from chiasm.objectives.structured import StructuredText

    torch.manual_seed(0)
    config, _ = tiny()
    vocab, width = config.language.vocab_size, config.language.hidden_dim
    writer = StructuredConfig(
        vocab_size=vocab, num_kinds=4, content_dim=width, hidden_dim=16, gate_dim=16, factor_dim=16
    )
    module = initialise(replace(config, writer=writer), 0)
    module.requires_grad_(False)
    module.writer.requires_grad_(True)
    kinds = tuple(1 + number % 3 for number in range(vocab))
    ids = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
    attend = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
    objective = StructuredText(kinds=kinds).build()
    batch = Batch(input_ids=ids, attention_mask=attend)
    optimizer = torch.optim.AdamW(module.writer.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = objective(module, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    places = module.embed_texts(ids, attend)
    structures = torch.tensor([[kinds[i] for i in ids[0, 1:]], [*(kinds[i] for i in ids[1, 1:4]), 0]])
    written = module.write_best(places, structures, start_id=2)
    assert torch.equal(written[0], ids[0, 1:]) and torch.equal(written[1, :3], ids[1, 1:4]) and written[1, 3] == -1
