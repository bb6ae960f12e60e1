"""Options of PEFT's tuners that another option switches off: PEFT ignores them, and a record would name them."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from tuneoff.config import ConfigError
from tuneoff.config.unused import Dependence


def needs(key: str, other: str, value: Any) -> Dependence:
    """An option that does something only where another one has a certain value."""
    written = str(value).lower() if isinstance(value, bool) else value
    return Dependence(
        key, lambda options: getattr(options, other) == value, f"needs peft.{other}={written}"
    )


def needs_rank(key: str) -> Dependence:
    """An option of the low-rank part of a tuner that has one only where it is asked for."""
    return Dependence(key, lambda options: options.r is not None, "needs peft.r")


# By tuner, as the code of PEFT 0.21.2 has it.
DEPENDENCES = {
    "deft": (
        needs("alpha", "para", False),
        needs("init_weights", "para", False),
        needs("init_scale", "init_weights", False),
    ),
    "lokr": (
        Dependence(
            "rank_dropout_scale",
            lambda options: options.rank_dropout > 0,
            "needs peft.rank_dropout above 0",
        ),
    ),
    "miss": (needs("mini_r", "init_weights", "mini"),),
    "oft": (
        needs("eps", "coft", True),
        needs("num_cayley_neumann_terms", "use_cayley_neumann", True),
    ),
    "p_tuning": (
        needs("encoder_num_layers", "encoder_reparameterization_type", "LSTM"),
        needs("encoder_dropout", "encoder_reparameterization_type", "LSTM"),
    ),
    "prefix_tuning": (needs("encoder_hidden_size", "prefix_projection", True),),
    "psoft": (
        needs("use_cayley_neumann", "psoft_orth", True),
        needs("num_cayley_neumann_terms", "use_cayley_neumann", True),
        needs("cayley_neumann_eps", "use_cayley_neumann", True),
        needs("psoft_svd_lowrank_niter", "psoft_svd", "lowrank"),
        needs("random_seed", "psoft_svd", "lowrank"),
    ),
    "randlora": (needs("sparse", "very_sparse", False),),
    "supertuning": (needs_rank("lora_alpha"), needs_rank("lora_dropout")),
    "waveft": (needs("wavelet_family", "use_idwt", True),),
}


def refuse_unused_options(options: Any, written: Collection[str]) -> None:
    """Refuse a tuner's option that was given although another one switches it off.

    Args:
        options: the tuner's, of `make_options`.
        written: the keys on the command line, which are refused at their defaults too.

    Raises:
        ConfigError: naming the option, and what it needs.
    """
    defaults = {item.name: item.default for item in fields(options)}
    for dependence in DEPENDENCES.get(options.type, ()):
        key = f"peft.{dependence.key}"
        value = getattr(options, dependence.key)
        is_written = key in written and value is not None
        is_given = is_written or value != defaults[dependence.key]
        if is_given and not dependence.is_used(options):
            raise ConfigError(key, value, dependence.allowed)
