"""PEFT's tuners beside LoRA's: one class for all of them, and a YAML for each choice of `method`.

A YAML names its tuner by `/peft_type@peft` in its defaults, and has the tuner's options, typed, under `peft`. They
stand in `_peft_options.json`, since a refusal must not wait for PEFT; `tests/tools/peft_options.py` writes it.
"""

from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from tuneoff.config import ConfigError, Experiment, Task, check_ranges, is_split, names, option
from tuneoff.methods import LoadBase, Method, register
from tuneoff.methods._peft_options import (
    NOT_MERGED,
    NOT_PREDICTED,
    OTHER_START,
    OTHER_START_WITH,
    check_together,
    store_tuners,
)
from tuneoff.methods._peft_unused import refuse_unused_options

ALLOWED = "must be a tuner's options, as in peft.r=8"

store_tuners()


@register
@dataclass
class Peft(Method):
    """One of PEFT's tuners on the modules that `peft_target` names; `peft` holds the options of the tuner itself."""

    keeps_base = True
    packages = ("peft",)
    elsewhere: ClassVar[dict[str, str]] = {"finetuning_type=oft": "oft"}
    foreign_options: ClassVar[dict[str, str]] = {
        "oft_target": "peft_target",
        "oft_rank": "peft.r",
        "oft_block_size": "peft.oft_block_size",
        "module_dropout": "peft.module_dropout",
    }
    peft_target: Any = names("all")
    """The modules to adapt: all linear layers but the head, norms, PEFT's own choice for the model (own), or names."""
    peft: Any = option(None, ALLOWED, is_dataclass)
    """The tuner's options, which its YAML brings along."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.added: set[str] = set()  # names of the adapter's own parameters

    def check(self, experiment: Experiment) -> None:
        """Refuse what lies outside the tuner's ranges, and what no test has shown to work."""
        if self.peft is None:
            raise ConfigError("peft", None, ALLOWED)
        check_ranges(self.peft, "peft.")
        check_together(self.peft)
        refuse_unused_options(self.peft, self.written)
        if experiment.quantised:
            key, value = experiment.quantised
            raise ConfigError(key, value, f"was never tried with PEFT's {self.peft.type}")
        if is_split(experiment.sharding):
            allowed = f"was never tried under {experiment.sharding}; method=lora was"
            raise ConfigError("method", experiment.method, allowed)
        predicts = experiment.task is Task.predict or experiment.skip_if_over_gib is not None
        if predicts and self.peft.type in NOT_PREDICTED:
            allowed = "cannot be predicted: more gradients would be counted than a step holds"
            raise ConfigError("method", experiment.method, allowed)
        if experiment.export_merged and self.peft.type in NOT_MERGED:
            allowed = f"PEFT's {self.peft.type} cannot become a part of the weights"
            raise ConfigError("export_merged", True, allowed)

    @property
    def starts_at_base(self) -> bool:
        """Whether the first loss is the base model's."""
        options = vars(self.peft)
        starts_elsewhere = any(options.get(name) == value for name, value in OTHER_START_WITH)
        return self.peft.type not in OTHER_START and not starts_elsewhere

    @property
    def saves(self) -> str:
        """What an export holds, in words."""
        return super().saves if self.merges else "an adapter"

    @property
    def merges(self) -> bool | None:
        """Whether the tuner's changes can become a part of the base's weights."""
        return self.peft.type not in NOT_MERGED

    def prepare(self, model: Any) -> Any:
        """Return a `PeftModel` around `model`.

        Raises:
            ConfigError: a target that is not there, or what PEFT refuses.
        """
        from tuneoff.methods import _peft_model

        tuner = self.peft.type
        targets = _peft_model.choose_targets(model, self.peft_target)
        base_weights = set(model.parameters())
        options = self.list_options()
        given = [name for name in options if f"peft.{name}" in self.written]
        model = _peft_model.wrap_model(model, tuner, options, targets, given)
        self.added = set()
        for name, weight in model.named_parameters(remove_duplicate=False):
            if weight not in base_weights:
                self.added.add(name)
        return model

    def list_options(self) -> dict[str, Any]:
        """Return the arguments of PEFT's config beside its targets."""
        options = asdict(self.peft)
        del options["type"]
        return options

    def coverage(self, model: Any) -> float:
        """Return the share of the base weights that have an adapter on them, or train themselves."""
        from tuneoff.methods._peft_model import share_of_adapted

        return share_of_adapted(model, self.added)

    def weights_to_save(self, model: Any) -> dict[str, Any]:
        """Return the adapter, with the frozen parts that PEFT saves beside it."""
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model, save_embedding_layers=False)

    def read_back(self, model: Any, folder: Path, load_base: LoadBase) -> Any:
        """Load the saved adapter on the base, loaded anew: some tuners have changed the one in memory."""
        from tuneoff.methods._lora_export import load_saved_adapter
        from tuneoff.models.reading_back import make_room

        make_room(model)
        return load_saved_adapter(load_base(), folder)

    def export_merged(self, model: Any, folder: Path) -> dict:
        """Save the model without adapters; the largest difference that this makes to a logit is a fact."""
        from tuneoff.methods import _lora_export

        return _lora_export.save_merged(model, folder)

    def find_plain_lora_rank(self, model: Any) -> int | None:
        """Return the rank that a plain LoRA needs, as PEFT converts one layer of each shape."""
        from tuneoff.methods._peft_model import find_converted_rank

        return find_converted_rank(model)
