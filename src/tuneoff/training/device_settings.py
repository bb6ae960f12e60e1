"""Device settings: what torch is told about precision and determinism before a run, and what the user should know."""

import os

import torch

from tuneoff.config import ConfigError, Dtype, Experiment, MixedPrecision
from tuneoff.distributed.launch import choose_device_index
from tuneoff.distributed.visible import count_present_devices, visible_devices

# The first cards with bfloat16 and TF32 (compute capability of Ampere).
HALF_PRECISION_CAPABILITY = (8, 0)
# Workspaces with which cuBLAS gives the same bits, by NVIDIA's documentation; the first is the faster one.
WORKSPACES = (":4096:8", ":16:8")
WORKSPACE_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
GPU_ATTENTIONS = ("flash_attention_2", "flex_attention")
# Of NVIDIA's libraries; stronger than what a program says.
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"


def apply_device_settings(experiment: Experiment) -> None:
    """Tell torch how to compute, before anything is computed.

    Raises:
        ConfigError: a precision or an attention that this machine does not have, or a variable that contradicts a
            setting.
    """
    _check_precision(experiment)
    _check_attention(experiment)
    _set_determinism(experiment.deterministic)
    _set_tf32(experiment.tf32)
    _leave_out_cudnn_attention()


def settle_precision(experiment: Experiment) -> Experiment:
    """Return the settings with what mixed_precision=auto becomes on this device."""
    if experiment.mixed_precision is not MixedPrecision.auto:
        return experiment
    return experiment.settle_precision(torch.cuda.is_available() and has_half_precision())


def refuse_other_precision(experiment: Experiment, earlier_run: dict | None) -> None:
    """Let no run go on in another precision than it began with, as mixed_precision=auto may be on another device.

    Raises:
        ConfigError: `earlier_run`, what run.json holds, says another.
    """
    provenance = (earlier_run or {}).get("provenance") or {}
    before = (provenance.get("precision") or {}).get("mixed_precision")
    now = experiment.mixed_precision
    if before is not None and before != now.name:
        allowed = f"is what auto becomes on this device, and this run began with {before}"
        raise ConfigError("mixed_precision", now, allowed)


def has_half_precision() -> bool:
    """Whether the card of this process has bfloat16 and TF32."""
    return torch.cuda.get_device_capability(find_own_device()) >= HALF_PRECISION_CAPABILITY


def find_own_device() -> int:
    """The number of this process's card, also before its ranks meet, from when on it is torch's current one."""
    return choose_device_index(torch.cuda.device_count())


def _check_precision(experiment: Experiment) -> None:
    """Refuse a type that this machine computes nothing in."""
    mixed = experiment.mixed_precision
    if not torch.cuda.is_available():
        if mixed is MixedPrecision.fp16:
            raise ConfigError("mixed_precision", mixed, "needs a CUDA device; bf16 works on a CPU")
        if experiment.tf32:
            raise ConfigError("tf32", True, "needs a CUDA device, and there is none")
        return
    if has_half_precision():
        return
    name = torch.cuda.get_device_name(find_own_device())
    if experiment.tf32:
        raise ConfigError("tf32", True, f"must be false: {name} has no TF32")
    if mixed is MixedPrecision.bf16:
        raise ConfigError("mixed_precision", mixed, f"must be no or fp16: {name} has no bfloat16")
    if experiment.dtype is Dtype.bfloat16:
        key = "pure_bf16" if experiment.pure_bf16 else "dtype"
        allowed = f"{name} has no bfloat16; mixed_precision=fp16 works on it"
        raise ConfigError(key, getattr(experiment, key), allowed)


def _check_attention(experiment: Experiment) -> None:
    """Refuse an attention whose backward pass no CPU has."""
    attention = experiment.model.attention
    if attention in GPU_ATTENTIONS and not torch.cuda.is_available():
        allowed = "needs a CUDA device; sdpa and eager work on a CPU"
        raise ConfigError("model.attention", attention, allowed)


def _set_determinism(deterministic: bool) -> None:
    """Let an operation fail that could give other bits each time; cuBLAS reads its variable at its first call."""
    if deterministic:
        workspace = os.environ.setdefault(WORKSPACE_VARIABLE, WORKSPACES[0])
        if workspace not in WORKSPACES:
            allowed = f"must be {' or '.join(WORKSPACES)} where deterministic=true"
            raise ConfigError(WORKSPACE_VARIABLE, workspace, allowed)
    torch.use_deterministic_algorithms(deterministic)
    # Else torch would fill each new tensor, of which none is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False


def _set_tf32(tf32: bool) -> None:
    """Let float32 matrices be multiplied in TF32, or not, whatever a variable of torch's has set."""
    override = os.environ.get(TF32_VARIABLE)
    if override is not None and override != str(int(tf32)):
        allowed = f"contradicts tf32={str(tf32).lower()}; without it the setting counts"
        raise ConfigError(TF32_VARIABLE, override, allowed)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def _leave_out_cudnn_attention() -> None:
    """Let PyTorch take its flash or memory-efficient kernels, where on Hopper and later it would prefer cuDNN's.

    That one plans each shape anew, and rows padded to the longest of a step, packed ones too, seldom have one that came
    before: on an H200 the first call of a length took 0.1 s, the second 0.001 s; other kernels take 0.0003 s.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def find_device_warnings(experiment: Experiment, device: torch.device) -> list[str]:
    """What a run leaves unused of the machine that it is on, and how to get it."""
    if device.type != "cuda":
        return _describe_missed_devices()
    whole = experiment.dtype is Dtype.float32 and experiment.mixed_precision is MixedPrecision.no
    if whole and not experiment.tf32 and has_half_precision():
        return [
            f"float32 leaves the matrix units of this {torch.cuda.get_device_name(device)} unused: tf32=true keeps "
            "float32 weights, mixed_precision=bf16 or pure_bf16=true is faster still"
        ]
    return []


def _describe_missed_devices() -> list[str]:
    """What to say where the driver shows a GPU, and torch has none."""
    if not count_present_devices() or not visible_devices():
        return []  # there is none, or the user has hidden them
    reason = "cannot use it" if torch.version.cuda else "was built without CUDA"
    return [f"a GPU is here, and this torch ({torch.__version__}) {reason}: the run is on the CPU"]
