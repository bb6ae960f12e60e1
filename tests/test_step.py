"""The step divides by the label tokens of the whole step, sees padding as nothing, and reads nothing back."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from tuneoff.data import Row, collate
from tuneoff.step import summed_loss, train_step


def rows(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Row(torch.randint(1, 4096, (size,), generator=generator).tolist(), ((first, size),))
            for size, first in lengths]


UNEQUAL = rows([(5, 3), (90, 10), (17, 16), (60, 1), (33, 30), (8, 1), (71, 70), (12, 2),
                (9, 8), (40, 3), (25, 20), (88, 80), (6, 1), (50, 49), (14, 7), (3, 1)])


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder).train()


def test_loss_and_gradients_are_transformers_own(debug_model):
    """One row at a time without padding, labels beside inputs, as transformers documents it."""
    ours, theirs = load(debug_model), load(debug_model)
    batch = collate(UNEQUAL, 0)
    loss = summed_loss(ours, batch) / batch.label_tokens
    loss.backward()
    total = torch.zeros(())
    for row in UNEQUAL:
        ids = torch.tensor([row.ids])
        labels = ids.clone()
        labels[:, :row.spans[0][0]] = -100
        part = theirs(input_ids=ids, labels=labels).loss * row.labels / batch.label_tokens
        part.backward()
        total += part.detach()
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-5 * b.grad.abs().max(), name


@pytest.mark.parametrize("size", [8, 4])
def test_micro_batches_equal_one_batch(debug_model, size):
    models = [load(debug_model), load(debug_model)]
    for model, part in zip(models, (16, size), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        batches = [collate(UNEQUAL[start:start + part], 0) for start in range(0, 16, part)]
        train_step(model, optimizer, batches, sum(batch.label_tokens for batch in batches), max_grad_norm=1.0)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max(), name


def test_a_step_reads_nothing_back(debug_model):
    """On fake tensors every host read raises."""
    batch = collate(UNEQUAL, 0)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model = AutoModelForCausalLM.from_config(load(debug_model).config)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        result = train_step(model, optimizer, [batch], batch.label_tokens, max_grad_norm=1.0)
        with pytest.raises(Exception, match="local_scalar_dense"):
            result.loss.item()


def test_clip_scales_to_the_norm(debug_model):
    model = load(debug_model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = collate(UNEQUAL, 0)
    result = train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), [batch], batch.label_tokens, 0.01)
    moved = torch.sqrt(sum(((p.detach() - before[name])**2).sum() for name, p in model.named_parameters()))
    assert result.gradient_norm > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)
