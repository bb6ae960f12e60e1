"""One optimizer step and one evaluation batch, for training and for prediction alike.

No host read in here (no `.item()`, no branch on a value): the predictor runs the same code on fake tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from tuneoff.data.batches import Batch


class StepResult(NamedTuple):
    """What a step leaves on the device."""

    loss: torch.Tensor  # 0-d, per label token of the whole step
    gradient_norm: torch.Tensor  # 0-d, before clipping


def summed_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood summed over the label tokens of `batch`; 0-d float32."""
    with head_at(model, batch.keep):
        # Without positions and mask transformers takes its plain causal path; packed positions it reads on the host.
        logits = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
    return nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum")


@contextmanager
def head_at(model: nn.Module, places: torch.Tensor) -> Iterator[None]:
    """Run the output head at `places` of the flattened batch alone, so that logits are (places, vocabulary).

    By a hook, since transformers' own `logits_to_keep` keeps the same positions of every row: of rows whose answers are
    of unequal length about twice as many as there are labels, and of packed rows nearly all.
    """
    whole: Any = getattr(model, "module", model)  # what wraps a model for several processes

    def select_places(head: nn.Module, inputs: tuple) -> tuple:
        hidden, *others = inputs
        tokens = hidden.flatten(0, 1)  # (batch · length, hidden)
        return (tokens.index_select(0, places), *others)

    hook = whole.get_output_embeddings().register_forward_pre_hook(select_places)
    try:
        yield
    finally:
        hook.remove()


@dataclass
class Engine:
    """What accelerate adds around a step; the defaults are plain PyTorch."""

    autocast: Callable[[], AbstractContextManager] = nullcontext
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward
    unscale: Callable[[], None] = lambda: None
    unsynchronised: Callable[[], AbstractContextManager] = (
        nullcontext  # around all micro-batches but the last
    )
    after_backward: Callable[[], None] = lambda: None  # what a method adds to the gradients


PLAIN = Engine()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    label_tokens: float,
    max_grad_norm: float | None = None,
    engine: Engine = PLAIN,
) -> StepResult:
    """Forward and backward over the micro-batches, clip, step.

    Args:
        label_tokens: the divisor: label tokens of all micro-batches (a mean of means weighs rows unequally). Where
            gradients are averaged over ranks, the mean of their label tokens.
    """
    # On the device from the start: to move it there would wait for the first backward pass.
    loss = torch.zeros((), device=batches[0].input_ids.device)
    for number, batch in enumerate(batches, 1):
        with nullcontext() if number == len(batches) else engine.unsynchronised():
            with engine.autocast():
                part = summed_loss(model, batch) / label_tokens
            engine.backward(part)
        loss = loss + part.detach()
    engine.unscale()
    engine.after_backward()
    norm = gradient_norm(model, optimizer)
    if max_grad_norm is not None:
        clip(model, max_grad_norm, norm)
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss, norm)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """The values of all gradients; of a sparse one, its entries (a view: scaling it scales the gradient)."""
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [gradient._values() if gradient.is_sparse else gradient for gradient in found]


def gradient_norm(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Global L2 norm; from the optimizer where it stepped, and dropped the gradients, inside backward."""
    own = getattr(
        getattr(optimizer, "optimizer", optimizer), "gradient_norm", None
    )  # accelerate wraps for fp16
    return own() if own else nn.utils.get_total_norm(gradients(model))


def clip(model: nn.Module, max_norm: float, norm: torch.Tensor) -> None:
    """Scale all gradients so that their global norm is at most `max_norm`."""
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if found := gradients(model):  # DeepSpeed keeps its own, and clips them itself
        torch._foreach_mul_(found, factor)
