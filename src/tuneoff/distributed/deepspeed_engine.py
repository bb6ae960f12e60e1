"""DeepSpeed: gradients and optimizer state split over the ranks (ZeRO-2), the weights too (ZeRO-3).

Its engine steps inside backward, and clips. Outside the engine's own passes ZeRO-3 has a parameter as an empty tensor.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from tuneoff.distributed.fsdp2 import gather_into_whole
from tuneoff.distributed.ranks import Ranks
from tuneoff.distributed.sharding import Sharding, StepSettings

NEVER = 10**9  # steps


class DeepSpeed(Sharding):
    """Split by DeepSpeed's engine, at ZeRO's second or third stage."""

    splits = True

    def __init__(self, ranks: Ranks):
        super().__init__(ranks)
        self.plugin = self.accelerator.state.deepspeed_plugin
        self.engine: Any = None  # from `join` on

    @property
    def splits_weights(self) -> bool:
        """Whether it is ZeRO-3."""
        return self.plugin.zero_stage == 3

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Let transformers load whole weights, which a method prepares; under ZeRO-3 it would split them at once."""
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
        try:
            yield
        finally:
            self.plugin.set_deepspeed_weakref()

    def place(self, model: Any) -> Any:
        """Return the model as it is: the engine brings its parts to the device."""
        return model

    def join(
        self,
        model: Any,
        optimizer: Any,
        settings: StepSettings,
    ) -> tuple[Any, Any]:
        """Return the engine, and an optimizer whose step is the engine's and so does nothing."""
        trained_types = {weight.dtype for weight in model.parameters() if weight.requires_grad}
        trains_bfloat16 = trained_types == {torch.bfloat16}
        self.plugin.deepspeed_config.update(describe_engine(settings, trains_bfloat16))
        with quiet_logger():
            self.engine, stepper = self.accelerator.prepare(model, optimizer)

        def gradient_norm() -> torch.Tensor:
            norm = self.engine.get_global_grad_norm()
            # Not by its truth: on a device that would wait for the step.
            return torch.as_tensor(0.0 if norm is None else norm)

        stepper.optimizer.gradient_norm = gradient_norm
        if hasattr(optimizer, "join_engine"):
            stepper.step = optimizer.join_engine(self.engine.optimizer)
        return self.engine, stepper

    def autocast(self) -> AbstractContextManager:
        """Nothing: the engine casts, as its settings say."""
        return nullcontext()

    @contextmanager
    def without_synchronisation(self, wrapped_model: Any) -> Iterator[None]:
        """Have the engine add gradients up, and take no step."""
        self.accelerator.sync_gradients = False
        try:
            yield
        finally:
            self.accelerator.sync_gradients = True

    # ------------------------------------------------------------ whole, on the first rank
    def gather_parameter(self, parameter: Any) -> Any:
        """Return a copy of the whole parameter in the first rank's host memory, and nothing on the others."""
        with whole_parameter(parameter):
            if self.ranks.first:
                return parameter.detach().cpu().clone()
        return torch.empty(0)

    def gather_model(self, model: Any, make_whole_model: Callable[[], Any]) -> Any:
        """Return a whole model on the first rank, put together one parameter after another."""
        return gather_into_whole(self, model, make_whole_model)

    def gather_optimizer_state(self, optimizer: Any) -> None:
        """Return None: each rank keeps its own part."""
        return

    def rank_state(self, optimizer: Any) -> dict:
        """Return the optimizer's state over this rank's parts of the weights."""
        with self._flat_parts():
            return optimizer.state_dict()

    # ------------------------------------------------------------ split again
    def restore_parameter(self, parameter: Any, whole: Any) -> None:
        """Set a parameter to a whole tensor, the first rank's where it is split."""
        with whole_parameter(parameter, written_by_first=True):
            parameter.data.copy_(whole)

    def restore_optimizer(self, optimizer: Any, state: dict) -> None:
        """Set the optimizer to what `rank_state` gave; the weights it steps are those of the model, restored before."""
        with self._flat_parts():
            optimizer.load_state_dict(state)
        self.engine.optimizer.refresh_fp32_params()

    @contextmanager
    def _flat_parts(self) -> Iterator[None]:
        """Inside, the optimizer's groups hold this rank's flat parts; ZeRO-3 puts them there for its steps alone."""
        if not self.splits_weights:
            yield
            return
        self.engine.optimizer._set_fp32_optimizer_param_groups()
        try:
            yield
        finally:
            self.engine.optimizer._clear_fp32_optimizer_param_groups()


@contextmanager
def whole_parameter(parameter: Any, written_by_first: bool = False) -> Iterator[None]:
    """Inside, a parameter that ZeRO-3 has split is whole; what the first rank writes then reaches all."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter], modifier_rank=0 if written_by_first else None):
        yield


def describe_engine(settings: StepSettings, trains_bfloat16: bool) -> dict[str, Any]:
    """What DeepSpeed's configuration needs beside its stage.

    float32 weights train as they are, under autocast where `mixed_precision` asks for it; bfloat16 weights train as
    they are too, with optimizer states of their type, as in one process. Beside float32 adapters frozen weights of
    bfloat16 stay what they are: DeepSpeed would cast the adapters to them.
    """
    return {
        # Without loaders it cannot know the batch size; left open, accelerate would fill in a clip of 1.
        "train_micro_batch_size_per_gpu": settings.batch_size,
        "gradient_clipping": settings.max_grad_norm or 0.0,
        # A step divides by its label tokens itself.
        "gradient_accumulation_steps": 1,
        "steps_per_print": NEVER,
        "bf16": {
            "enabled": trains_bfloat16,
            "bf16_master_weights_and_grads": trains_bfloat16,
            "bf16_optimizer_states": trains_bfloat16,
        },
        "torch_autocast": {
            "enabled": settings.mixed_precision == "bf16",
            "dtype": "bfloat16",
        },
    }


@contextmanager
def quiet_logger() -> Iterator[None]:
    """Keep DeepSpeed from logging its whole configuration, and every stage of its set-up."""
    import logging

    from deepspeed.utils import logger

    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
