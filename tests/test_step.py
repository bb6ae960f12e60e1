"""The step divides by the label tokens of the whole step, sees padding as nothing, and reads nothing back."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tuneoff.data import Row, collate, pack_rows
from tuneoff.measure.memory_breakdown import MemoryBreakdown
from tuneoff.training.step import summed_loss, train_step


def rows(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Row(torch.randint(1, 4096, (size,), generator=generator).tolist(), ((first, size),))
        for size, first in lengths
    ]


UNEQUAL = rows(
    [
        (5, 3),
        (90, 10),
        (17, 16),
        (60, 1),
        (33, 30),
        (8, 1),
        (71, 70),
        (12, 2),
        (9, 8),
        (40, 3),
        (25, 20),
        (88, 80),
        (6, 1),
        (50, 49),
        (14, 7),
        (3, 1),
    ]
)


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
        labels[:, : row.spans[0][0]] = -100
        part = theirs(input_ids=ids, labels=labels).loss * row.labels / batch.label_tokens
        part.backward()
        total += part.detach()
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-5 * b.grad.abs().max(), name


def head_everywhere(batch):
    """The same batch with the head at every position, as transformers does it when it gets the labels."""
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.keep] = batch.labels
    return batch._replace(keep=torch.arange(len(labels)), labels=labels)


@pytest.mark.parametrize("packed", [False, True])
def test_the_head_runs_where_a_label_is_and_nowhere_else(debug_model, packed):
    """The same loss and gradients as with the head everywhere; the head's arithmetic and its memory go with labels."""
    batch = collate(pack_rows(UNEQUAL, 96) if packed else UNEQUAL, 0)
    positions, labels = batch.input_ids.numel(), batch.label_tokens
    losses, flops, activations, grads = [], [], [], []
    for one in (batch, head_everywhere(batch)):
        model = load(debug_model)
        with FlopCounterMode(display=False) as counter, MemoryBreakdown(model) as live:
            loss = summed_loss(model, one)
            loss.backward()
        losses.append(loss.item())
        flops.append(counter.get_total_flops())
        activations.append(live.peak()["activations"])
        grads.append([parameter.grad for parameter in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for few, all_ in zip(*grads, strict=True):
        assert (few - all_).abs().max() <= 1e-5 * all_.abs().max()
    # Forward, and backward by input and by weight: three products of (positions, 64) and (64, 4096), 2 flops each.
    assert flops[1] - flops[0] == 3 * 2 * 64 * 4096 * (positions - labels)
    # At the peak at least the logits and their logarithms, 4 bytes each.
    assert activations[1] - activations[0] >= 2 * 4 * 4096 * (positions - labels)


@pytest.mark.parametrize("size", [8, 4])
def test_micro_batches_equal_one_batch(debug_model, size):
    models = [load(debug_model), load(debug_model)]
    for model, part in zip(models, (16, size), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        batches = [collate(UNEQUAL[start : start + part], 0) for start in range(0, 16, part)]
        train_step(
            model,
            optimizer,
            batches,
            sum(batch.label_tokens for batch in batches),
            max_grad_norm=1.0,
        )
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max(), name


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_reads_nothing_back(debug_model, packed):
    """On fake tensors every host read raises. (Of real packed positions transformers reads one value.)"""
    batch = collate(pack_rows(UNEQUAL, 96) if packed else UNEQUAL, 0)
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
    result = train_step(
        model, torch.optim.SGD(model.parameters(), lr=1.0), [batch], batch.label_tokens, 0.01
    )
    moved = torch.sqrt(
        sum(((p.detach() - before[name]) ** 2).sum() for name, p in model.named_parameters())
    )
    assert result.gradient_norm > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)
