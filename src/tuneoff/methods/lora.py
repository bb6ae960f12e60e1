"""The LoRA family (LoRA, DoRA, PiSSA, rsLoRA, LoRA+): low-rank adapters through PEFT, for five choices of `method`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tuneoff.config import (
    ConfigError,
    Experiment,
    above,
    at_least,
    names,
    one_of,
    option,
)
from tuneoff.methods import TIED, LoadBase, Method, _lora_elsewhere, register
from tuneoff.methods import _lora_refusals as refusals


@register
@dataclass
class LoRA(Method):
    """Adapters of rank r on linear layers (Hu et al. 2021), by PEFT. The option names are LLaMA-Factory's."""

    keeps_base = True
    own_family = "low_rank"
    packages = ("peft",)
    elsewhere: ClassVar[dict[str, str]] = _lora_elsewhere.CHOICES
    aliases: ClassVar[dict[str, tuple[str, ...]]] = _lora_elsewhere.ALIASES
    foreign_options: ClassVar[dict[str, str]] = _lora_elsewhere.OPTIONS
    lora_rank: int = at_least(8, 1)
    """The rank r of the adapters."""
    lora_alpha: float | None = above(None, 0)
    """Adapters are scaled by alpha / r; null takes 2 r."""
    lora_dropout: float = option(0.0, "must be in [0, 1)", lambda value: 0 <= value < 1)
    """The share of an adapter's inputs that is dropped while training."""
    lora_target: Any = names("all")
    """The linear layers that get an adapter; all leaves out the output head."""
    additional_target: Any = names()
    """Modules that train in full beside the adapters, and are saved with them."""
    loraplus_lr_ratio: float | None = above(None, 0)
    """B matrices learn this many times as fast as A matrices, which have lr (LoRA+, Hayou et al. 2024)."""
    loraplus_lr_embedding: float = above(refusals.DEFAULT_EMBEDDING_RATE, 0)
    """The learning rate of an embedding's B matrix under LoRA+."""
    use_rslora: bool = False
    """Scale adapters by alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023)."""
    use_dora: bool = False
    """Train a weight's direction by an adapter and its magnitude beside it (DoRA, Liu et al. 2024)."""
    use_lorafa: bool = False
    """Leave A as it is, and correct B's gradient for it (LoRA-FA, Zhang et al. 2023), as PEFT does it: in bfloat16."""
    lora_init: str | None = one_of(
        None, "gaussian", "olora", "orthogonal", "eva", "lora_ga", "corda"
    )
    """How A and B begin, by PEFT; null draws as LoRA. The last three begin from training data (`lora_init_steps`)."""
    lora_init_steps: int = at_least(8, 1)
    """The training rows of so many steps are looked at first, where lora_init is eva, lora_ga or corda."""
    pissa_init: bool = False
    """Start adapters from the principal singular components of the weights (PiSSA, Meng et al. 2024)."""
    pissa_iter: int = option(
        16, "must be at least 1, or -1 for the exact SVD", lambda value: value >= 1 or value == -1
    )
    """Iterations of the fast SVD that PiSSA starts from; -1 takes the exact one."""
    pissa_convert: bool = False
    """Also save PiSSA's adapter as an ordinary one, of rank 2 r, for the untouched base."""
    create_new_adapter: bool = False
    """Merge the adapter of adapter_path into the base and train a new one; false goes on with it."""
    adapter_path: str | None = None
    """An adapter to go on with: a folder, or a hub's owner/name or owner/name@revision; its settings are taken over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adapter_settings: dict[str, Any] = {}  # of an adapter that is gone on with, by option
        self.directions: dict | None = None  # from data, that adapters begin from, by path
        # A and B as they were drawn from the weights, of which the base is the rest; by name, on the host.
        self.initial_adapter: dict[str, Any] = {}
        # Whether PEFT takes a part out of the weights when it loads the adapter that is gone on with.
        self.loading_changes_base = False
        self.warnings: list[str] = []  # of an adapter that another base may be meant for
        self.left_out: dict[str, str] = {}  # what PEFT cannot adapt, by path, with the reason

    # ------------------------------------------------------------ refusals
    def check(self, experiment: Experiment) -> None:
        """Refuse what PEFT cannot do, options without effect, and an adapter that cannot be gone on with.

        An adapter that is gone on with brings its own settings, which take the place of the options here.
        """
        refusals.check_options(self, experiment)

    @property
    def changes_base(self) -> bool:
        """Whether the adapter begins with a part of the weights, which it takes out of them."""
        begins_in_base = self.pissa_init or self.lora_init in ("olora", "lora_ga", "corda")
        return begins_in_base or self.loading_changes_base

    @property
    def begins_from_data(self) -> bool:
        """Whether a new adapter begins from training data."""
        return self.lora_init in ("eva", "lora_ga", "corda")

    @property
    def starts_at_base(self) -> bool:
        """Whether the first loss is the base model's."""
        return self.adapter_path is None

    @property
    def initial_steps(self) -> int:
        """How many steps' training rows a new adapter begins from."""
        return self.lora_init_steps if self.begins_from_data else 0

    def settled_options(self) -> dict[str, Any]:
        """Return the settings of the adapter that is gone on with; none for a new one."""
        return self.adapter_settings

    # ------------------------------------------------------------ the adapted model
    def initialise(self, model: Any, batches: Any) -> None:
        """Find what the adapters begin from.

        Raises:
            ConfigError: as `make_peft_config`, more steps than the run has, or directions that do not settle.
        """
        from tuneoff.methods._lora_from_data import look_at_data

        if batches.steps < self.lora_init_steps:
            allowed = f"must be at most {batches.steps}, the steps for which the budget has rows"
            raise ConfigError("lora_init_steps", self.lora_init_steps, allowed)
        self.directions = look_at_data(model, self.make_peft_config(model), batches)

    def prepare(self, model: Any) -> Any:
        """Return a `PeftModel` around `model`.

        Raises:
            ConfigError: a target that names no linear layer or that PEFT cannot adapt, a rank that a matrix cannot
                give, or an adapter that does not fit.
        """
        from tuneoff.methods import _lora_model
        from tuneoff.methods._lora_from_data import begin_from
        from tuneoff.methods._lora_optimizers import freeze_a
        from tuneoff.models.layers import is_quantized

        if is_quantized(model):
            model = _lora_model.prepare_quantised(model, self.use_dora)
        if self.adapter_path:
            trainable = not self.create_new_adapter
            model = _lora_model.load_adapter(model, self.adapter_path, trainable)
            if not self.create_new_adapter:
                return freeze_a(model, self.use_lorafa)
            model = _lora_model.merge_adapter(model)
        model = _lora_model.wrap_model(model, self.make_peft_config(model))
        if self.directions is not None:
            begin_from(model, self.directions)
        if self.changes_base:
            self.initial_adapter = _lora_model.copy_adapter(model)
        return freeze_a(model, self.use_lorafa)

    def state(self) -> dict:
        """Return the A and B that were taken out of the base, which no machine need find again to the last bit."""
        return {"initial_adapter": self.initial_adapter} if self.initial_adapter else {}

    def restore(self, model: Any, state: dict) -> None:
        """Make the base of `model` the one that the run began with."""
        from tuneoff.methods._lora_model import restore_base

        saved = state.get("initial_adapter")
        if saved and restore_base(model, self.initial_adapter, saved):
            self.initial_adapter = saved

    def make_peft_config(self, model: Any) -> Any:
        """Return PEFT's description of a new adapter for `model`."""
        from peft import LoraConfig

        from tuneoff.methods._lora_from_data import describe_beginning
        from tuneoff.methods._lora_targets import (
            check_tied_weight,
            choose_targets,
            find_additional_modules,
            leave_out_additional,
            name_tied_head,
            select_modules,
            shorten_targets,
        )
        from tuneoff.methods._ranks import check_rank

        targets = choose_targets(model, self.lora_target, refusals.explain_linear_only(self))
        if self.changes_base or self.begins_from_data:
            modules = select_modules(model, targets)
            # Of twice as many directions LoRA-GA takes two halves, and EVA gives each layer some.
            times = 2 if self.lora_init in ("lora_ga", "eva") else 1
            check_rank(self.lora_rank, "lora_rank", modules, "lora_target", times)
        additional = find_additional_modules(model, self.additional_target or [])
        names_tied_weight = check_tied_weight(
            model, targets, self.lora_target, additional, self.use_dora
        )
        if names_tied_weight:
            additional = name_tied_head(model, additional)
        leave_out_additional(targets, self.lora_target, additional)
        self.left_out = targets.left_out
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora_rank,
            lora_alpha=self.lora_alpha or 2 * self.lora_rank,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            **shorten_targets(model, targets),
            modules_to_save=additional or None,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            ensure_weight_tying=names_tied_weight,
            **describe_beginning(self),
        )

    # ------------------------------------------------------------ training
    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the shared optimizer; with LoRA+ the B matrices get `lr · loraplus_lr_ratio`; with LoRA-FA PEFT's."""
        from tuneoff.methods import _lora_optimizers

        if self.use_lorafa:
            return _lora_optimizers.make_lorafa(model, experiment)
        if self.loraplus_lr_ratio is None:
            return super().make_optimizer(model, experiment)
        return _lora_optimizers.make_loraplus(
            model, experiment, self.loraplus_lr_ratio, self.loraplus_lr_embedding
        )

    def coverage(self, model: Any) -> float:
        """Return the share of the base weights that have an adapter on them, or train in full beside it."""
        from tuneoff.methods._lora_model import share_of_adapted

        return share_of_adapted(model)

    def facts(self, model: Any) -> dict:
        """Say what `lora_target=all` leaves out, ranks that differ, and what became of a tied weight that was named."""
        from tuneoff.methods import _lora_model

        facts: dict = {"covered_share": self.coverage(model)}
        ranks = _lora_model.count_ranks(model)
        if len(ranks) > 1:
            facts["adapters_by_rank"] = ranks
        if self.warnings:
            facts["warnings"] = self.warnings
        if self.left_out:
            facts["not_adapted"] = self.left_out
        if _lora_model.has_tied_copies(model):
            facts["tied_weights"] = TIED
        if _lora_model.has_tied_adapter(model):
            facts["tied_weights"] = (
                f"{TIED}, by one adapter in both uses; PEFT's own merging would add it twice"
            )
        return facts

    # ------------------------------------------------------------ export
    def weights_to_save(self, model: Any) -> dict[str, Any]:
        """Return the adapter, and the base beside it where that is not the one that was loaded."""
        from tuneoff.methods._lora_export import list_weights_to_save

        has_residual = self.changes_base and not self.pissa_convert
        return list_weights_to_save(model, has_residual or self.create_new_adapter)

    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the adapter, with PiSSA also what it applies to, and with `merged` the model without adapters.

        The facts are the rank of a converted adapter, the size of a residual base, a failed conversion, and what
        merging makes of the logits.
        """
        from tuneoff.methods import _lora_export

        facts: dict = {}
        if self.pissa_convert:
            try:
                _lora_export.save_converted(model, self.initial_adapter, folder)
                facts["converted_rank"] = 2 * self.lora_rank
            except Exception as error:  # the training result must not be lost with the conversion
                facts["conversion_error"] = f"{type(error).__name__}: {error}"
        if "converted_rank" not in facts:
            if self.changes_base:
                facts["residual_base_bytes"] = _lora_export.save_base(model, folder)
            elif self.create_new_adapter:
                facts["merged_base_bytes"] = _lora_export.save_base(model, folder)
            model.save_pretrained(folder)
        if merged:
            facts |= self.export_merged(model, folder)
        return facts

    def read_back(self, model: Any, folder: Path, load_base: LoadBase) -> Any:
        """Load the adapter on the weights that it applies to: those in memory, where they are the same."""
        from tuneoff.methods import _lora_export

        return _lora_export.read_back(model, folder, load_base, self.pissa_init)

    def export_merged(self, model: Any, folder: Path) -> dict:
        """Save the model without adapters; the largest difference that this makes to a logit is a fact."""
        from tuneoff.methods import _lora_export

        return _lora_export.save_merged(model, folder)

    def find_plain_lora_rank(self, model: Any) -> int | None:
        """Return the adapter's own rank, or twice that where it applies to a base without its first components."""
        config = model.peft_config["default"]
        if config.use_dora or config.modules_to_save or self.create_new_adapter:
            return None
        rank = max([config.r, *config.rank_pattern.values()])
        return rank * (2 if self.changes_base else 1)
