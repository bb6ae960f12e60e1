"""The LoRA family (LoRA, DoRA, PiSSA, rsLoRA, LoRA+): low-rank adapters through PEFT, for five choices of `method`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, Experiment, above, at_least, names, option
from tuneoff.methods import Method, register


@register
@dataclass
class LoRA(Method):
    """Adapters of rank r on linear layers (Hu et al. 2021), PEFT's implementation, LLaMA-Factory's option names."""

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
    keeps_base, packages = True, ("peft",)

    def check(self, experiment: Experiment) -> None:
        """Refuse what PEFT cannot do, and an adapter folder that is not there."""
        if self.pissa_convert and not self.pissa_init:
            raise ConfigError("pissa_convert", True, "needs pissa_init=true")
        if self.pissa_convert and self.use_dora:
            raise ConfigError(
                "pissa_convert", True, "a DoRA magnitude has no LoRA form; leave out use_dora"
            )
        if self.pissa_convert and not experiment.save_model:
            raise ConfigError("pissa_convert", True, "needs save_model=true")
        stored = (
            experiment.quantised
            and f"the base weights, which are quantised ({'='.join(experiment.quantised)})"
        )
        if stored and self.pissa_init:
            raise ConfigError("pissa_init", True, f"would change {stored}")
        if stored and self.create_new_adapter:
            raise ConfigError("create_new_adapter", True, f"would merge the old one into {stored}")
        if self.pissa_init and self.adapter_path is not None and not self.create_new_adapter:
            raise ConfigError(
                "adapter_path",
                self.adapter_path,
                "needs create_new_adapter=true where pissa_init=true, which begins a new adapter",
            )
        adapter = None if self.adapter_path is None else Path(self.adapter_path).expanduser()
        if adapter and not (adapter / "adapter_config.json").is_file():
            raise ConfigError(
                "adapter_path", self.adapter_path, "must be a folder with an adapter_config.json"
            )
        base = (
            adapter / "base" if adapter and (adapter / "base").is_dir() else None
        )  # what PiSSA leaves of the weights
        if base and Path(experiment.model.path or "").expanduser().resolve() != base.resolve():
            raise ConfigError(
                "model.path",
                experiment.model.path,
                f"must be {base}, the weights that this adapter applies to",
            )
        if self.create_new_adapter and self.adapter_path is None:
            raise ConfigError("create_new_adapter", True, "needs adapter_path")

    def prepare(self, model: Any) -> Any:
        """Return a `PeftModel` around `model`.

        Raises:
            ConfigError: a target that names no linear layer.
        """
        from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training

        from tuneoff.models.layers import is_quantized

        if is_quantized(model):
            if (
                self.use_dora
                and getattr(model, "is_loaded_in_8bit", False)
                and model.device.type == "cpu"
            ):
                raise ConfigError(
                    "use_dora",
                    True,
                    "on a CPU PEFT loses the scales of 8-bit weights; quantization=4bit works",
                )
            # Checkpointing is on already where it is asked for, by re-computation that needs no gradient at its input.
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        if self.adapter_path:
            model = PeftModel.from_pretrained(
                model, self.adapter_path, is_trainable=not self.create_new_adapter
            )
            if not self.create_new_adapter:
                return model
            model = model.merge_and_unload()
        model = get_peft_model(model, self.peft_config(model))
        if self.pissa_convert:
            self._initial = {
                name: parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if "lora_" in name
            }
        return model

    def peft_config(self, model: Any) -> Any:
        """PEFT's description of this adapter for `model`."""
        from peft import LoraConfig

        from tuneoff.models.layers import find_linear_names, has_tied_head

        added, ends = (
            self._additional_modules(model),
            (model.get_input_embeddings(), model.get_output_embeddings()),
        )
        pissa = "pissa" if self.pissa_iter == -1 else f"pissa_niter_{self.pissa_iter}"
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora_rank,
            lora_alpha=self.lora_alpha or 2 * self.lora_rank,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            target_modules=find_linear_names(model, self.lora_target, "lora_target"),
            modules_to_save=added,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            ensure_weight_tying=has_tied_head(model)
            and any(model.get_submodule(path) in ends for path in added or ()),
            init_lora_weights=pissa if self.pissa_init else True,  # type: ignore[arg-type]
        )

    def _additional_modules(self, model: Any) -> list[str] | None:
        """Whole paths of `additional_target`: PEFT would take `norm` for the end of `input_layernorm` too."""
        found: list[str] = []
        for name in self.additional_target or ():
            meant = {
                path: module
                for path, module in model.named_modules()
                if f".{path}".endswith(f".{name}")
            }
            if not meant:
                raise ConfigError("additional_target", name, "no such module in this model")
            if not all(
                weight.is_floating_point()
                for module in meant.values()
                for weight in module.parameters()
            ):
                raise ConfigError(
                    "additional_target", name, "is quantised, so it cannot be trained"
                )
            found += [path for path in meant if path not in found]
        return found or None

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the shared optimizer; with LoRA+ the B matrices get `lr · loraplus_lr_ratio`."""
        from tuneoff.models.optimizers import build_optimizer, parameter_groups

        named = list(model.named_parameters())
        if self.loraplus_lr_ratio is None:
            return build_optimizer(
                parameter_groups(named, experiment.lr, experiment.weight_decay), experiment
            )
        # By name: PEFT's own helper gives every 1-D parameter, DoRA's magnitudes too, the rate of B.
        rates = {
            "lora_embedding_B": self.loraplus_lr_embedding,
            "lora_B": experiment.lr * self.loraplus_lr_ratio,
            "": experiment.lr,
        }
        groups: dict[str, list] = {mark: [] for mark in rates}
        for name, parameter in named:
            groups[next(mark for mark in rates if mark in name)].append((name, parameter))
        return build_optimizer(
            [
                group
                for mark, members in groups.items()
                for group in parameter_groups(members, rates[mark], experiment.weight_decay)
            ],
            experiment,
        )

    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the adapter, with PiSSA also what it applies to, and on `merged` the model without adapters.

        Returns:
            Facts for the record: the rank of a converted adapter, the size of a residual base, a failed conversion,
            the largest difference that merging makes to logits (bfloat16 rounds the merged weights).
        """
        facts: dict = {}
        if self.pissa_convert:
            try:
                self._save_converted(model, folder)
                facts["converted_rank"] = 2 * self.lora_rank
            except Exception as error:  # the training result must not be lost with the conversion
                facts["conversion_error"] = f"{type(error).__name__}: {error}"
        if self.pissa_init and "converted_rank" not in facts:
            self._save_residual_base(model, folder / "base")
            facts["residual_base_bytes"] = sum(
                file.stat().st_size for file in (folder / "base").iterdir()
            )
        if "converted_rank" not in facts:
            model.save_pretrained(folder)
        if merged:
            facts["merged_logits_difference"] = self._save_merged(model, folder)
        return facts

    @staticmethod
    def _save_merged(model: Any, folder: Path) -> float:
        """Save the model without adapters; return the largest change of a logit, on transformers' own dummy inputs.

        A quantised base is saved in ordinary weights: PEFT would round each sum to the quantised type again, and so
        lose in part what was learned.
        """
        import torch
        from peft import PeftModel

        from tuneoff.models.layers import is_quantized

        inputs = {name: value.to(model.device) for name, value in model.dummy_inputs.items()}
        with torch.no_grad():
            trained = model.eval()(**inputs).logits
            if is_quantized(model.get_base_model()):
                model = PeftModel.from_pretrained(model.unload().dequantize(), folder)
            merged = model.merge_and_unload()
            merged.save_pretrained(folder / "merged")
            return (merged(**inputs).logits - trained).abs().max().item()

    def _save_residual_base(self, model: Any, folder: Path) -> None:
        """Save the frozen weights that PiSSA left, and point the adapter to them: a reload would draw a new SVD."""
        base = model.get_base_model()
        weights = {
            name.replace(".base_layer.", ".").replace(".original_module.", "."): value
            for name, value in base.state_dict().items()
            if "lora_" not in name and ".modules_to_save." not in name
        }
        base.save_pretrained(folder, state_dict=weights)
        config = model.peft_config["default"]
        config.init_lora_weights, config.base_model_name_or_path = True, str(folder.resolve())

    def _save_converted(self, model: Any, folder: Path) -> None:
        """Save an ordinary adapter of rank 2r for the untouched base: W + s(BA - B0 A0) = W + s [B, -B0] [A; A0]."""
        import copy

        import torch
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        state = get_peft_model_state_dict(model)
        initial = {name.replace(".default", ""): value for name, value in self._initial.items()}
        for name, before in initial.items():
            down = "lora_A" in name
            state[name] = torch.cat(
                [state[name], before if down else -before], dim=0 if down else 1
            )
        config = copy.deepcopy(model.peft_config["default"])
        config.r, config.init_lora_weights, config.inference_mode = 2 * self.lora_rank, True, True
        config.lora_alpha *= (
            2**0.5 if self.use_rslora else 2
        )  # the scale alpha / r (or alpha / sqrt(r)) stays
        config.save_pretrained(folder)
        # Copies, since tied weights among `additional_target` are one, which safetensors does not save.
        save_file(
            {name: value.detach().clone().contiguous() for name, value in state.items()},
            folder / "adapter_model.safetensors",
        )
