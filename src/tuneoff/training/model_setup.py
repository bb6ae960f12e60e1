"""Set-up of a run's model: loaded, prepared by the method, checked, and put where it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from tuneoff import data
from tuneoff.config import ConfigError, Experiment, derive_seed
from tuneoff.models.checks import check_causality, check_embeddings, check_packing
from tuneoff.models.generators import fork_generators
from tuneoff.models.layers import count_bytes
from tuneoff.models.loading import build_empty_model, load_model, runtime_facts
from tuneoff.models.precision import cast_trainable
from tuneoff.models.shapes import check_shape
from tuneoff.training.embedding_noise import add_embedding_noise
from tuneoff.training.initialisation import initialise_from_data
from tuneoff.training.provenance import hash_weights
from tuneoff.training.session import Session


class ModelFacts(NamedTuple):
    """What the record says of the model before it may be split: as it was loaded, and as the method has prepared it."""

    base_weights_hash: str | None  # None on a rank that loads no weights
    runtime: dict[str, Any]
    saved_bytes: int  # of what the run would save
    initialisation: dict[str, Any]  # what was computed from data before


def prepare_model(
    session: Session,
    dataset: data.DataSet,
    order: data.StepOrder,
    pad: int,
) -> tuple[Any, ModelFacts]:
    """The model as the method trains it, on its device, split over the ranks where they split it.

    Raises:
        ConfigError: the model does not suit the settings, or the data.
    """
    sharding = session.sharding
    with refuse_together(session):
        model, facts = _load_prepared(session, dataset, order, pad)
        if sharding.splits:
            check_trained_types(model, session.experiment)
        if sharding.splits and sharding.loads_weights:
            # Whole it is here alone.
            _check_model(model, session.experiment)
    model = sharding.place(model)
    if not sharding.splits:
        _check_model(model, session.experiment)
    return model, facts


def _load_prepared(
    session: Session,
    dataset: data.DataSet,
    order: data.StepOrder,
    pad: int,
) -> tuple[Any, ModelFacts]:
    """The model as the method has prepared it, on the CPU, or without values where another rank has them."""
    experiment = session.experiment
    sharding = session.sharding
    with seeded(experiment.seed, "modules"), sharding.loading():
        if sharding.loads_weights:
            base_model = load_model(experiment)
            weights_hash = hash_weights(base_model)
        else:
            base_model = build_empty_model(experiment)
            weights_hash = None
        runtime = runtime_facts(base_model, experiment)
        check_embeddings(base_model, experiment, *dataset.extent())
        initialisation = initialise_from_data(session, base_model, order, pad)
        model = session.method.prepare(base_model)
        cast_trainable(model, experiment.trainable_dtype)
        add_embedding_noise(model, experiment.neftune_alpha)
        saved_bytes = count_bytes(session.method.weights_to_save(model).values())
        return model, ModelFacts(weights_hash, runtime, saved_bytes, initialisation)


def check_trained_types(model: Any, experiment: Experiment) -> None:
    """Refuse to split a model whose trained weights are of several types: no engine does.

    Raises:
        ConfigError: as with whole bfloat16 modules beside float32 adapters.
    """
    types = {str(weight.dtype) for weight in model.parameters() if weight.requires_grad}
    if len(types) < 2:
        return
    key = "pure_bf16" if experiment.pure_bf16 else "dtype"
    names = " and ".join(sorted(name.removeprefix("torch.") for name in types))
    allowed = (
        f"trains weights of {names}, which {experiment.sharding} cannot split together; dtype=bfloat16 "
        "trainable_dtype=float32 mixed_precision=bf16 gives them one"
    )
    raise ConfigError(key, getattr(experiment, key), allowed)


def _check_model(model: Any, experiment: Experiment) -> None:
    check_shape(model, experiment)
    check_causality(model, experiment)
    if experiment.packing:
        check_packing(model)


@contextmanager
def refuse_together(session: Session) -> Iterator[None]:
    """Raise a refusal of one rank in all: the others would wait for it.

    Raises:
        ConfigError: the first rank's, or that of the first that has one.
    """
    refusal = None
    try:
        yield
    except ConfigError as error:
        refusal = (error.key, error.value, error.allowed)
    for other in session.ranks.gather(refusal):
        if other is not None:
            raise ConfigError(*other)


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Draw from torch's global generator under a seed of this `purpose` alone, and leave it as it was."""
    with fork_generators():
        torch.manual_seed(derive_seed(seed, purpose))
        yield
