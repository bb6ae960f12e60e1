"""Freeze tuning: only some decoder layers, or some modules in them, train."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tuneoff.config import ConfigError, names, option, suggest_nearest
from tuneoff.methods import Method, register


@register
@dataclass
class Freeze(Method):
    """The last n decoder layers train (n < 0: the first). The option names are LLaMA-Factory's."""

    own_family = "partial"
    freezes = True
    elsewhere: ClassVar[dict[str, str]] = {"finetuning_type=freeze": "freeze"}
    freeze_trainable_layers: int = option(
        2, "must not be 0: n > 0 trains the last n layers, n < 0 the first", bool
    )
    """How many decoder layers train: n the last n, -n the first n."""
    freeze_trainable_modules: Any = names("all")
    """The modules in those layers that train, by name (mlp, q_proj)."""
    freeze_extra_modules: Any = names()
    """Modules outside the decoder layers that train too (embed_tokens, norm, lm_head)."""

    def prepare(self, model: Any) -> Any:
        """Freeze everything, then unfreeze what the options name. Returns the same model.

        Raises:
            ConfigError: more layers than the model has, or a module that does not exist.
        """
        from tuneoff.models.layers import find_decoder_layers

        path, layers = find_decoder_layers(model)
        chosen = self._choose_layers(layers)
        model.requires_grad_(False)
        for layer in chosen:
            self._unfreeze_inside(layer)
        self._unfreeze_outside(model, path)
        return model

    def _choose_layers(self, layers: Any) -> Any:
        """Return the last n of the model's layers, or the first n where the option is -n."""
        count = abs(self.freeze_trainable_layers)
        if count > len(layers):
            allowed = f"this model has {len(layers)} decoder layers"
            raise ConfigError("freeze_trainable_layers", self.freeze_trainable_layers, allowed)
        if self.freeze_trainable_layers > 0:
            return layers[-count:]
        return layers[:count]

    def _unfreeze_inside(self, layer: Any) -> None:
        """Unfreeze a decoder layer, or the modules in it that `freeze_trainable_modules` names."""
        if self.freeze_trainable_modules == ["all"]:
            layer.requires_grad_(True)
            return
        modules = dict(layer.named_modules())
        for name in self.freeze_trainable_modules:
            matching = _match_modules(modules, name, "freeze_trainable_modules")
            _unfreeze(matching)

    def _unfreeze_outside(self, model: Any, layers_path: str) -> None:
        """Unfreeze the modules outside the decoder layers that `freeze_extra_modules` names."""
        outside = {}
        for path, module in model.named_modules():
            is_inside = f"{path}.".startswith(f"{layers_path}.")
            holds_layers = not path or f"{layers_path}.".startswith(f"{path}.")
            if not is_inside and not holds_layers:
                outside[path] = module
        for name in self.freeze_extra_modules or []:
            matching = _match_modules(outside, name, "freeze_extra_modules")
            _unfreeze(matching)


def _match_modules(modules: dict[str, Any], name: str, key: str) -> list:
    """Return the modules with weights whose path ends in `name`, which may have several segments.

    Whole segments, never substrings: `norm` must not match every layer's `input_layernorm`.

    Args:
        modules: modules by their path.
        name: what the option `key` names.

    Raises:
        ConfigError: for a name that matches no module, with the names that there are.
    """
    matching = []
    for path, module in modules.items():
        if f".{path}".endswith(f".{name}") and has_weights(module):
            matching.append(module)
    if matching:
        return matching
    available = set()
    for path, module in modules.items():
        if path and has_weights(module):
            available.add(path.rpartition(".")[2])
    listed = ", ".join(sorted(available))
    nearest = suggest_nearest(name, sorted(available))
    raise ConfigError(key, name, f"no such module with weights; there are {listed}{nearest}")


def has_weights(module: Any) -> bool:
    """Whether a module, or one in it, has parameters: rotary positions and activations have none."""
    return any(True for _ in module.parameters())


def _unfreeze(modules: Iterable[Any]) -> None:
    for module in modules:
        module.requires_grad_(True)
