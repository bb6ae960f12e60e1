"""Failures: how a run can end before its budget does, and the status that each stands for."""

import math

import torch

from tuneoff.config import Experiment, MixedPrecision


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer a number."""


class Interrupted(KeyboardInterrupt):
    """SIGTERM came, a checkpoint was written, and the run stopped at a step's end."""


def check_finite(experiment: Experiment, step: int, loss: float, norm: float) -> None:
    """Stop a run whose loss or gradient norm is no longer a number.

    Raises:
        Diverged: naming the step.
    """
    # Under fp16 the loss scale makes gradients overflow now and then, and accelerate skips that step.
    scaled = experiment.mixed_precision is MixedPrecision.fp16
    finite_norm = scaled or math.isfinite(norm)
    if not (math.isfinite(loss) and finite_norm):
        raise Diverged(f"diverged at step {step}: loss {loss}, gradient norm {norm}")


def classify_error(error: BaseException) -> str:
    """The status that an exception stands for."""
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out_of_memory"
    if "can't allocate memory" in str(error):
        return "out_of_memory"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "failed"
