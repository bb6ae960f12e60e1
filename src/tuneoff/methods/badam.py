"""BAdam: Adam on one block of layers at a time (layer), or on a moving share of every weight (ratio); Luo et al. 2024.

Built on the `badam` package. `_badam_layer.py` and `_badam_ratio.py` say of every override what it mends.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from tuneoff.config import BASIC, ConfigError, Experiment, Optimizer, at_least, derive_seed, option
from tuneoff.methods import TIED, Method, register
from tuneoff.methods._badam_choices import MaskMode, Mode, SwitchMode

# The package lists every float32 parameter; `facts` has one line.
warnings.filterwarnings("ignore", "BAdam expect model")


@register
@dataclass
class BAdam(Method):
    """Block coordinate descent with Adam. The option names are LLaMA-Factory's."""

    packages = ("badam",)
    own_family = "block"
    elsewhere: ClassVar[dict[str, str]] = {
        "use_badam=true": "badam",
        "badam_mode=ratio": "badam_ratio",
    }
    foreign_notes: ClassVar[dict[str, str]] = {
        "badam": "BAdam there ignores schedule and weight decay, and its first block is a step short; here all count"
    }
    foreign_dtype: ClassVar[str | None] = "bfloat16"
    optimizers = BASIC
    badam_mode: Mode = Mode.layer
    """What trains at one time: layer, a block of layers; ratio, a share of every weight."""
    badam_start_block: int | None = at_least(None, 0)
    """The first block, counted from 0; null begins where the order begins."""
    badam_switch_mode: SwitchMode = SwitchMode.ascending
    """The order of the blocks; fixed stays at badam_start_block."""
    badam_switch_interval: int = option(
        50, "must be at least 1, or -1 to never switch", lambda value: value >= 1 or value == -1
    )
    """Optimizer steps until the next block, or the next mask in ratio mode; -1 never switches."""
    badam_update_ratio: float = option(0.05, "must be in (0, 1]", lambda value: 0 < value <= 1)
    """The share of each weight that trains at one time in ratio mode."""
    badam_mask_mode: MaskMode = MaskMode.adjacent
    """How that share is chosen: adjacent takes entries side by side, scatter anywhere in the weight."""
    badam_include_embedding: bool = False
    """Train the input embeddings as well."""
    badam_include_lm_head: bool = False
    """Train the output head as well."""
    badam_verbose: int = option(0, "must be 0, 1 or 2", lambda value: value in (0, 1, 2))
    """What the package prints: 0 nothing, 1 the names of each new block, 2 of each weight in it."""

    def check(self, experiment: Experiment) -> None:
        """Refuse a fixed block that is not named, and several processes, where the package is silently wrong."""
        if self.badam_switch_mode is SwitchMode.fixed and self.badam_start_block is None:
            raise ConfigError("badam_switch_mode", "fixed", "needs badam_start_block")
        self._check_unused()
        self._check_processes(experiment)
        if self.badam_mode is Mode.ratio and experiment.optimizer is not Optimizer.adamw:
            raise ConfigError(
                "optimizer",
                experiment.optimizer,
                "must be adamw where badam_mode=ratio, whose Adam is its own",
            )

    def _check_processes(self, experiment: Experiment) -> None:
        """Refuse several processes, but for layer mode under ZeRO-3, whose engine knows of the blocks."""
        if experiment.num_processes == 1:
            return
        reason = "the package keeps no common block over several processes, and is silently wrong"
        if self.badam_mode is Mode.layer:
            if experiment.sharding == "zero3":
                return
            reason += "; conf/accelerate/zero3.yaml does it"
        allowed = f"must be 1 where method={experiment.method}: {reason}"
        raise ConfigError("num_processes", experiment.num_processes, allowed)

    def _check_unused(self) -> None:
        """Refuse options of the other mode."""
        if self.badam_mode is Mode.layer:
            self.refuse_unused("badam_update_ratio", "needs badam_mode=ratio")
            self.refuse_unused("badam_mask_mode", "needs badam_mode=ratio")
        else:
            self.refuse_unused("badam_start_block", "needs badam_mode=layer")
            self.refuse_unused("badam_switch_mode", "needs badam_mode=layer")
            self.refuse_unused("badam_verbose", "needs badam_mode=layer")

    def prepare(self, model: Any) -> Any:
        """Freeze what never trains: embeddings and head, and in layer mode the final norm, unless included.

        Raises:
            ConfigError: a start block that the model does not have.
        """
        ever_trained = _names_in(model, self.find_blocks(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in ever_trained)
        return model

    def find_blocks(self, model: Any) -> list[list[str]]:
        """Return each block as prefixes of parameter names.

        The decoder layers are the blocks. Around them come the embeddings and the head where they are included. In
        ratio mode, where blocks have no order, the last block holds all that lies outside the layers.

        Raises:
            ConfigError: a start block that the model does not have.
        """
        from tuneoff.models.layers import find_decoder_layers

        path, layers = find_decoder_layers(model)
        inside = [[f"{path}.{index}."] for index in range(len(layers))]
        outside = self._find_outside(model, path)
        if self.badam_mode is Mode.ratio:
            return [*inside, outside]
        first = []
        if self.badam_include_embedding:
            first.append(_find_weight_name(model, model.get_input_embeddings()))
        last = []
        if self.badam_include_lm_head:
            last = [name for name in outside if name not in first]
        blocks = [block for block in (first, *inside, last) if block]
        self._check_start_block(len(blocks))
        return blocks

    def _find_outside(self, model: Any, layers_path: str) -> list[str]:
        """Return the parameters outside the layers, without embeddings and head where they are not included."""
        embeddings = _find_weight_name(model, model.get_input_embeddings())
        head = _find_weight_name(model, model.get_output_embeddings())
        included = set()  # a tied head is the embeddings: either option includes the one weight
        if self.badam_include_embedding:
            included.add(embeddings)
        if self.badam_include_lm_head:
            included.add(head)
        excluded = {embeddings, head} - included
        outside = []
        for name, _ in model.named_parameters():
            if not name.startswith(f"{layers_path}.") and name not in excluded:
                outside.append(name)
        return outside

    def _check_start_block(self, count: int) -> None:
        """Refuse a start block beyond the `count` blocks that there are."""
        start = self.badam_start_block
        if start is not None and start >= count:
            allowed = f"this model has blocks 0 to {count - 1}"
            raise ConfigError("badam_start_block", start, allowed)

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the package's block (or ratio) optimizer, mended."""
        from tuneoff.models.optimizers import build_optimizer, parameter_groups

        named = list(model.named_parameters())
        lr = experiment.lr
        decay = experiment.weight_decay
        seed = derive_seed(experiment.seed, "blocks")
        if self.badam_mode is Mode.ratio:
            from tuneoff.methods._badam_ratio import BlockOptimizerRatio

            return BlockOptimizerRatio(
                parameter_groups(named, lr, decay),
                lr=lr,
                update_ratio=self.badam_update_ratio,
                is_scattered=self.badam_mask_mode is MaskMode.scatter,
                switch_interval=self.badam_switch_interval,
                seed=seed,
            )
        if experiment.sharding == "zero3":
            from tuneoff.methods._badam_zero3 import Zero3BlockOptimizer as BlockOptimizer
        else:
            from tuneoff.methods._badam_layer import BlockOptimizer

        # One group over all: upstream takes rate and decay from the first, and makes the active ones itself.
        trainable = [parameter for _, parameter in named if parameter.requires_grad]
        group = {"params": trainable, "lr": lr, "weight_decay": decay}
        blocks = self.find_blocks(model)
        return BlockOptimizer(
            build_optimizer([group], experiment, model),
            named,
            blocks,
            start_block=self.badam_start_block,
            switch_mode=self.badam_switch_mode.name,
            switch_interval=self.badam_switch_interval,
            costly_blocks=self._find_costly_blocks(len(blocks)),
            verbose=self.badam_verbose,
            seed=seed,
        )

    def _find_costly_blocks(self, count: int) -> list[int]:
        """Return the blocks of which one's turn needs the most memory; none where the block never changes.

        They are the first layer, and the embeddings and the head where they are included.
        """
        if not self._switches():
            return []
        costly = {0}
        if self.badam_include_embedding:
            costly.add(1)
        if self.badam_include_lm_head:
            costly.add(count - 1)
        return sorted(costly)

    def _switches(self) -> bool:
        """Whether the run trains more than one block."""
        return self.badam_switch_interval > 0 and self.badam_switch_mode is not SwitchMode.fixed

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Return the parameters of every block that the run may reach, not only of the active one."""
        blocks = self.find_blocks(model)
        if self.badam_mode is Mode.layer and not self._switches():
            blocks = [blocks[optimizer.active_block]]
        return _names_in(model, blocks)

    def count_trainable(self, model: Any, optimizer: Any) -> int:
        """Return how many weights the next step changes: the active block, or one mask."""
        return optimizer.count_trainable()

    def count_reached(self, model: Any, optimizer: Any, steps: float) -> int:
        """Return how many weights the blocks or masks held that had a turn, or have one within `steps`."""
        return optimizer.count_reached(steps)

    def warn_of_budget(self, optimizer: Any, steps: float) -> list[str]:
        """Say where the budget ends before each block, or each entry of a weight, had its turn."""
        turns = optimizer.turns_in_cycle()
        interval = optimizer.refresh_interval
        if turns == 1 or not interval or steps >= turns * interval:
            return []
        kind = "blocks" if self.badam_mode is Mode.layer else "masks"
        missed = turns - math.ceil(steps / interval)
        warning = (
            f"badam_switch_interval={interval}: {turns} {kind} take {turns * interval} steps, "
            f"and the budget has {steps:.12g}; {missed} of them never train"
        )
        if steps >= turns:
            warning += f", and badam_switch_interval={steps // turns:.12g} would reach all"
        return [warning]

    def final_facts(self, model: Any, optimizer: Any) -> dict:
        """Say what the run has reached, and what it has not."""
        from tuneoff.models.layers import count_all_weights

        names = self.ever_trained(model, optimizer)
        if self.badam_mode is Mode.layer:
            names = set(optimizer.find_reached_names())
        total = count_all_weights(model)
        every_name = [name for name, _ in model.named_parameters()]
        return {
            "covered_share": optimizer.count_reached(0) / total,
            "never_trained": [name for name in every_name if name not in names],
        }

    def coverage(self, model: Any) -> float:
        """Return the share of every block that the run may reach, not only of the active one."""
        from tuneoff.models.layers import share_of_weights

        if self.badam_mode is Mode.layer and not self._switches():
            return super().coverage(model)
        return share_of_weights(model, _names_in(model, self.find_blocks(model)))

    def facts(self, model: Any) -> dict:
        """Name what never trains, and say whether a tied weight does and what float32 weights cost."""
        from tuneoff.models.layers import has_tied_head

        ever_trained = _names_in(model, self.find_blocks(model))
        never_trained = []
        for name, _ in model.named_parameters():
            if name not in ever_trained:
                never_trained.append(name)
        facts: dict = {**super().facts(model), "never_trained": never_trained}
        embeddings = _find_weight_name(model, model.get_input_embeddings())
        if has_tied_head(model) and embeddings in ever_trained:
            facts["tied_weights"] = TIED
        is_float32 = next(model.parameters()).element_size() == 4
        if self.badam_mode is Mode.layer and is_float32:
            facts["float32_weights"] = (
                "the active block is held twice; pure_bf16=true, as in the paper, halves the "
                "weights and keeps a float32 copy of the active block alone"
            )
        return facts


def _find_weight_name(model: Any, module: Any) -> str:
    """Return the name of a module's weight among the model's parameters; empty where it has none."""
    weight = getattr(module, "weight", None)
    for name, parameter in model.named_parameters():
        if parameter is weight:
            return name
    return ""


def _names_in(model: Any, blocks: list[list[str]]) -> set[str]:
    """Return the names of the parameters that lie in one of the blocks."""
    prefixes = tuple(prefix for block in blocks for prefix in block)
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
