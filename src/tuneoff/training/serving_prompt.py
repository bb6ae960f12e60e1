"""The prompt with which serving is measured: tokens of the data, as many as the settings say."""

from itertools import chain, cycle, islice
from typing import Any

from tuneoff import data
from tuneoff.config import ConfigError, Experiment
from tuneoff.models.checks import max_positions


def check_positions(experiment: Experiment, model: Any) -> None:
    """Refuse a prompt and an answer for which the model has no positions.

    Raises:
        ConfigError: naming the prompt's length.
    """
    if not experiment.measure_serving:
        return
    positions = max_positions(model)
    room = positions - experiment.serving_new_tokens
    if experiment.serving_prompt_tokens > room:
        allowed = (
            f"leaves no room for serving_new_tokens={experiment.serving_new_tokens} among the model's "
            f"{positions} positions"
        )
        raise ConfigError("serving_prompt_tokens", experiment.serving_prompt_tokens, allowed)


def make_prompt(dataset: data.DataSet, length: int) -> list[int]:
    """Return so many tokens of the data's rows, one after another, from the first again where they are too few."""
    rows = dataset.splits["validation"] or dataset.splits["train"]
    tokens = chain.from_iterable(row.ids for row in cycle(rows))
    return list(islice(tokens, length))
