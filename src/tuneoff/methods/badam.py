"""BAdam: Adam on one block of layers at a time (layer), or on a moving share of every weight (ratio); Luo et al. 2024.

Built on the `badam` package. Every override below says which upstream behaviour it mends.
"""
import warnings
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from tuneoff.config import ConfigError, Experiment, Method, Optimizer, at_least, derive, option, register


class Mode(Enum):
    """Which part trains at one time."""
    layer = "layer"
    ratio = "ratio"


class SwitchMode(Enum):
    """Order of the blocks."""
    ascending = "ascending"
    descending = "descending"
    random = "random"
    fixed = "fixed"


class MaskMode(Enum):
    """How a share of a weight is chosen."""
    adjacent = "adjacent"
    scatter = "scatter"


@register
@dataclass
class BAdam(Method):
    """Block coordinate descent with Adam, with LLaMA-Factory's option names."""
    badam_mode: Mode = Mode.layer
    badam_start_block: int | None = at_least(None, 0)
    badam_switch_mode: SwitchMode = SwitchMode.ascending
    badam_switch_interval: int = option(50, "must be at least 1, or -1 to never switch", lambda v: v >= 1 or v == -1)
    badam_update_ratio: float = option(0.05, "must be in (0, 1]", lambda value: 0 < value <= 1)
    badam_mask_mode: MaskMode = MaskMode.adjacent
    badam_include_embedding: bool = False
    badam_include_lm_head: bool = False
    badam_verbose: int = option(0, "must be 0, 1 or 2", lambda value: value in (0, 1, 2))

    def check(self, run: Experiment) -> None:
        """Refuse a fixed block that is not named, and several processes, where the package is silently wrong."""
        if self.badam_switch_mode is SwitchMode.fixed and self.badam_start_block is None:
            raise ConfigError("badam_switch_mode", "fixed", "needs badam_start_block")
        if run.processes > 1:
            raise ConfigError("method", run.method, f"runs in one process, and {run.processes} were launched")
        if self.badam_mode is Mode.ratio and run.optimizer is not Optimizer.adamw:
            raise ConfigError("optimizer", run.optimizer,
                              "must be adamw where badam_mode=ratio, whose sparse Adam is its own")

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
        from tuneoff.models import decoder_layers
        prefix, layers = decoder_layers(model)
        owners = {id(parameter): name for name, parameter in model.named_parameters()}
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings()
        # A tied head is the embeddings: either option opens the one weight.
        opened = {owners[id(embeddings)]: self.badam_include_embedding}
        if head is not None:
            opened[owners[id(head.weight)]] = self.badam_include_lm_head or opened.get(owners[id(head.weight)], False)
        outside = [name for name in owners.values() if not name.startswith(f"{prefix}.")]
        inside = [[f"{prefix}.{index}."] for index in range(len(layers))]
        if self.badam_mode is Mode.ratio:
            return [*inside, [name for name in outside if opened.get(name, True)]]
        first = [owners[id(embeddings)]] if self.badam_include_embedding else []
        last = [name for name in outside if self.badam_include_lm_head and opened.get(name, True) and name not in first]
        found = [block for block in [first, *inside, last] if block]
        if self.badam_start_block is not None and self.badam_start_block >= len(found):
            raise ConfigError("badam_start_block", self.badam_start_block,
                              f"this model has blocks 0 to {len(found) - 1}")
        return found

    @staticmethod
    def _reachable(model: Any, blocks: list[list[str]]) -> set[str]:
        prefixes = tuple(prefix for block in blocks for prefix in block)
        return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}

    def make_optimizer(self, model: Any, run: Experiment) -> Any:
        """Return the package's block (or ratio) optimizer, mended."""
        import badam

        from tuneoff.optimizers import make, parameter_groups
        named = list(model.named_parameters())
        if self.badam_mode is Mode.ratio:
            cls = type("BlockOptimizerRatio", (_Ratio, badam.BlockOptimizerRatio), {})
            groups = parameter_groups(named, run.lr, run.weight_decay)
            return cls(groups, self, run)
        cls = type("BlockOptimizer", (_Blocks, badam.BlockOptimizer), {})
        # One group over all: upstream takes rate and decay from the first, and makes the active ones itself.
        everything = {"params": [parameter for _, parameter in named if parameter.requires_grad], "lr": run.lr,
                      "weight_decay": run.weight_decay}
        return cls(make([everything], run), named, self.blocks(model), self, derive(run.seed, "blocks"))

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Every block that the run may reach, not only the active one."""
        blocks = self.blocks(model)
        stays = self.badam_switch_interval == -1 or self.badam_switch_mode is SwitchMode.fixed
        if self.badam_mode is Mode.layer and stays:
            blocks = [blocks[optimizer.active_block]]
        return self._reachable(model, blocks)

    def facts(self, model: Any) -> dict:
        """Name what never trains, and what float32 weights cost."""
        train = self._reachable(model, self.blocks(model))
        facts: dict = {"never_trained": [name for name, _ in model.named_parameters() if name not in train]}
        if self.badam_mode is Mode.layer and next(model.parameters()).element_size() == 4:
            facts["float32_weights"] = ("the active block is held twice in float32; pure_bf16=true, as in the paper, "
                                        "halves the weights and keeps a float32 copy of the active block alone")
        return facts


class _Blocks:
    """In front of `badam.BlockOptimizer`: exact switching, own random order, decay groups, a complete state."""
    base_optimizer: Any
    global_step: int
    current_block_idx: int
    param_groups: list[dict]

    def __init__(self, base_optimizer: Any, named: list, blocks: list[list[str]], options: BAdam, seed: int):
        import torch
        self.options, self.order = options, list[int]()
        self.generator = torch.Generator().manual_seed(seed)
        self.block_num = len(blocks)
        start, mode = options.badam_start_block, options.badam_switch_mode
        if start is None and mode is SwitchMode.random:
            start = self._draw()
        with warnings.catch_warnings():  # upstream lists every float32 parameter; `facts` says it in one line
            warnings.filterwarnings("ignore", message="BAdam expect model")
            super().__init__(base_optimizer, named, blocks, start_block=start, switch_mode=mode.name,  # type: ignore[call-arg]
                             switch_block_every=options.badam_switch_interval, verbose=options.badam_verbose)
        del self.__dict__["state_dict"]  # upstream hides ours behind the base optimizer's, which lacks the cycle

    def _draw(self) -> int:
        """The next block of a random order without repetition, from a generator of our own (upstream: the global)."""
        import torch
        if not self.order:
            self.order = torch.randperm(self.block_num, generator=self.generator).tolist()
        return self.order.pop()

    def _update_active_block_idx(self) -> None:
        if self.options.badam_switch_mode is SwitchMode.random:
            self.current_block_idx = self._draw()
        else:
            super()._update_active_block_idx()  # type: ignore[misc]

    @property
    def refresh_interval(self) -> int:
        """Steps a block, 0 when there is no switch."""
        return max(0, self.options.badam_switch_interval)

    @refresh_interval.setter
    def refresh_interval(self, steps: int) -> None:
        self.options = replace(self.options, badam_switch_interval=steps)

    def extra_state_tensors(self) -> list:
        """What the base optimizer keeps of the active block: Adam's state and the float32 copies."""
        return [*self.base_optimizer.state.values(), *self.param_idx2hp.values()]  # type: ignore[attr-defined]

    def costly_phases(self) -> list[int]:
        """Blocks of which one's turn needs the most memory; none where the block never changes.

        Decoder layers are alike, and the earlier one is, the longer is the backward pass. So: the first layer, and
        embeddings and head, which may be larger.
        """
        first_layer = int(self.options.badam_include_embedding)
        last = [self.block_num - 1] if self.options.badam_include_lm_head else []
        return sorted({*range(first_layer + 1), *last}) if self._moves() else []

    def enter_phase(self, block: int) -> None:
        """Switch to `block` now."""
        self.current_block_idx = block
        self.switch_trainable_params()

    def _moves(self) -> bool:
        return self.options.badam_switch_interval > 0 and self.options.badam_switch_mode is not SwitchMode.fixed

    def step(self, closure: Any = None) -> None:
        """One Adam step on the active block, then a switch after exactly `badam_switch_interval` steps.

        Upstream gives the first block one step fewer, switches always at -1, and empties CUDA's cache each step.
        """
        self.step_single_gpu()  # type: ignore[attr-defined]
        interval = self.options.badam_switch_interval
        if interval > 0 and self.global_step % interval == 0:
            self.switch_trainable_params()

    def switch_trainable_params(self, verbose: int | None = None) -> None:
        """As upstream, but silent at verbosity 0."""
        self.active_block = self.current_block_idx
        super().switch_trainable_params(self.options.badam_verbose)  # type: ignore[misc]

    def _switch_trainable_params_single_gpu(self, verbose: int | None = 1) -> None:
        """As upstream, but decay is the run's and for matrices alone (upstream: 0.01, and for norms too)."""
        from tuneoff.optimizers import decays
        super()._switch_trainable_params_single_gpu(verbose)  # type: ignore[misc]
        copies = list(self.param_idx2hp.values())  # type: ignore[attr-defined]
        decayed, plain = self.base_optimizer.param_groups
        decayed.update(params=[copy for copy in copies if decays(copy)],
                       weight_decay=self.param_groups[0]["weight_decay"])
        plain.update(params=[copy for copy in copies if not decays(copy)], weight_decay=0.0)
        self.base_optimizer.param_groups = [group for group in (decayed, plain) if group["params"]]

    def state_dict(self) -> dict:
        """Adam's state and float32 copies of the active block, and where the cycle stands (upstream: Adam's alone)."""
        return {"base": self.base_optimizer.state_dict(), "groups": [
                    {key: value for key, value in group.items() if key != "params"} for group in self.param_groups],
                "copies": list(self.param_idx2hp.values()), "global_step": self.global_step,  # type: ignore[attr-defined]
                "active_block": self.active_block, "next_block": self.current_block_idx, "order": list(self.order),
                "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict) -> None:
        import torch
        self.current_block_idx = state_dict["active_block"]
        self.switch_trainable_params()
        self.base_optimizer.load_state_dict(state_dict["base"])
        with torch.no_grad():
            for copy, saved in zip(self.param_idx2hp.values(), state_dict["copies"], strict=True):  # type: ignore[attr-defined]
                copy.copy_(saved)
        for group, saved in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(saved)
        self.global_step, self.current_block_idx = state_dict["global_step"], state_dict["next_block"]
        self.order = list(state_dict["order"])
        self.generator.set_state(state_dict["generator"])


class _Ratio:
    """In front of `badam.BlockOptimizerRatio`: its sparse Adam and its adjacent mask, with masks that hold a cycle.

    Upstream needs an untied head, cannot set its interval, draws seeds and masks from the global generator, moves
    the mask at every micro-batch of an accumulation, and in scatter mode changes it one step before the state.
    """
    state: dict
    param_groups: list[dict]

    def __init__(self, groups: list[dict], options: BAdam, run: Experiment):
        import torch

        from tuneoff.optimizers import BETAS, EPS
        self.options, self.seed = options, derive(run.seed, "blocks")
        self.global_step, self.masks = 0, dict[Any, Any]()
        # Optimizer's own __init__: upstream's is where the tied head crashes and the global generator is drawn from.
        torch.optim.Optimizer.__init__(self, groups, {"lr": run.lr, "betas": BETAS, "eps": EPS})  # type: ignore[arg-type]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self._sparsify)

    @property
    def refresh_interval(self) -> int:
        """Steps a mask, 0 when it never moves."""
        return max(0, self.options.badam_switch_interval)

    @refresh_interval.setter
    def refresh_interval(self, steps: int) -> None:
        self.options = replace(self.options, badam_switch_interval=steps)

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
            size, options = parameter.numel(), self.options
            # Small tensors train whole, as upstream's preserve_threshold means to.
            ratio = options.badam_update_ratio if size >= 100 else 1.0
            count, interval = max(1, int(size * ratio)), options.badam_switch_interval
            offset = (self.global_step // interval if interval > 0 else 0) * count % size
            chosen = (torch.arange(offset, offset + count) % size)
            if options.badam_mask_mode is MaskMode.scatter:
                chosen = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))[chosen]
            places = torch.stack(torch.unravel_index(chosen.sort().values.to(parameter.device), parameter.shape))
            self.masks[parameter.shape] = torch.sparse_coo_tensor(
                places, parameter.new_ones(count), parameter.shape, is_coalesced=True, check_invariants=False)
        return self.masks[parameter.shape]

    def step(self, closure: Any = None) -> None:
        """One Adam step on the masked entries; at the interval's end the mask moves and the state restarts."""
        import torch
        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        self.global_step += 1
        interval = self.options.badam_switch_interval
        if interval > 0 and self.global_step % interval == 0:
            self.state.clear()
            self.masks.clear()

    def _step_group(self, group: dict) -> None:
        import torch
        params = [parameter for parameter in group["params"] if parameter.grad is not None]
        grads = [parameter.grad for parameter in params]
        states = [self.state[parameter] for parameter in params]
        for state, grad in zip(states, grads, strict=True):
            if not state:
                zeros = torch.zeros_like(grad._values())
                state.update(step=0, exp_avg=zeros, exp_avg_sq=zeros.clone())
            state["step"] += 1
        for parameter, grad in zip(params, grads, strict=True):
            if group["weight_decay"]:  # upstream has none; decay what this step may change
                parameter.add_(_masked(parameter, grad) * (-group["lr"] * group["weight_decay"]))
        self._sparse_adam(params, grads, [state["exp_avg"] for state in states],  # type: ignore[attr-defined]
                          [state["exp_avg_sq"] for state in states], [state["step"] for state in states],
                          eps=group["eps"], beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
                          maximize=False)

    def state_dict(self) -> dict:
        """As every optimizer's, and the step that the mask follows from."""
        import torch
        return {**torch.optim.Optimizer.state_dict(self), "global_step": self.global_step}  # type: ignore[arg-type]

    def load_state_dict(self, state_dict: dict) -> None:
        import torch
        rest = {key: value for key, value in state_dict.items() if key != "global_step"}
        torch.optim.Optimizer.load_state_dict(self, rest)  # type: ignore[arg-type]
        self.global_step = state_dict["global_step"]
        self.masks.clear()


def _masked(dense: Any, mask: Any) -> Any:
    """`dense.sparse_mask(mask)` that shares the mask's indices: copies of 16 bytes an entry would outweigh all else."""
    import torch
    places = mask._indices()
    return torch.sparse_coo_tensor(places, dense[tuple(places)], mask.shape, is_coalesced=True, check_invariants=False)
