"""Adapters that begin from training data, by PEFT: EVA, LoRA-GA and CorDA. Imports torch at its head."""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import get_eva_state_dict, initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga

from tuneoff.config import ConfigError

MOST_PASSES = (
    20  # over the rows, until EVA's directions no longer turn; PEFT itself would go on for ever
)
# PEFT's settings of each, by the argument of its `LoraConfig`; what is not here is PEFT's default.
SETTINGS: dict[str, dict[str, Any]] = {
    "eva": {"eva_config": EvaConfig()},
    "lora_ga": {"lora_ga_config": LoraGAConfig()},
    "corda": {"corda_config": CordaConfig(verbose=False)},
}


def describe_beginning(method: Any) -> dict[str, Any]:
    """Return the arguments of PEFT's `LoraConfig` that say how a LoRA's new adapter begins."""
    if method.pissa_init:
        exact = method.pissa_iter == -1
        return {"init_lora_weights": "pissa" if exact else f"pissa_niter_{method.pissa_iter}"}
    if method.lora_init is None:
        return {"init_lora_weights": True}
    return {"init_lora_weights": method.lora_init, **SETTINGS.get(method.lora_init, {})}


def look_at_data(model: Any, config: LoraConfig, batches: Any) -> dict | None:
    """Run the base model over training batches, and keep with its layers what PEFT begins adapters from.

    Args:
        batches: `training.initialisation.InitialBatches`.

    Returns:
        EVA's directions by the layer's path, for `begin_from`; None for the others.

    Raises:
        ConfigError: directions that do not settle.
    """
    kind: Any = config.init_lora_weights  # PEFT's type does not name all of its own words
    if kind == "eva":
        return _find_directions(model, config, batches)
    if kind == "lora_ga":
        preprocess_loraga(model, config, lambda: _sum_gradients(batches))
    else:
        preprocess_corda(model, config, lambda: _read_rows(batches))
    return None


def begin_from(model: Any, directions: dict) -> None:
    """Let the adapters of a `PeftModel` begin from EVA's directions."""
    named = {f"base_model.model.{path}": value for path, value in directions.items()}
    initialize_lora_eva_weights(model, eva_state_dict=named)


def _sum_gradients(batches: Any) -> None:
    for loss in batches.mean_losses():
        loss.backward()


def _read_rows(batches: Any) -> None:
    """Row by row: PEFT takes the inputs of a layer for those of one row."""
    for row in batches.single_rows:
        batches.sum_loss(row)


def _find_directions(model: Any, config: LoraConfig, batches: Any) -> dict:
    """Return the principal directions of each layer's inputs, at the tokens to predict."""
    _refuse_small_steps(config, batches)
    by_ids = {id(batch.input_ids): batch for batch in batches.whole_steps}
    most = MOST_PASSES * len(by_ids)
    runs: list[int] = []

    def read_step(model: Any, inputs: dict) -> None:
        """Read the rows of a step once more, unless the directions should have settled by now."""
        runs.append(1)
        if len(runs) > most:
            allowed = (
                f"EVA's directions have not settled after {MOST_PASSES} passes over the rows; "
                "a larger lora_init_steps or batch_size gives it more"
            )
            raise ConfigError("lora_init", "eva", allowed)
        batches.sum_loss(by_ids[id(inputs["input_ids"])])

    # PEFT prints a line for each layer and step of which the tokens are too few.
    with torch.no_grad(), redirect_stdout(StringIO()):
        return get_eva_state_dict(
            model,
            [_describe_inputs(batch) for batch in batches.whole_steps],
            config,
            forward_fn=read_step,
            gather_distributed_inputs=False,  # every rank has the same
            show_progress_bar=False,
        )


def _refuse_small_steps(config: LoraConfig, batches: Any) -> None:
    """Refuse steps of which none has as many tokens to predict as EVA looks for directions."""
    settings: Any = config.eva_config
    directions = round(config.r * settings.rho)
    most_tokens = max(len(batch.labels) for batch in batches.whole_steps)
    if most_tokens < directions:
        allowed = (
            f"looks for {directions} directions, {settings.rho:g} times the rank, and no step has "
            f"more than {most_tokens} tokens to predict; a larger batch_size gives it more"
        )
        raise ConfigError("lora_init", "eva", allowed)


def _describe_inputs(batch: Any) -> dict[str, torch.Tensor]:
    """Return a batch as transformers' models take it, which is how PEFT finds the tokens to predict."""
    labels = torch.full_like(batch.input_ids, -100)
    labels.view(-1)[batch.keep + 1] = batch.labels
    return {"input_ids": batch.input_ids, "labels": labels}
