"""Freeze tuning: only some decoder layers, or some modules in them, train."""

from dataclasses import dataclass
from typing import Any

from tuneoff.config import ConfigError, names, option, suggest_nearest
from tuneoff.methods import Method, register


@register
@dataclass
class Freeze(Method):
    """Train the last n decoder layers (n < 0: the first), with LLaMA-Factory's option names."""

    freeze_trainable_layers: int = option(
        2, "must not be 0: n > 0 trains the last n layers, n < 0 the first", bool
    )
    freeze_trainable_modules: Any = names("all")
    freeze_extra_modules: Any = names()

    def prepare(self, model: Any) -> Any:
        """Freeze everything, then open what the options name. Returns the same model.

        Raises:
            ConfigError: more layers than the model has, or a module that does not exist.
        """
        from tuneoff.models.layers import find_decoder_layers

        prefix, layers = find_decoder_layers(model)
        count = abs(self.freeze_trainable_layers)
        if count > len(layers):
            raise ConfigError(
                "freeze_trainable_layers",
                self.freeze_trainable_layers,
                f"this model has {len(layers)} decoder layers",
            )
        model.requires_grad_(False)
        chosen = layers[-count:] if self.freeze_trainable_layers > 0 else layers[:count]
        for layer in chosen:
            wanted = (
                [""] if self.freeze_trainable_modules == ["all"] else self.freeze_trainable_modules
            )
            self._open(layer, wanted, "freeze_trainable_modules", outside=None)
        self._open(model, self.freeze_extra_modules or [], "freeze_extra_modules", outside=prefix)
        return model

    def _open(self, root: Any, wanted: list[str], key: str, outside: str | None) -> None:
        """Unfreeze the modules below `root` whose path ends in a wanted name; skip the layers at `outside`."""
        modules = {
            path: module
            for path, module in root.named_modules()
            if outside is None or not f"{path}.".startswith(f"{outside}.")
        }
        for name in wanted:
            # Whole path segments, never substrings: `norm` must not open every layer's layer norms.
            found = [
                module
                for path, module in modules.items()
                if f".{path}".endswith(f".{name}") or path == name
            ]
            # A container of the layers themselves is not a module outside the layers.
            found = [
                module
                for module in found
                if outside is None
                or not any(
                    f"{path}." in f"{outside}." and module is other
                    for path, other in modules.items()
                )
            ]
            if not found:
                available = sorted(
                    {
                        path.rpartition(".")[2]
                        for path, module in modules.items()
                        if path and any(True for _ in module.parameters())
                    }
                )
                raise ConfigError(
                    key,
                    name,
                    f"no such module; there are {', '.join(available)}{suggest_nearest(name, available)}",
                )
            for module in found:
                module.requires_grad_(True)

    def facts(self, model: Any) -> dict:
        """Say when opening the head opened the tied embeddings too."""
        from tuneoff.models.layers import has_tied_head

        head = model.get_output_embeddings()
        if head is not None and has_tied_head(model) and head.weight.requires_grad:
            return {
                "tied_weights": "the output head and the embeddings are one weight, and it trains"
            }
        return {}
