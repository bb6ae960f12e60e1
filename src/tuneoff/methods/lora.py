"""The LoRA family (LoRA, DoRA, PiSSA, rsLoRA, LoRA+): low-rank adapters through PEFT, for five choices of `method`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, Experiment, above, at_least, names, option
from tuneoff.methods import Method, register


@register
@dataclass
class LoRA(Method):
    """Adapters of rank r on linear layers (Hu et al. 2021), by PEFT. The option names are LLaMA-Factory's."""

    keeps_base = True
    packages = ("peft",)
    lora_rank: int = at_least(8, 1)
    lora_alpha: float | None = above(None, 0)  # null = 2 · rank
    lora_dropout: float = option(0.0, "must be in [0, 1)", lambda value: 0 <= value < 1)
    lora_target: Any = names("all")
    additional_target: Any = names()
    loraplus_lr_ratio: float | None = above(None, 0)  # Hayou et al. 2024
    loraplus_lr_embedding: float = above(1e-6, 0)
    use_rslora: bool = False  # Kalajdzievski 2023
    use_dora: bool = False  # Liu et al. 2024
    pissa_init: bool = False  # Meng et al. 2024
    pissa_iter: int = option(
        16, "must be at least 1, or -1 for the exact SVD", lambda value: value >= 1 or value == -1
    )
    pissa_convert: bool = False
    create_new_adapter: bool = False
    adapter_path: str | None = None

    # ------------------------------------------------------------ refusals
    def check(self, experiment: Experiment) -> None:
        """Refuse what PEFT cannot do, and an adapter folder that is not there."""
        if self.pissa_convert:
            self._check_conversion(experiment)
        if experiment.quantised:
            self._check_quantised(*experiment.quantised)
        if self.adapter_path is not None:
            self._check_adapter(self.adapter_path, experiment)
        elif self.create_new_adapter:
            raise ConfigError("create_new_adapter", True, "needs adapter_path")

    def _check_conversion(self, experiment: Experiment) -> None:
        """Refuse a conversion that has nothing to convert, or nowhere to save it."""
        if not self.pissa_init:
            raise ConfigError("pissa_convert", True, "needs pissa_init=true")
        if self.use_dora:
            allowed = "a DoRA magnitude has no LoRA form; leave out use_dora"
            raise ConfigError("pissa_convert", True, allowed)
        if not experiment.save_model:
            raise ConfigError("pissa_convert", True, "needs save_model=true")

    def _check_quantised(self, key: str, value: str) -> None:
        """Refuse what would change base weights that `key` makes quantised."""
        weights = f"the base weights, which are quantised ({key}={value})"
        if self.pissa_init:
            raise ConfigError("pissa_init", True, f"would change {weights}")
        if self.create_new_adapter:
            allowed = f"would merge the old one into {weights}"
            raise ConfigError("create_new_adapter", True, allowed)

    def _check_adapter(self, path: str, experiment: Experiment) -> None:
        """Refuse a folder that is no adapter, and base weights other than those the adapter applies to."""
        if self.pissa_init and not self.create_new_adapter:
            allowed = (
                "needs create_new_adapter=true where pissa_init=true, which begins a new adapter"
            )
            raise ConfigError("adapter_path", path, allowed)
        folder = Path(path).expanduser()
        if not (folder / "adapter_config.json").is_file():
            allowed = "must be a folder with an adapter_config.json"
            raise ConfigError("adapter_path", path, allowed)
        residual = folder / "base"  # what PiSSA leaves of the base weights
        if not residual.is_dir():
            return
        base = Path(experiment.model.path or "").expanduser()
        if base.resolve() != residual.resolve():
            allowed = f"must be {residual}, the weights that this adapter applies to"
            raise ConfigError("model.path", experiment.model.path, allowed)

    # ------------------------------------------------------------ the adapted model
    def prepare(self, model: Any) -> Any:
        """Return a `PeftModel` around `model`.

        Raises:
            ConfigError: a target that names no linear layer.
        """
        from peft import PeftModel, get_peft_model

        from tuneoff.models.layers import is_quantized

        if is_quantized(model):
            model = self._prepare_quantised(model)
        if self.adapter_path:
            trainable = not self.create_new_adapter
            model = PeftModel.from_pretrained(model, self.adapter_path, is_trainable=trainable)
            if not self.create_new_adapter:
                return model
            model = model.merge_and_unload()
        model = get_peft_model(model, self.make_peft_config(model))
        if self.pissa_convert:
            self.initial_adapter = _copy_adapter(model)
        return model

    def _prepare_quantised(self, model: Any) -> Any:
        """Return a model with quantised weights on which adapters can train."""
        from peft import prepare_model_for_kbit_training

        is_8bit = getattr(model, "is_loaded_in_8bit", False)
        if self.use_dora and is_8bit and model.device.type == "cpu":
            allowed = "on a CPU PEFT loses the scales of 8-bit weights; quantization=4bit works"
            raise ConfigError("use_dora", True, allowed)
        # Checkpointing is on already where it is asked for, by re-computation that needs no gradient at its input.
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)

    def make_peft_config(self, model: Any) -> Any:
        """Return PEFT's description of a new adapter for `model`."""
        from peft import LoraConfig

        from tuneoff.models.layers import find_linear_names, has_tied_head

        additional = self._find_additional_modules(model)
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        names_an_end = any(model.get_submodule(path) in ends for path in additional or [])
        pissa = "pissa" if self.pissa_iter == -1 else f"pissa_niter_{self.pissa_iter}"
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora_rank,
            lora_alpha=self.lora_alpha or 2 * self.lora_rank,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            target_modules=find_linear_names(model, self.lora_target, "lora_target"),
            modules_to_save=additional,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            ensure_weight_tying=names_an_end and has_tied_head(model),
            init_lora_weights=pissa if self.pissa_init else True,  # type: ignore[arg-type]
        )

    def _find_additional_modules(self, model: Any) -> list[str] | None:
        """Return the whole paths of `additional_target`.

        PEFT would take `norm` for the end of `input_layernorm` too.
        """
        paths: list[str] = []
        for name in self.additional_target or []:
            matching = []
            for path, module in model.named_modules():
                if f".{path}".endswith(f".{name}"):
                    matching.append(path)
                    self._check_trainable(name, module)
            if not matching:
                raise ConfigError("additional_target", name, "no such module in this model")
            paths += [path for path in matching if path not in paths]
        return paths or None

    @staticmethod
    def _check_trainable(name: str, module: Any) -> None:
        """Refuse a module with quantised weights."""
        if not all(weight.is_floating_point() for weight in module.parameters()):
            allowed = "is quantised, so it cannot be trained"
            raise ConfigError("additional_target", name, allowed)

    # ------------------------------------------------------------ training
    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the shared optimizer; with LoRA+ the B matrices get `lr · loraplus_lr_ratio`."""
        from tuneoff.models.optimizers import build_optimizer, parameter_groups

        if self.loraplus_lr_ratio is None:
            return super().make_optimizer(model, experiment)
        # By name: PEFT's own helper gives every 1-D parameter, DoRA's magnitudes too, the rate of B.
        rates = {
            "lora_embedding_B": self.loraplus_lr_embedding,
            "lora_B": experiment.lr * self.loraplus_lr_ratio,
            "": experiment.lr,
        }
        named_by_mark: dict[str, list] = {mark: [] for mark in rates}
        for name, parameter in model.named_parameters():
            mark = next(mark for mark in rates if mark in name)
            named_by_mark[mark].append((name, parameter))
        groups = []
        for mark, named in named_by_mark.items():
            groups += parameter_groups(named, rates[mark], experiment.weight_decay)
        return build_optimizer(groups, experiment)

    # ------------------------------------------------------------ export
    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the adapter, with PiSSA also what it applies to, and with `merged` the model without adapters.

        Returns:
            Facts for the record: the rank of a converted adapter, the size of a residual base, a failed conversion,
            and the largest difference that merging makes to a logit (bfloat16 rounds the merged weights).
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
            if self.pissa_init:
                facts["residual_base_bytes"] = _lora_export.save_residual_base(model, folder)
            model.save_pretrained(folder)
        if merged:
            facts["merged_logits_difference"] = _lora_export.save_merged(model, folder)
        return facts


def _copy_adapter(model: Any) -> dict[str, Any]:
    """Return copies of the adapter's weights by parameter name."""
    copies = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            copies[name] = parameter.detach().clone()
    return copies
