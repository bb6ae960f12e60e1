"""Unknown values: code that reads the values of tensors cannot be predicted, since fake tensors have none."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from tuneoff.config import ConfigError, Experiment

ARCHITECTURES = ("transformers.models.", "transformers_modules.")
# What PyTorch raises where code asks a tensor without storage for its values, or for a size that depends on them.
NEEDS_VALUES = (DataDependentOutputException, DynamicOutputShapeException, NotImplementedError)


@contextmanager
def refuse_values(experiment: Experiment) -> Iterator[None]:
    """Refuse a method or a model whose code reads the values of tensors.

    Raises:
        ConfigError: naming the method, or the model where its own code reads them.
    """
    try:
        yield
    except (*NEEDS_VALUES, RuntimeError) as error:
        if not isinstance(error, NEEDS_VALUES) and "meta tensor" not in str(error):
            raise
        if is_raised_in_model(error):
            key = "model.path"
            value = experiment.model.path
            if value is None:
                key = "model.config.model_type"
                value = (experiment.model.config or {}).get("model_type")
            allowed = "cannot be predicted: its own code reads the values of activations"
            raise ConfigError(key, value, allowed) from error
        allowed = "cannot be predicted: its package reads the values of weights"
        raise ConfigError("method", experiment.method, allowed) from error


def is_raised_in_model(error: BaseException) -> bool:
    """Whether an error comes from the code of an architecture, of transformers or of a model's own files."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(ARCHITECTURES):
            return True
    return False
