"""The contract of a fine-tuning method, and its discovery.

Every module found here, or in a `tuneoff/methods` folder elsewhere on Python's path, is a method family.
"""

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from pkgutil import extend_path, iter_modules
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore

from tuneoff.config import Experiment, check_ranges


class Method:
    """The hooks of a fine-tuning method, with the defaults that suit most. A method is a dataclass of its options."""

    keeps_base = False  # whether the base weights stay as they are, so that they may be quantised
    packages: ClassVar[
        tuple[str, ...]
    ] = ()  # what does the method, as pip knows it: every record names its version

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self, experiment: Experiment) -> None:
        """Refuse combinations with the shared settings, before torch is imported.

        Raises:
            ConfigError: naming the key to change.
        """

    def prepare(self, model: Any) -> Any:
        """Freeze or wrap; return the model to train. New weights are drawn from torch's seeded global generator."""
        return model

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return a `torch.optim.Optimizer` over what trains.

        It may offer more: `gradient_norm()` where it steps inside backward; `refresh_interval`, the steps after which
        its memory repeats (set to 1, the next step is one that refreshes); `extra_state_tensors()` for what it keeps
        outside `state`; `costly_phases()` and `enter_phase(n)` where what trains changes in turn.
        """
        from tuneoff.models.optimizers import build_optimizer, parameter_groups

        return build_optimizer(
            parameter_groups(model.named_parameters(), experiment.lr, experiment.weight_decay),
            experiment,
        )

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Names of the parameters that the whole run may change; more than `requires_grad` says for block methods."""
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the trained model so that `from_pretrained` reproduces it; return facts for the record."""
        model.save_pretrained(folder)
        return {}

    def facts(self, model: Any) -> dict:
        """Further entries of the record, such as what a method converted or left out."""
        return {}


def register(cls: type) -> type:
    """Store options + experiment as one schema, named like the module; return the method class as it was.

    Raises:
        TypeError: where an option has the name of a hook or of a shared setting, which it would shadow.
    """
    clash = {item.name for item in fields(cls)} & (
        set(dir(Method)) | {item.name for item in fields(Experiment)}
    )
    if clash:
        raise TypeError(f"{cls.__name__}: option names already taken: {', '.join(sorted(clash))}")
    # The composed class only types the keys: each half validates itself when `bind` builds it.
    body = {
        "options": cls,
        "__post_init__": lambda self: None,
        "__module__": cls.__module__,
        "__qualname__": f"{cls.__qualname__}.schema",
    }
    schema: Any = dataclass(type(cls.__name__, (cls, Experiment), body))
    cls.schema = schema  # type: ignore[attr-defined]  # found under its name, a launcher can pickle a config
    name = cls.__module__.rpartition(".")[2]
    ConfigStore.instance().store(group="schema", name=name, node=schema, package="_global_")
    return cls


__path__ = extend_path(__path__, __name__)
for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
