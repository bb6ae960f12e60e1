"""Failures: how a run can end before its budget does, and the status that each stands for."""

import math
import re

import torch

from tuneoff.config import Experiment, MixedPrecision

# What libraries say where they find no memory, of which only some have an error type of its own: CUDA ("CUDA error: out
# of memory", pinned host memory too), NCCL, cuBLAS, cuSOLVER, cuSPARSE, cuDNN, PyTorch's CPU allocator, the system.
OUT_OF_MEMORY = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|std::bad_alloc"
    r"|[A-Z]+_STATUS_\w*ALLOC(?:ATION)?_FAILED|cudaErrorMemoryAllocation|Failed to CUDA \w*alloc",
    re.IGNORECASE,
)


class NotANumber(ArithmeticError):
    """The loss or the gradient is no number before the model has changed: nothing has diverged."""


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer a number."""


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; what was trained is in a checkpoint."""


class Paused(Exception):
    """The share of the budget that a tuning gives for now is done; what was trained is in a checkpoint."""


def check_finite(experiment: Experiment, step: int, loss: float, norm: float) -> None:
    """Stop a run whose loss or gradient norm is no longer a number.

    Args:
        step: counted from 1.

    Raises:
        NotANumber: already in the first step, whose loss and gradient are those of the untrained model.
        Diverged: in a later one.
    """
    # Under fp16 the loss scale makes gradients overflow now and then, and accelerate skips that step.
    scaled = experiment.mixed_precision is MixedPrecision.fp16
    finite_norm = scaled or math.isfinite(norm)
    if math.isfinite(loss) and finite_norm:
        return
    values = f"loss {loss}, gradient norm {norm}"
    if step == 1:
        raise NotANumber(f"not a number in the first step, before any update: {values}")
    raise Diverged(f"diverged at step {step}: {values}")


def check_evaluation(step: int, loss: float | None) -> None:
    """Stop a run whose validation loss is no number.

    Args:
        step: so many steps were taken; 0: before training.

    Raises:
        NotANumber: before training.
        Diverged: later.
    """
    if loss is None or math.isfinite(loss):
        return
    if step == 0:
        raise NotANumber(
            f"the validation loss is {loss} before the first step: the model, its data or the method's "
            "new weights give no number"
        )
    raise Diverged(f"diverged at step {step}: validation loss {loss}")


def classify_error(error: BaseException) -> str:
    """The status that an exception stands for."""
    if isinstance(error, Diverged):
        return "diverged"
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, KeyboardInterrupt | Paused):
        return "interrupted"
    return "failed"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory left, on the device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return OUT_OF_MEMORY.search(str(error)) is not None
