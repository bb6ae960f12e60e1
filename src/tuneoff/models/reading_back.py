"""Reading back: what a run has saved is loaded as its user will load it, and must be the model that was trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tuneoff.models.generators import fork_generators
from tuneoff.models.layers import is_quantized
from tuneoff.models.precision import AUTOCAST, use_own_precision

# A model of so many bytes is read back beside the trained one. A larger one takes its place, so that the device (and on
# a CPU the host) never holds two of them: an export is a run's last act, and what was trained is on the disk by then.
BESIDE_BYTES = 2**30
ROUNDINGS = (
    16  # of the weights' type, relative to the largest logit, as a model's layers may add up to
)
TOLERANCE = 1e-4  # the same at least, where the type's rounding is finer


class UnreadableExport(RuntimeError):
    """What was saved cannot be loaded, or is another model than the trained one."""


def fits_beside(model: Any) -> bool:
    """Whether a second copy of a model is so small that it may lie beside the first."""
    return (
        sum(weight.numel() * weight.element_size() for weight in model.parameters()) <= BESIDE_BYTES
    )


def make_room(model: Any) -> None:
    """Free the weights of a model that is too large for a second one beside it; it can run no more.

    Each is emptied where it lies, since an optimizer holds the same parameters.
    """
    if fits_beside(model):
        return
    for weight in model.parameters():
        weight.data = weight.data.new_empty(0)


def load_saved(folder: Path, instead_of: Any) -> Any:
    """Load a whole model as its user will, to the device of the one that it stands for.

    Args:
        instead_of: the model that was saved in `folder`; a large one is given up for the loaded one.

    Raises:
        UnreadableExport: it cannot be loaded, or its names or shapes are not those of the model.
    """
    device = instead_of.device
    attention = name_attention(instead_of.config)
    has_own_code = type(instead_of).__module__.startswith("transformers_modules")
    make_room(instead_of)
    with explain_unreadable(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            attn_implementation=attention,
            # It has run already, so that it was allowed.
            trust_remote_code=has_own_code,
            output_loading_info=True,
        )
        model, report = loaded
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            check_names(problem.removesuffix("_keys"), report[problem])
        return model.to(device)


def name_attention(config: Any) -> dict[str, str]:
    """The attention of a model and of each of its parts, as `from_pretrained` takes it: a part may lack the whole's."""
    attention = {"": config._attn_implementation}
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            attention[name] = part._attn_implementation
    return attention


@contextmanager
def explain_unreadable(folder: Path) -> Iterator[None]:
    """Say of whatever goes wrong in reading which folder cannot be read; a lack of memory passes as what it is.

    Raises:
        UnreadableExport: with the first line of the reason.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, UnreadableExport):
            reason = f"{type(error).__name__}: {reason}"
        raise UnreadableExport(
            f"what was saved in {folder} cannot be read back: {reason}"
        ) from error


def check_names(problem: str, names: Any) -> None:
    """Refuse weights that are missing from a file, or that a model has no use for.

    Raises:
        UnreadableExport: naming the first few.
    """
    words = sorted(str(name) for name in names)
    if words:
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        raise UnreadableExport(f"{problem} weights: {', '.join(words[:3])}{more}")


@torch.no_grad()
def compute_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of rows of tokens (rows, length): (rows, length, vocabulary)."""
    with fork_generators():
        torch.manual_seed(0)  # some attention draws hashes
        with use_own_precision(model):
            return model.eval()(input_ids=ids.to(model.device), use_cache=False).logits


def allow_rounding(model: Any, logits: torch.Tensor) -> float:
    """The largest difference that rounding makes to these logits of `model`."""
    dtypes = [logits.dtype, model.get_input_embeddings().weight.dtype]
    autocast_dtype = getattr(model, AUTOCAST, None)
    if autocast_dtype is not None:
        dtypes.append(autocast_dtype)
    if is_quantized(model):
        # Its layers compute in half precision, or on activations of 8 bits, which are as coarse.
        dtypes.append(torch.bfloat16)
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    relative = max(TOLERANCE, ROUNDINGS * eps)
    largest = logits[logits.isfinite()].abs().max().item()
    return relative * max(1.0, largest)


def check_logits(
    folder: Path,
    trained: torch.Tensor,
    loaded: torch.Tensor,
    allowed: float,
) -> None:
    """Refuse a loaded model whose logits differ by more than is `allowed` from the trained one's.

    Raises:
        UnreadableExport: with the largest difference.
    """
    finite = trained.isfinite()
    difference = (loaded - trained)[finite].abs().max().item()
    if not difference <= allowed:
        raise UnreadableExport(
            f"what was saved in {folder} is another model than the trained one: logits differ by {difference:.2g}, "
            f"where rounding makes {allowed:.2g} at most"
        )
