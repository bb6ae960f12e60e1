"""BAdam: Adam on one block of layers at a time (layer), or on a moving share of every weight (ratio); Luo et al. 2024.

Built on the `badam` package. Every override below says which upstream behaviour it mends.
"""

import warnings
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from tuneoff.config import ConfigError, Experiment, Optimizer, at_least, derive_seed, option
from tuneoff.methods import Method, register

warnings.filterwarnings(
    "ignore", "BAdam expect model"
)  # it lists every float32 parameter; `facts` has one line
# What trains at one time; the order of the blocks; how a share of a weight is chosen.
Mode = Enum("Mode", {"layer": "layer", "ratio": "ratio"})
SwitchMode = Enum(
    "SwitchMode",
    {"ascending": "ascending", "descending": "descending", "random": "random", "fixed": "fixed"},
)
MaskMode = Enum("MaskMode", {"adjacent": "adjacent", "scatter": "scatter"})


@register
@dataclass
class BAdam(Method):
    """Block coordinate descent with Adam, with LLaMA-Factory's option names."""

    packages = ("badam",)
    badam_mode: Mode = Mode.layer
    badam_start_block: int | None = at_least(None, 0)
    badam_switch_mode: SwitchMode = SwitchMode.ascending
    badam_switch_interval: int = option(
        50, "must be at least 1, or -1 to never switch", lambda v: v >= 1 or v == -1
    )
    badam_update_ratio: float = option(0.05, "must be in (0, 1]", lambda value: 0 < value <= 1)
    badam_mask_mode: MaskMode = MaskMode.adjacent
    badam_include_embedding: bool = False
    badam_include_lm_head: bool = False
    badam_verbose: int = option(0, "must be 0, 1 or 2", lambda value: value in (0, 1, 2))

    def check(self, experiment: Experiment) -> None:
        """Refuse a fixed block that is not named, and several processes, where the package is silently wrong."""
        if self.badam_switch_mode is SwitchMode.fixed and self.badam_start_block is None:
            raise ConfigError("badam_switch_mode", "fixed", "needs badam_start_block")
        if experiment.num_processes > 1:
            raise ConfigError(
                "num_processes",
                experiment.num_processes,
                f"must be 1 where method={experiment.method}: the package "
                "keeps no common block over several processes, and is silently wrong",
            )
        if self.badam_mode is Mode.ratio and experiment.optimizer is not Optimizer.adamw:
            raise ConfigError(
                "optimizer",
                experiment.optimizer,
                "must be adamw where badam_mode=ratio, whose Adam is its own",
            )

    def prepare(self, model: Any) -> Any:
        """Freeze what never trains (embeddings, head and, in layer mode, the final norm, unless included)."""
        train = self._reachable(model, self.blocks(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in train)
        return model

    def blocks(self, model: Any) -> list[list[str]]:
        """Prefixes of parameter names by block: the decoder layers, around them embeddings and head where included.

        Raises:
            ConfigError: a start block the model does not have.
        """
        from tuneoff.models.layers import find_decoder_layers

        prefix, layers = find_decoder_layers(model)
        owners = {id(parameter): name for name, parameter in model.named_parameters()}
        embeddings = owners[id(model.get_input_embeddings().weight)]
        head = owners.get(id(getattr(model.get_output_embeddings(), "weight", None)))
        # A tied head is the embeddings: either option opens the one weight.
        opened = [self.badam_include_embedding and embeddings, self.badam_include_lm_head and head]
        outside = [
            name
            for name in owners.values()
            if not name.startswith(f"{prefix}.")
            and (name in opened or name not in (embeddings, head))
        ]
        inside = [[f"{prefix}.{index}."] for index in range(len(layers))]
        if self.badam_mode is Mode.ratio:
            return [*inside, outside]
        first = [embeddings] if self.badam_include_embedding else []
        last = [name for name in outside if self.badam_include_lm_head and name not in first]
        start, found = self.badam_start_block, [block for block in [first, *inside, last] if block]
        if start is not None and start >= len(found):
            raise ConfigError(
                "badam_start_block", start, f"this model has blocks 0 to {len(found) - 1}"
            )
        return found

    @staticmethod
    def _reachable(model: Any, blocks: list[list[str]]) -> set[str]:
        prefixes = tuple(prefix for block in blocks for prefix in block)
        return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the package's block (or ratio) optimizer, mended."""
        import badam

        from tuneoff.models.optimizers import build_optimizer, parameter_groups

        named = list(model.named_parameters())
        if self.badam_mode is Mode.ratio:
            cls = type("BlockOptimizerRatio", (_Ratio, badam.BlockOptimizerRatio), {})
            return cls(
                parameter_groups(named, experiment.lr, experiment.weight_decay), self, experiment
            )
        cls = type("BlockOptimizer", (_Blocks, badam.BlockOptimizer), {})
        # One group over all: upstream takes rate and decay from the first, and makes the active ones itself.
        params = [parameter for _, parameter in named if parameter.requires_grad]
        base = build_optimizer(
            [{"params": params, "lr": experiment.lr, "weight_decay": experiment.weight_decay}],
            experiment,
        )
        return cls(base, named, self.blocks(model), self, derive_seed(experiment.seed, "blocks"))

    def _moves(self) -> bool:
        return self.badam_switch_interval > 0 and self.badam_switch_mode is not SwitchMode.fixed

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Every block that the run may reach, not only the active one."""
        blocks = self.blocks(model)
        if self.badam_mode is Mode.layer and not self._moves():
            blocks = [blocks[optimizer.active_block]]
        return self._reachable(model, blocks)

    def facts(self, model: Any) -> dict:
        """Name what never trains, and what float32 weights cost."""
        train = self._reachable(model, self.blocks(model))
        facts: dict = {
            "never_trained": [name for name, _ in model.named_parameters() if name not in train]
        }
        if self.badam_mode is Mode.layer and next(model.parameters()).element_size() == 4:
            facts["float32_weights"] = (
                "the active block is held twice; pure_bf16=true, as in the paper, halves the "
                "weights and keeps a float32 copy of the active block alone"
            )
        return facts


class _Cycle:
    """What both optimizers share: the steps after which what trains changes."""

    options: BAdam
    global_step: int
    param_groups: list[dict]

    @property
    def refresh_interval(self) -> int:
        """Steps a block or a mask, 0 where it stays."""
        return max(0, self.options.badam_switch_interval)

    @refresh_interval.setter
    def refresh_interval(self, steps: int) -> None:
        self.options = replace(self.options, badam_switch_interval=steps)


class _Blocks(_Cycle):
    """In front of `badam.BlockOptimizer`: exact switching, own random order, decay groups, a complete state."""

    base_optimizer: Any
    current_block_idx: int
    param_idx2hp: dict[int, Any]  # float32 copies of the active block

    def __init__(
        self, base_optimizer: Any, named: list, blocks: list[list[str]], options: BAdam, seed: int
    ):
        import torch

        self.options, self.order, self.block_num = options, list[int](), len(blocks)
        self.generator = torch.Generator().manual_seed(seed)
        start, mode = options.badam_start_block, options.badam_switch_mode
        if start is None and mode is SwitchMode.random:
            self._update_active_block_idx()
            start = self.current_block_idx
        super().__init__(
            base_optimizer,
            named,
            blocks,
            start_block=start,
            switch_mode=mode.name,  # type: ignore
            switch_block_every=options.badam_switch_interval,
            verbose=options.badam_verbose,
        )
        del self.__dict__[
            "state_dict"
        ]  # upstream hides ours behind the base optimizer's, which lacks the cycle

    def _update_active_block_idx(self) -> None:
        """As upstream, but a random order (each block once) is drawn from a generator of our own, not the global."""
        if self.options.badam_switch_mode is not SwitchMode.random:
            super()._update_active_block_idx()  # type: ignore[misc]
            return
        import torch

        if not self.order:
            self.order = torch.randperm(self.block_num, generator=self.generator).tolist()
        self.current_block_idx = self.order.pop()

    def extra_state_tensors(self) -> list:
        """What the base optimizer keeps of the active block: Adam's state and the float32 copies."""
        return [*self.base_optimizer.state.values(), *self.param_idx2hp.values()]

    def costly_phases(self) -> list[int]:
        """Blocks of which one's turn needs the most memory: the first layer, and embeddings and head where included."""
        last = [self.block_num - 1] if self.options.badam_include_lm_head else []
        return (
            sorted({*range(1 + self.options.badam_include_embedding), *last})
            if self.options._moves()
            else []
        )

    def enter_phase(self, block: int) -> None:
        """Switch to `block` now."""
        self.current_block_idx = block
        self.switch_trainable_params()

    def step(self, closure: Any = None) -> None:
        """As upstream, but each block gets exactly its interval, the first too, and CUDA's cache is left as it is."""
        self.step_single_gpu()  # type: ignore[attr-defined]
        if self.refresh_interval and self.global_step % self.refresh_interval == 0:
            self.switch_trainable_params()

    def switch_trainable_params(self, verbose: int | None = None) -> None:
        """As upstream, but silent at verbosity 0."""
        self.active_block = self.current_block_idx
        super().switch_trainable_params(self.options.badam_verbose)  # type: ignore[misc]

    def _switch_trainable_params_single_gpu(self, verbose: int | None = 1) -> None:
        """As upstream, but decay is the run's and for matrices alone (upstream: 0.01, and for norms too)."""
        from tuneoff.models.optimizers import takes_weight_decay

        super()._switch_trainable_params_single_gpu(verbose)  # type: ignore[misc]
        halves, decay = self.base_optimizer.param_groups, self.param_groups[0]["weight_decay"]
        for half, matrices in zip(halves, (True, False), strict=True):
            half.update(
                params=[
                    copy
                    for copy in self.param_idx2hp.values()
                    if takes_weight_decay(copy) is matrices
                ],
                weight_decay=decay if matrices else 0.0,
            )
        self.base_optimizer.param_groups = [half for half in halves if half["params"]]

    def state_dict(self) -> dict:
        """Adam's state and float32 copies of the active block, and where the cycle stands (upstream: Adam's alone)."""
        return {
            "base": self.base_optimizer.state_dict(),
            "group": {**self.param_groups[0], "params": []},
            "copies": list(self.param_idx2hp.values()),
            "global_step": self.global_step,
            "active_block": self.active_block,
            "next_block": self.current_block_idx,
            "order": list(self.order),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where `state_dict` was taken, in the middle of a block; the model's own weights are loaded already."""
        self.current_block_idx = state_dict["active_block"]
        self.switch_trainable_params()
        self.base_optimizer.load_state_dict(state_dict["base"])
        for copy, saved in zip(self.param_idx2hp.values(), state_dict["copies"], strict=True):
            copy.data.copy_(saved)
        self.param_groups[0].update(state_dict["group"], params=self.param_groups[0]["params"])
        self.global_step, self.current_block_idx, self.order = (
            state_dict[key] for key in ("global_step", "next_block", "order")
        )
        self.generator.set_state(state_dict["generator"])


class _Ratio(_Cycle):
    """In front of `badam.BlockOptimizerRatio`: its sparse Adam and its adjacent mask, with masks that hold a cycle.

    Upstream needs an untied head, cannot set its interval, draws seeds and masks from the global generator, moves
    the mask at every micro-batch of an accumulation, and in scatter mode changes it one step before the state.
    """

    state: dict

    def __init__(self, groups: list[dict], options: BAdam, experiment: Experiment):
        import torch

        from tuneoff.models.optimizers import BETAS, EPS

        self.options, self.seed = options, derive_seed(experiment.seed, "blocks")
        self.global_step, self.masks = 0, dict[Any, Any]()
        # Optimizer's own __init__: upstream's is where the tied head crashes and the global generator is drawn from.
        defaults = {"lr": experiment.lr, "betas": BETAS, "eps": EPS}
        torch.optim.Optimizer.__init__(self, groups, defaults)  # type: ignore[arg-type]
        for parameter in (
            parameter for group in self.param_groups for parameter in group["params"]
        ):
            parameter.register_post_accumulate_grad_hook(self._sparsify)

    def extra_state_tensors(self) -> list:
        """The masks, which stay until they move."""
        return list(self.masks.values())

    def _sparsify(self, parameter: Any) -> None:
        """Replace a dense gradient by its masked entries; a second micro-batch adds into the same entries."""
        parameter.grad = _masked(parameter.grad, self._mask(parameter))

    def _mask(self, parameter: Any) -> Any:
        """A coalesced sparse tensor of ones, one for all weights of a shape, until the cycle ends."""
        import torch

        if parameter.shape not in self.masks:
            size, options, interval = parameter.numel(), self.options, self.refresh_interval
            # Small tensors train whole, as upstream's preserve_threshold means to.
            count = max(1, int(size * options.badam_update_ratio)) if size >= 100 else size
            offset = (self.global_step // interval if interval else 0) * count % size
            chosen = torch.arange(offset, offset + count) % size
            if options.badam_mask_mode is MaskMode.scatter:
                chosen = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))[
                    chosen
                ]
            places = torch.stack(
                torch.unravel_index(chosen.sort().values.to(parameter.device), parameter.shape)
            )
            self.masks[parameter.shape] = torch.sparse_coo_tensor(
                places,
                parameter.new_ones(count),
                parameter.shape,
                is_coalesced=True,
                check_invariants=False,
            )
        return self.masks[parameter.shape]

    def step(self, closure: Any = None) -> None:
        """One Adam step on the masked entries; at the interval's end the mask moves and the state restarts."""
        import torch

        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        self.global_step += 1
        if self.refresh_interval and self.global_step % self.refresh_interval == 0:
            self.state.clear()
            self.masks.clear()

    def _step_group(self, group: dict) -> None:
        params = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in params:
            state, values = self.state[parameter], parameter.grad._values()
            if not state:
                state.update(
                    step=0,
                    exp_avg=values.new_zeros(len(values)),
                    exp_avg_sq=values.new_zeros(len(values)),
                )
            state["step"] += 1
            if group["weight_decay"]:  # upstream has none; decay what this step may change
                parameter.add_(
                    _masked(parameter, parameter.grad) * (-group["lr"] * group["weight_decay"])
                )
        first, second, steps = (
            [self.state[parameter][key] for parameter in params]
            for key in ("exp_avg", "exp_avg_sq", "step")
        )
        self._sparse_adam(  # type: ignore[attr-defined]
            params,
            [parameter.grad for parameter in params],
            first,
            second,
            steps,
            eps=group["eps"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            maximize=False,
        )

    def state_dict(self) -> dict:
        """As every optimizer's, and the step that the mask follows from."""
        return {**super().state_dict(), "global_step": self.global_step}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict) -> None:
        """As every optimizer's; the mask is made anew from the step."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})  # type: ignore[misc]
        self.global_step = state_dict["global_step"]
        self.masks.clear()


def _masked(dense: Any, mask: Any) -> Any:
    """`dense.sparse_mask(mask)` that shares the mask's indices: copies of 16 bytes an entry would outweigh all else."""
    import torch

    places = mask._indices()
    return torch.sparse_coo_tensor(
        places, dense[tuple(places)], mask.shape, is_coalesced=True, check_invariants=False
    )
