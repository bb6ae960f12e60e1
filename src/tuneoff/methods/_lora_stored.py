"""An adapter on disk: its settings and shapes, read without torch, so that a wrong one is refused early."""

import json
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from tuneoff.config import ConfigError, Experiment, format_value, is_hub_name, resolve_folder
from tuneoff.config.model import ADAPTER_CONFIG, is_pointer
from tuneoff.methods._lora_stored_types import describe_wrong_type

KEY = "adapter_path"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
OLD_PICKLE = b"\x80\x02"  # with which a file begins that torch wrote before it took archives
# Ways to begin that PEFT repeats when it loads such an adapter, each time taking a part out of the weights.
CHANGING_BEGINNINGS = ("pissa", "olora", "corda", "loftq")
# Settings of PEFT's that change what trains and that no option here can say; each beside the values that are none.
FOREIGN_SETTINGS: dict[str, tuple] = {
    "bias": ("none",),
    "lora_bias": (),
    "trainable_token_indices": (),
    "layer_replication": (),
    "alora_invocation_tokens": (),
    "use_qalora": (),
    "use_bdlora": (),
    "arrow_config": (),
    "kasa_config": (),
    "monteclora_config": (),
    "velora_config": (),
}


def find_adapter(path: str) -> Path:
    """Return the folder of an adapter: a local one, or of a hub's OWNER/NAME or OWNER/NAME@REVISION its copy.

    Raises:
        ConfigError: neither, or what the hub has against it.
    """
    folder = Path(path).expanduser()
    name, _, revision = path.partition("@")
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    if not is_hub_name(name) or folder.exists():
        raise ConfigError(
            KEY, path, f"must be a folder with an {ADAPTER_CONFIG}, or a hub name owner/name"
        )
    return fetch_adapter(path, name, revision or None)


@cache
def fetch_adapter(path: str, name: str, revision: str | None) -> Path:
    """Fetch an adapter's files from the hub, or find them in its cache; once a process.

    Raises:
        ConfigError: what the hub has against it, or that it holds no adapter.
    """
    from huggingface_hub import snapshot_download

    from tuneoff.data.hub_access import explain_hub_error, prepare_hub

    prepare_hub()
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=[ADAPTER_CONFIG, *WEIGHTS]
        )
    except (
        Exception
    ) as error:  # the hub's clients have types of their own, which differ between versions
        reason = explain_hub_error(error, name)
        if reason is None:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(KEY, path, reason) from error
    if not (Path(folder) / ADAPTER_CONFIG).is_file():
        raise ConfigError(KEY, path, f"holds no {ADAPTER_CONFIG}, so that it is no adapter")
    return Path(folder)


def read_adapter(path: str) -> dict[str, Any]:
    """Return the configuration of an adapter.

    Raises:
        ConfigError: no adapter, one of another kind than LoRA's, one that is not whole, or a setting of a wrong type.
    """
    folder = find_adapter(path)
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(KEY, path, f"{ADAPTER_CONFIG} cannot be read: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        allowed = f"must be an adapter of LoRA's kind, and its peft_type is {kind}"
        raise ConfigError(KEY, path, allowed)
    wrong = describe_wrong_type(config)
    if wrong is not None:
        raise ConfigError(KEY, path, f"its {ADAPTER_CONFIG} has {wrong}")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ConfigError(KEY, path, f"holds no {WEIGHTS[0]}")
    for name in WEIGHTS:
        if is_pointer(folder / name):
            allowed = f"{name} is a pointer of git-lfs, no weights; git lfs pull fetches them"
            raise ConfigError(KEY, path, allowed)
    read_shapes(folder / WEIGHTS[0], path)
    refuse_torn_pickle(folder / WEIGHTS[1], path)
    return config


def refuse_foreign_settings(path: str, config: dict[str, Any]) -> None:
    """Refuse to go on with an adapter that trains what no option here can say.

    Raises:
        ConfigError: naming the first such setting.
    """
    for name, unset_values in FOREIGN_SETTINGS.items():
        value = config.get(name)
        if value and value not in unset_values:
            allowed = (
                f"its {ADAPTER_CONFIG} has {name}={format_value(value)}, which no option here can say; "
                "create_new_adapter=true merges it and begins a new one"
            )
            raise ConfigError(KEY, path, allowed)


def describe_other_base(path: str, own_base: str | None, model_path: str | None) -> str | None:
    """Return a warning where an adapter says that it was trained on another model; None where it says nothing else.

    The same model may lie in a folder here and on a hub there, so that one's last name in the other's path will do.
    """
    if not own_base or not model_path:
        return None
    own = split_path(own_base)
    other = split_path(str(resolve_folder(model_path)))
    if own[-1] in other or other[-1] in own:
        return None
    return (
        f"adapter_path={path} was trained on {own_base}, and is put on model.path={model_path}: "
        "their sizes agree, and nothing else says that they are one model"
    )


def split_path(path: str) -> list[str]:
    """Return the names in a path, in small letters; the hub's cache writes owner/name as models--owner--name."""
    return re.split(r"/|--", path.lower().rstrip("/"))


def read_shapes(file: Path, path: str) -> dict[str, list[int]]:
    """Return the shapes in a safetensors file by name; none where there is no such file.

    Raises:
        ConfigError: a file that is not whole.
    """
    if not file.is_file():
        return {}
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        shapes = {name: entry["shape"] for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ConfigError(KEY, path, f"{file.name} cannot be read: {error}") from error
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise ConfigError(KEY, path, f"{file.name} is torn: {size} bytes of {whole}")
    return shapes


def refuse_torn_pickle(file: Path, path: str) -> None:
    """Refuse a file of weights in torch's own form, an archive, that is not whole; one that is not there passes.

    Raises:
        ConfigError: it is torn, or no such file.
    """
    if not file.is_file() or is_zipfile(file):
        return
    with file.open("rb") as stream:
        if stream.read(len(OLD_PICKLE)) != OLD_PICKLE:
            raise ConfigError(KEY, path, f"{file.name} is torn, or no file of weights")


def check_base(path: str, model_path: str | None) -> None:
    """Refuse base weights other than those that an adapter applies to.

    Raises:
        ConfigError: it brings weights of its own, or its matrices do not fit.
    """
    own_base = find_adapter(path) / "base"
    base = resolve_folder(model_path or "")
    if own_base.is_dir() and base.resolve() != own_base.resolve():
        allowed = f"must be {own_base}, the weights that this adapter applies to"
        raise ConfigError("model.path", model_path, allowed)
    check_width(path, base)


def check_width(path: str, base: Path) -> None:
    """Refuse an adapter whose matrices do not fit the weights in a local folder; a base elsewhere is checked later.

    Raises:
        ConfigError: naming the first matrix that does not fit.
    """
    adapter = read_shapes(find_adapter(path) / WEIGHTS[0], path)
    weights: dict[str, list[int]] = {}
    for file in sorted(base.glob("*.safetensors")):
        try:
            weights |= read_shapes(file, path)
        except ConfigError:  # the model's own fault, told when it is loaded
            return
    for name, shape in adapter.items():
        for mark, axis in (("lora_A", 1), ("lora_B", 0)):
            layer = name.removeprefix("base_model.model.").removesuffix(f".{mark}.weight")
            expected = weights.get(f"{layer}.weight")
            if not name.endswith(f".{mark}.weight") or expected is None:
                continue
            # Rows are outputs, but in GPT-2's Conv1D: either side may be the one.
            if shape[axis] not in expected:
                own = "x".join(map(str, expected))
                adapted = "x".join(map(str, shape))
                allowed = f"does not fit this model, whose {layer} is {own}: {mark} is {adapted}"
                raise ConfigError(KEY, path, allowed)


def read_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return an adapter's settings by our options, as a new adapter would have been asked for them."""
    modules = config.get("target_modules") or []
    names = [modules] if isinstance(modules, str) else list(modules)
    names += config.get("target_parameters") or []
    additional = config.get("modules_to_save")
    return {
        "lora_rank": config.get("r"),
        "lora_alpha": config.get("lora_alpha"),
        "lora_dropout": config.get("lora_dropout", 0.0),
        "lora_target": sorted(names),
        "additional_target": sorted(additional) if additional else None,
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
    }


def take_adapter(method: Any, path: str, experiment: Experiment) -> None:
    """Refuse a folder that is no adapter, and base weights other than those the adapter applies to.

    An adapter that is gone on with gives its settings to the method.

    Args:
        method: the LoRA whose `adapter_path` is `path`.
    """
    if method.pissa_init and not method.create_new_adapter:
        allowed = "needs create_new_adapter=true where pissa_init=true, which begins a new adapter"
        raise ConfigError("adapter_path", path, allowed)
    config = read_adapter(path)
    check_base(path, experiment.model.path)
    own_base = config.get("base_model_name_or_path")
    other_base = describe_other_base(path, own_base, experiment.model.path)
    method.warnings = [other_base] if other_base else []
    if not method.create_new_adapter:
        refuse_foreign_settings(path, config)
        _take_settings(method, path, read_settings(config))
        beginning = str(config.get("init_lora_weights")).lower()
        method.loading_changes_base = beginning.startswith(CHANGING_BEGINNINGS)


def _take_settings(method: Any, path: str, settings: dict[str, Any]) -> None:
    """Take over the settings of the adapter that is gone on with.

    Raises:
        ConfigError: an option that was given, and contradicts them.
    """
    for key, value in settings.items():
        given = getattr(method, key)
        same = given == value
        if isinstance(given, list) and isinstance(value, list):
            same = sorted(given) == sorted(value)
        if method.is_given(key) and given is not None and not same:
            allowed = (
                f"the adapter in {path} has {format_value(value)}, and is gone on with as it is; "
                "create_new_adapter=true begins a new one"
            )
            raise ConfigError(key, given, allowed)
    for key, value in settings.items():
        setattr(method, key, value)
    method.adapter_settings = settings
