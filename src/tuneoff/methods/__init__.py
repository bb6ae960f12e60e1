"""The contract of a fine-tuning method, and how methods are found.

A method is one Python file (a dataclass of its options, with the hooks below) and one YAML for each choice of
`method=`. Every module of this package is imported here, and so is every module of a folder `tuneoff/methods` elsewhere
on Python's path. A module whose name begins with an underscore is a part of a method, and no method itself.
"""

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from pkgutil import extend_path, iter_modules
from typing import Any, ClassVar

from tuneoff.config import ConfigError, Experiment, Optimizer, as_names, check_ranges, store_schema
from tuneoff.methods._known_elsewhere import KnownElsewhere

LoadBase = Callable[[], Any]  # loads the model anew that a method was given
# What the record says where a method trains the weight that the output head and the embeddings share.
TIED = "the output head and the embeddings are one weight, and it trains"


class Method(KnownElsewhere):
    """The hooks of a fine-tuning method, in the order in which a run calls them.

    A method is a dataclass of its options that overrides what it needs; the defaults are full fine-tuning.
    """

    # Whether the base weights stay as they are, so that they may be quantised.
    keeps_base: ClassVar[bool] = False
    # Whether some of the base weights never train, so that they may be held in a smaller type than what does.
    freezes: ClassVar[bool] = False
    # Which methods share a colour in charts: a key of FAMILIES in record/schema.py. A YAML's `family` goes before it.
    own_family: ClassVar[str] = "other"
    # The values of `optimizer` that it takes; None takes them all.
    optimizers: ClassVar[tuple[Optimizer, ...] | None] = None
    # The packages that do the method, as pip names them; every record holds their versions.
    packages: ClassVar[tuple[str, ...]] = ()
    # The keys that were written on the command line.
    written: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self, experiment: Experiment) -> None:
        """Refuse options that contradict each other or the shared settings, before torch is imported.

        Raises:
            ConfigError: naming the key to change.
        """

    def is_given(self, name: str) -> bool:
        """Return whether an option was written, or has another value than its default."""
        options = fields(self)  # type: ignore[arg-type]  # every method is a dataclass
        defaults = {item.name: item.default for item in options}
        value = getattr(self, name)
        default = defaults[name]
        if isinstance(value, list):
            default = as_names(name, default)
        return name in self.written or value != default

    def refuse_unused(self, name: str, allowed: str) -> None:
        """Refuse an option that was given although another option switches it off.

        Raises:
            ConfigError: saying what is allowed.
        """
        if self.is_given(name):
            raise ConfigError(name, getattr(self, name), allowed)

    def settled_options(self) -> dict[str, Any]:
        """Return options whose value in effect is not the one in the config; the record has these."""
        return {}

    @property
    def starts_at_base(self) -> bool:
        """Whether the first loss is the base model's."""
        return True

    @property
    def saves(self) -> str:
        """What an export holds, in words."""
        return "an adapter, which merges" if self.keeps_base else "the model"

    @property
    def merges(self) -> bool | None:
        """Whether what was trained can become a part of the base's weights; None where there is no adapter."""
        return True if self.keeps_base else None

    @property
    def initial_steps(self) -> int:
        """How many steps' training rows `initialise` looks at; 0 where nothing begins from data."""
        return 0

    def initialise(self, model: Any, batches: Any) -> None:
        """Look at training batches through the base `model`, before `prepare`: a phase of the run with its own figures.

        Args:
            batches: `training.initialisation.InitialBatches`; not called for a prediction.
        """

    def prepare(self, model: Any) -> Any:
        """Freeze or wrap `model`; return the model to train.

        New weights are drawn from torch's global generator, which is seeded for this call.

        Raises:
            ConfigError: naming an option that this model cannot give.
        """
        return model

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return a `torch.optim.Optimizer` over what trains.

        The optimizer may offer more than PyTorch asks of one:

        - `gradient_norm()`: the global norm of the last step, where it steps inside the backward pass.
        - `refresh_interval`: the number of steps after which its memory repeats; set to 1, the next step refreshes.
        - `extra_state_tensors()`: the tensors that it keeps outside `state`.
        - `costly_phases()` and `enter_phase(phase)`: where what trains changes in turn, the phases that may need the
          most memory, and a switch to one of them; `phases_of_cycle()`: all of them, in the model's order;
          `current_phase()`: the one that the next step is in.
        - `refresh_offsets`: empty where all that is renewed is renewed in the same steps, from the first on.
        """
        from tuneoff.models.optimizers import build_optimizer, parameter_groups

        named = model.named_parameters()
        groups = parameter_groups(named, experiment.lr, experiment.weight_decay)
        return build_optimizer(groups, experiment, model)

    def state(self) -> dict:
        """Return what a checkpoint keeps of the method beside weights and optimizer: tensors and plain values."""
        return {}

    def restore(self, model: Any, state: dict) -> None:
        """Take over what `state` gave, before the trained weights are put back; `model` is as `prepare` returned it."""

    def after_backward(self, model: Any) -> None:
        """Change the gradients of a whole step, before their norm is taken: what is not part of the rows' loss."""

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Return the names of the parameters that a run may change, however long it is; checkpoints hold these."""
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def count_trainable(self, model: Any, optimizer: Any) -> int:
        """Return how many weights the next step changes."""
        from tuneoff.models.layers import count_weights

        parameters = [one for one in model.parameters() if one.requires_grad]
        return sum(map(count_weights, parameters))

    def count_reached(self, model: Any, optimizer: Any, steps: float) -> int:
        """Return how many weights were changed so far, or would be in `steps` more: a record's `ever_trained`.

        Args:
            steps: those of the budget (perhaps infinite) before a run, and 0 after it, when what was done counts alone.
        """
        from tuneoff.models.layers import count_weights

        names = self.ever_trained(model, optimizer)
        parameters = [one for name, one in model.named_parameters() if name in names]
        return sum(map(count_weights, parameters))

    def count_parameters(
        self,
        model: Any,
        optimizer: Any,
        steps: float,
    ) -> dict[str, int]:
        """Return the numbers of weights as a record has them; `steps` is that of `count_reached`."""
        from tuneoff.models.layers import count_all_weights

        return {
            "total": count_all_weights(model),
            "ever_trained": self.count_reached(model, optimizer, steps),
            "trainable": self.count_trainable(model, optimizer),
        }

    def warn_of_budget(self, optimizer: Any, steps: float) -> list[str]:
        """Return what a user should know before a run whose `steps` are too few for what the method does in turn."""
        return []

    def coverage(self, model: Any) -> float:
        """Return the share of the base model's weights that the method covers, from 0 to 1.

        It is the same figure for every method: the weights that the run may change, those with an adapter on them, or
        those whose gradients are projected.
        """
        from tuneoff.models.layers import share_of_weights

        trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
        return share_of_weights(model, trainable)

    def facts(self, model: Any) -> dict:
        """Return further entries of the record: the method's coverage, and what it leaves out.

        A tied head and its embeddings are one weight, by whichever of its names it is asked for; where it trains, every
        method says so.
        """
        from tuneoff.models.layers import has_tied_head

        facts: dict = {"covered_share": self.coverage(model)}
        if has_tied_head(model) and model.get_input_embeddings().weight.requires_grad:
            facts["tied_weights"] = TIED
        return facts

    def weights_to_save(self, model: Any) -> dict[str, Any]:
        """Return what an export holds, by name: its size is a figure of every record, saved or not."""
        return model.state_dict()

    def final_facts(self, model: Any, optimizer: Any) -> dict:
        """Return entries of the record that only the end of a run shows; they replace those of `facts`."""
        return {}

    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the trained model so that `from_pretrained` reproduces it.

        Args:
            model: what `prepare` returned, trained.
            folder: where to save.
            merged: whether to save a model without adapters too, where the method has adapters.

        Returns:
            Facts for the record, such as what was converted.
        """
        from tuneoff.models.precision import save_whole

        save_whole(model, folder)
        return {}

    def read_back(self, model: Any, folder: Path, load_base: LoadBase) -> Any:
        """Load what `export` has saved, as its user will; returns a model with the trained one's logits.

        Args:
            model: the trained model, which may be taken apart: nobody needs it any more.
            folder: where it is saved.
            load_base: loads the model anew that `prepare` was given.

        Raises:
            UnreadableExport: names or shapes that do not fit.
        """
        from tuneoff.models.reading_back import load_saved

        return load_saved(folder, model)

    def export_merged(self, model: Any, folder: Path) -> dict:
        """Save the model without adapters in `folder/merged`, beside what `export` saved, where there are adapters.

        Returns:
            Facts for the record.
        """
        return {}

    def merge_into_base(self, model: Any) -> Any:
        """Return the trained model without adapters, where it `merges`; `model` is taken apart."""
        from tuneoff.methods._lora_export import merge_trained

        return merge_trained(model)

    def find_plain_lora_rank(self, model: Any) -> int | None:
        """Return the rank of a plain LoRA on the untouched base that is the trained model; None where none is."""
        return None


def register(cls: type) -> type:
    """Store a method's options together with the shared settings as one typed schema, named like the method's module.

    Returns:
        The class as it was, so that this is a decorator.

    Raises:
        TypeError: where an option has the name of a hook or of a shared setting, which it would shadow.
    """
    _check_option_names(cls)
    store_schema(cls)
    return cls


def _check_option_names(cls: type) -> None:
    """Refuse an option that would shadow a hook or a shared setting."""
    taken = set(dir(Method))
    taken.update(item.name for item in fields(Experiment))
    clashes = sorted(item.name for item in fields(cls) if item.name in taken)
    if clashes:
        raise TypeError(f"{cls.__name__}: option names already taken: {', '.join(clashes)}")


def _import_methods() -> None:
    """Import every method, so that it registers itself."""
    for module in iter_modules(__path__):
        if not module.name.startswith("_"):
            import_module(f"{__name__}.{module.name}")


__path__ = extend_path(__path__, __name__)
_import_methods()
