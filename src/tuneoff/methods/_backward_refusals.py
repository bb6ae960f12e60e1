"""Refusals of a step inside the backward pass, which has never all gradients at once."""

from tuneoff.config import ConfigError, Experiment, MixedPrecision


def check_inside_backward(experiment: Experiment, cause: str, own_clip: str) -> None:
    """Refuse what needs all gradients at once, since each is dropped inside the backward pass.

    Args:
        cause: the setting that steps there, as in `galore_layerwise=true`.
        own_clip: the option that clips each weight's gradient by itself.

    Raises:
        ConfigError: naming the setting that does not go with it.
    """
    if experiment.num_processes > 1:
        raise ConfigError(
            "num_processes",
            experiment.num_processes,
            f"must be 1 where {cause}: each process "
            "would step on its own gradient before the others' is added",
        )
    if experiment.gradient_accumulation_steps > 1:
        raise ConfigError(
            "gradient_accumulation_steps",
            experiment.gradient_accumulation_steps,
            f"must be 1 where {cause}, since each backward pass steps",
        )
    if experiment.max_grad_norm is not None:
        raise ConfigError(
            "max_grad_norm",
            experiment.max_grad_norm,
            f"must be null where {cause}, since no "
            f"global norm exists before the step; {own_clip} clips each weight",
        )
    if experiment.mixed_precision is MixedPrecision.fp16:
        raise ConfigError(
            "mixed_precision",
            experiment.mixed_precision,
            f"must be no or bf16 where {cause}, since the loss scale is still on",
        )
