"""Model settings: which model is fine-tuned, and what can be seen to be wrong with it before it is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tuneoff.config.model_file import CONFIG, check_model_file, check_shape
from tuneoff.config.options import ConfigError, check_package, check_ranges, one_of
from tuneoff.config.paths import (
    exists,
    expand_user,
    is_file,
    is_folder,
    is_hub_name,
    is_shipped,
    list_shipped_models,
    resolve_folder,
)
from tuneoff.record import read_json

ADAPTER_CONFIG = "adapter_config.json"
# transformers would load it into the model, where methods would train it, merge it or lose it.
HOLDS_ADAPTER = (
    f"holds an adapter ({ADAPTER_CONFIG}), which adapter_path=FOLDER goes on with; must be its base"
)
BRINGS_SHAPE = "must be left out: the model at model.path brings its own config"
# How a file begins that git-lfs writes in place of a large one.
POINTER = b"version https://git-lfs"


@dataclass
class Model:
    """What is fine-tuned: a hub name or a folder (`tuneoff:tiny` ships with the package), or without a path a shape.

    `config` is the shape: transformers' model_type and sizes. Where there is a path, the path's own shape counts.
    `gguf_file` is a file in `path`; its weights, and its tokenizer, become ordinary ones when they are loaded.
    """

    name: str = MISSING
    """The model's name in tables and records."""
    path: str | None = None
    """A hub name (owner/name), a folder, or tuneoff:tiny, which ships; null takes the shape in model.config."""
    revision: str | None = None
    """A commit, branch or tag of a hub model; null takes its newest."""
    gguf_file: str | None = None
    """A GGUF file in model.path; its weights become ordinary ones when they are loaded."""
    config: dict[str, Any] | None = None
    """Where model.path is null, the shape: any keys of transformers' model_type, as model.config.KEY=VALUE."""
    pretrained: bool = True
    """Load the weights; false draws random ones."""
    tokenizer: str | None = None
    """A hub name or folder of the tokenizer; null takes the model's own."""
    attention: str | None = one_of(None, "sdpa", "eager", "flash_attention_2", "flex_attention")
    """The attention's implementation; null takes sdpa, or eager where the model has no sdpa."""
    liger: bool = False
    """Put in Liger's kernels for norms, rotary positions and MLPs (CUDA alone)."""
    trust_remote_code: bool = False
    """Run code that the model brings."""

    def check(self) -> None:
        """Refuse ranges, and a folder that is not there; `__post_init__` cannot, since OmegaConf builds defaults."""
        check_ranges(self, "model.")
        if self.path is None and not (self.config and "model_type" in self.config):
            allowed = "must be a folder or a hub name, unless model.config gives a shape"
            raise ConfigError("model.path", None, allowed)
        if self.liger:
            check_package("model.liger", True, "liger_kernel", "liger")
        self._check_revision()
        self._check_gguf()
        if self.tokenizer is not None:
            _check_place("model.tokenizer", self.tokenizer)
        if self.path is not None:
            if self.pretrained and is_file(resolve_folder(self.path) / ADAPTER_CONFIG):
                raise ConfigError("model.path", self.path, HOLDS_ADAPTER)
            _check_place("model.path", self.path, holds=self.gguf_file or CONFIG)
            folder = resolve_folder(self.path)
            if self.gguf_file is None and is_folder(folder) and not is_shipped(self.path):
                check_model_file("model.path", self.path, folder)
            self._check_weights(self.path)
        elif self.config is not None:
            check_shape(self.config)

    def _check_revision(self) -> None:
        """Refuse a revision of what is not on the hub."""
        on_hub = (
            self.path is not None and is_hub_name(self.path) and not exists(expand_user(self.path))
        )
        if self.revision is not None and not on_hub:
            allowed = "is for models of the hub, as model.path=owner/name"
            raise ConfigError("model.revision", self.revision, allowed)

    def _check_weights(self, path: str) -> None:
        """Refuse a folder without weights where they are asked for."""
        folder = resolve_folder(path)
        if not self.pretrained or self.gguf_file or not is_folder(folder):
            return
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            allowed = f"{path} holds no weights; false draws random ones"
            raise ConfigError("model.pretrained", True, allowed)
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        pointers = [file.name for file in files if is_pointer(file)]
        if pointers:
            allowed = (
                f"{pointers[0]} is a pointer of git-lfs, no weights; git lfs pull fetches them"
            )
            raise ConfigError("model.path", path, allowed)

    def _check_gguf(self) -> None:
        """Refuse a GGUF file that is not there, and say how one is named where only `path` points to it."""
        key = "model.gguf_file"
        folder = resolve_folder(self.path or "")
        there = []
        if is_folder(folder):
            there = sorted(path.name for path in folder.glob("*.gguf"))
        if self.gguf_file is None:
            if folder.suffix == ".gguf" and is_file(folder):
                allowed = f"must be the folder of the GGUF file, with {key}={folder.name}"
                raise ConfigError("model.path", self.path, allowed)
            if self.path and there and not exists(folder / CONFIG):
                allowed = f"must be one of {', '.join(there)}, since {self.path} has no {CONFIG}"
                raise ConfigError(key, None, allowed)
            return
        if self.path is None:
            allowed = "needs model.path, the folder or hub name that it is in"
            raise ConfigError(key, self.gguf_file, allowed)
        if is_folder(folder) and not is_file(folder / self.gguf_file):
            allowed = f"{self.path} does not hold it, but {', '.join(there) or 'no GGUF file'}"
            raise ConfigError(key, self.gguf_file, allowed)
        check_package(key, self.gguf_file, "gguf", "gguf")

    @property
    def quantised(self) -> bool:
        """Whether the weights in a local folder are quantised (a hub name says so only when it is loaded)."""
        config = read_json(resolve_folder(self.path or "") / CONFIG)
        return config is not None and config.get("quantization_config") is not None


def is_pointer(file: Path) -> bool:
    """Whether a file stands for one that git-lfs has not fetched; false where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(POINTER)) == POINTER
    except OSError:
        return False


def _check_place(key: str, path: str, holds: str = "") -> None:
    """Refuse a folder that is not there, or does not hold the file `holds`; a hub name passes."""
    if is_shipped(path):
        shipped = list_shipped_models()
        if path not in shipped:
            raise ConfigError(key, path, f"must be {' or '.join(shipped)}")
        return
    if path and exists(resolve_folder(path) / holds):
        return
    if not is_hub_name(path) or is_folder(path):
        wanted = "folder with a config.json" if holds == CONFIG else "folder"
        raise ConfigError(key, path, f"must be a {wanted}, or a hub name owner/name")
