"""Options of PEFT's tuners that another option switches off: PEFT ignores them, and a record would name them."""

from collections.abc import Collection, Mapping
from typing import Any

from tuneoff.config import ConfigError
from tuneoff.config.unused import Dependence, refuse_switched_off


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
    "glora": (
        Dependence(
            "r",
            lambda options: "lora" in (options.config_A_B, options.config_C),
            "needs peft.config_A_B=lora or peft.config_C=lora",
        ),
    ),
    "hra": (
        Dependence(
            "apply_GS",
            lambda options: not options.init_weights,
            "needs peft.init_weights=false: the default start has equal columns, which nothing makes orthogonal",
        ),
    ),
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
        Dependence(
            "encoder_dropout",
            lambda options: options.encoder_num_layers > 1,
            "needs peft.encoder_num_layers above 1",
        ),
    ),
    "prefix_tuning": (needs("encoder_hidden_size", "prefix_projection", True),),
    "psoft": (
        needs("use_cayley_neumann", "psoft_orth", True),
        needs("num_cayley_neumann_terms", "use_cayley_neumann", True),
        needs("cayley_neumann_eps", "use_cayley_neumann", True),
        needs("psoft_svd_lowrank_niter", "psoft_svd", "lowrank"),
        needs("random_seed", "psoft_svd", "lowrank"),
    ),
    "pvera": (needs("d_initial", "init_weights", True),),
    "randlora": (needs("sparse", "very_sparse", False),),
    "supertuning": (needs_rank("lora_alpha"), needs_rank("lora_dropout")),
    "tinylora": (needs("init_v_bound", "init_weights", "uniform"),),
    "unilora": (needs("init_theta_d_bound", "init_weights", True),),
    "vera": (needs("d_initial", "init_weights", True),),
    "waveft": (needs("wavelet_family", "use_idwt", True),),
}

# By tuner and option, a part of the name of the weights that it makes in the model, where it does anything there.
WEIGHTS = {
    "glora": {"config_C": "glora_C", "config_D_E": "glora_D"},
    "lokr": {"decompose_both": "lokr_w1_a"},
}
# Of these an option is the first size, where PEFT does not replace it: BOFT has more factors on a GPU alone.
FIRST_SIZES = {"boft": {"boft_n_butterfly_factor": "boft_R"}}


def refuse_without_effect(
    model: Any,
    tuner: str,
    options: Mapping[str, Any],
    given: Collection[str],
) -> None:
    """Refuse an option that was given and has made nothing of the model that it would be in the record of.

    Args:
        model: what PEFT has made.

    Raises:
        ConfigError: naming the option.
    """
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    for key, part in WEIGHTS.get(tuner, {}).items():
        asks = key in given and options[key] not in (False, "none")
        if asks and not any(part in name for name in shapes):
            allowed = "does nothing in this model: no layer that is adapted has room for it"
            raise ConfigError(f"peft.{key}", options[key], allowed)
    for key, part in FIRST_SIZES.get(tuner, {}).items():
        sizes = [shape[0] for name, shape in shapes.items() if part in name]
        if key in given and options[key] not in sizes:
            allowed = f"is replaced by {sizes[0]} here: PEFT could not build its CUDA extension"
            raise ConfigError(f"peft.{key}", options[key], allowed)


def refuse_unused_options(options: Any, written: Collection[str]) -> None:
    """Refuse a tuner's option that was given although another one switches it off.

    Args:
        options: the tuner's, of `make_options`.
        written: the keys on the command line, which are refused at their defaults too.

    Raises:
        ConfigError: naming the option, and what it needs.
    """
    refuse_switched_off(DEPENDENCES.get(options.type, ()), options, written, "peft.")
