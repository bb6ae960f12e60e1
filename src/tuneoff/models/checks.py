"""Checks: what a loaded model cannot do with these settings or data, refused before it trains.

The model itself is asked, since no list of architectures stays true.
"""

import math
from array import array
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from tuneoff.config import ConfigError, Experiment
from tuneoff.data import Batch, Row, collate, join_rows
from tuneoff.models.generators import fork_generators
from tuneoff.models.precision import use_own_precision

TOLERANCE = 1e-5  # of the largest logit
MOST_SPARE_POSITIONS = 8  # beyond those that a model was made for: OPT and BART have two
ROUNDINGS = 4  # where the weights are in half precision: of their type's rounding
PROBE_TOKENS = 16
# Settings of a configuration that are true where no token sees later ones.
CAUSAL_SETTINGS = ("is_decoder", "causal")
# (ids, embedded) of each call of the embeddings.
Lookups = list[tuple[torch.Tensor, torch.Tensor]]


def max_positions(model: PreTrainedModel) -> float:
    """How many positions the model was made for; infinite where its configuration does not say."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or math.inf


def learned_positions(model: PreTrainedModel) -> float:
    """The longest row that the model has a table of positions for; infinite where it computes them from their number.

    The table is learned, as GPT-2's, or made once for so many positions, as GPT-J's.
    """
    words = model.get_input_embeddings()
    made_for = max_positions(model)
    longest = math.inf
    for module in model.modules():
        if not isinstance(module, nn.Embedding) or module is words:
            continue
        # Others embed something else: types of tokens, or the words once more for each layer.
        if made_for <= module.num_embeddings <= made_for + MOST_SPARE_POSITIONS:
            longest = min(longest, made_for)
            # RoBERTa's positions begin after the number that stands for padding.
            if module.num_embeddings == made_for and module.padding_idx is not None:
                longest = min(longest, made_for - module.padding_idx - 1)
    for buffer in model.buffers():
        is_table = buffer.is_floating_point() and buffer.dim() > 1
        if is_table and made_for in buffer.shape[:2]:
            longest = min(longest, made_for)
    return longest


def check_embeddings(
    model: PreTrainedModel, experiment: Experiment, longest: int, highest: int
) -> None:
    """Refuse data whose `longest` row or `highest` token the model has no embedding for.

    Raises:
        ConfigError: max_length, where positions are in a table, or model.tokenizer.
    """
    words: Any = model.get_input_embeddings()
    if highest >= words.num_embeddings:
        raise ConfigError(
            "model.tokenizer",
            experiment.model.tokenizer or experiment.model.path,
            f"gives token {highest}, and the model has {words.num_embeddings}",
        )
    check_table_of_positions(model, experiment, longest)


def check_table_of_positions(model: PreTrainedModel, experiment: Experiment, longest: int) -> None:
    """Refuse rows of `longest` tokens for which the model has no positions.

    Raises:
        ConfigError: max_length.
    """
    positions = learned_positions(model)
    if longest > positions:
        allowed = f"must be at most {positions}, the positions that the model has a table of"
        raise ConfigError("max_length", experiment.max_length, allowed)


def check_reloading(model: Any, experiment: Experiment, trained: Set[str]) -> None:
    """Refuse to save a model of which transformers would change a weight in `trained` when it loads it again.

    Youtu's own initialisation sets the padding token's embedding to zero even where a file has another.

    Raises:
        ConfigError: save_model, where the trained model could not be read back.
    """
    if not experiment.save_model or not isinstance(model, PreTrainedModel):
        # What PEFT saves it loads itself.
        return
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module.padding_idx is None:
            continue
        if f"{name}.weight" in trained and _zeroes_padding(model):
            padding = f"the embedding of its padding token ({module.padding_idx})"
            reason = f"would save what cannot be read back: transformers sets {padding} to zero"
            raise ConfigError(
                "save_model",
                True,
                f"{reason} when it loads this {model.config.model_type}, and it is trained here",
            )


def _zeroes_padding(model: PreTrainedModel) -> bool:
    """Whether loading sets the padding's row to zero in an embedding that was read from a file."""
    embedding = nn.Embedding(2, 1, padding_idx=0)
    weight: Any = embedding.weight  # (2 tokens, width 1)
    nn.init.ones_(weight)
    weight._is_hf_initialized = True  # transformers' mark of what a file has
    with fork_generators():
        model._initialize_weights(embedding, model.is_custom_code())
    return not weight[0].all().item()


def check_causality(model: Any, experiment: Experiment) -> None:
    """Refuse a model in which a token sees later ones: its loss would measure how well it copies them.

    Padding on the right without an attention mask rests on the same.

    Raises:
        ConfigError: naming what would make the model causal, where its configuration has a setting for it.
    """
    ids = _draw_tokens(model)
    earlier = len(ids) // 2
    batch = collate([_row(ids)], pad=0)
    probe = _probe(model, batch, row=0, positions=slice(0, earlier))
    model_type = model.config.get_text_config().model_type
    if probe.head_positions > len(ids):
        # ProphetNet's reads a stream for each of several tokens ahead.
        states = f"{probe.head_positions} states for {len(ids)} tokens"
        reason = f"the head of this {model_type} reads {states}, not one each"
    elif probe.seen.isdisjoint(ids[earlier:]):
        return
    else:
        reason = f"a token of this {model_type} sees the tokens after it, which it is to predict"
        reason += _remedy(model, _name_config(experiment))
    if experiment.model.path is None:
        raise ConfigError("model.config", model_type, reason)
    raise ConfigError("model.path", experiment.model.path, reason)


def _name_config(experiment: Experiment) -> str:
    """What stands before a setting of the model's configuration, in a sentence."""
    return "model.config." if experiment.model.path is None else "its config's "


def _remedy(model: Any, prefix: str) -> str:
    """What would make the model causal, as the end of a sentence; nothing where its configuration cannot say."""
    name = find_causal_setting(model)
    return f"; {prefix}{name}=true lets it see the tokens before alone" if name else ""


def find_causal_setting(model: Any) -> str | None:
    """The setting of the model's configuration that is false and would make it causal; None where there is none.

    Some configurations have one that means nothing (GPT-NeoX), so that it alone settles nothing.
    """
    config = model.config.get_text_config()
    for name in CAUSAL_SETTINGS:
        if getattr(config, name, None) is False:
            return name
    return None


def check_packing(model: Any) -> None:
    """Refuse `packing` for a model in which a packed example is not what it is alone.

    Two tests in one small forward pass of two rows, [a, b] and [b, padding], as training packs them. Packed b's logits
    must not depend on a's embeddings: there the gradient is exactly zero in any precision where a is masked. And they
    must be those of b at a row's beginning up to rounding, which is coarse in half precision and so would not do alone.

    Raises:
        ConfigError: b sees a, or is read at other positions.
    """
    ids = _draw_tokens(model)
    middle = len(ids) // 2 - 1
    first = _row(ids[:middle])
    second = _row(ids[middle:])
    batch = collate([join_rows([first, second]), second], pad=0)
    behind_first = slice(middle, None)
    probe = _probe(model, batch, row=0, positions=behind_first)
    attention = model.config._attn_implementation
    model_words = f"{model.config.model_type} with model.attention={attention}"
    if not probe.seen.isdisjoint(first.ids):
        raise ConfigError(
            "packing", True, f"an example would see the one packed before it in {model_words}"
        )
    packed = probe.logits[0, behind_first]  # (tokens, vocabulary)
    alone = probe.logits[1, : len(second.ids)]
    weights_dtype = model.get_input_embeddings().weight.dtype
    rounding = max(torch.finfo(dtype).eps for dtype in (weights_dtype, packed.dtype))
    tolerance = max(TOLERANCE, ROUNDINGS * rounding)
    limit = tolerance * alone.abs().max().item()
    difference = (packed - alone).abs().max().item()
    if not difference <= limit:
        raise ConfigError(
            "packing",
            True,
            f"packed logits differ by {difference:.1g} (at most {limit:.1g}) in {model_words}",
        )


class Probe(NamedTuple):
    """A forward pass, and what some of its logits depend on."""

    logits: torch.Tensor  # (rows, length, vocabulary)
    head_positions: (
        int  # states that the head has read in one call, over all rows; 0 where it was not called
    )
    seen: set[int]  # tokens whose embeddings the chosen logits depend on


def _probe(model: Any, batch: Batch, row: int, positions: slice) -> Probe:
    """Ask the model which tokens the logits at `positions` of a row depend on, by one gradient.

    The gradient by an embedding that is masked is exactly zero, in any precision. It is taken by the embeddings alone:
    no weight gets one. Where logits are no numbers nothing is seen, and the first evaluation says so.
    """
    batch = batch.to(model.get_input_embeddings().weight.device)
    training = model.training
    try:
        # Some attention draws hashes: what is drawn here must not move what training draws.
        with (
            torch.enable_grad(),
            fork_generators(),
            use_own_precision(model),
            _watch_ends(model) as (lookups, head_positions),
        ):
            logits = model.eval()(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            ).logits
    finally:
        model.train(training)
    most_positions = max(head_positions, default=0)
    chosen = logits[row, positions].float()  # (tokens, vocabulary)
    logits = logits.detach()
    if not chosen.isfinite().all():
        return Probe(logits, most_positions, set())
    # Of length 1 for each position, so that it neither vanishes nor overflows in half precision.
    sizes = torch.linalg.vector_norm(chosen, dim=-1)
    leaves = [embedded for _, embedded in lookups]
    gradients = torch.autograd.grad(sizes.sum(), leaves, allow_unused=True)
    seen: set[int] = set()
    for (ids, _), gradient in zip(lookups, gradients, strict=True):
        if gradient is not None:
            depends = gradient.ne(0).any(dim=-1)
            seen.update(ids[depends].tolist())
    return Probe(logits, most_positions, seen)


@contextmanager
def _watch_ends(model: Any) -> Iterator[tuple[Lookups, list[int]]]:
    """Note (ids, embedded) of each call of the embeddings, and how many states each call of the head reads."""
    lookups: Lookups = []
    head_positions: list[int] = []

    def watch_embeddings(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded = output.detach().requires_grad_()
        lookups.append((inputs[0], embedded))
        return embedded.clone()  # some models scale it in place

    def watch_head(module: Any, inputs: Any, output: Any) -> None:
        head_positions.append(inputs[0].shape[:-1].numel())

    hooks = [model.get_input_embeddings().register_forward_hook(watch_embeddings)]
    head = model.get_output_embeddings()
    if head is not None:
        hooks.append(head.register_forward_hook(watch_head))
    try:
        yield lookups, head_positions
    finally:
        for hook in hooks:
            hook.remove()


def _draw_tokens(model: Any) -> list[int]:
    """Different tokens, none of them the padding, whose embedding some models leave out."""
    generator = torch.Generator().manual_seed(0)
    words = model.get_input_embeddings().weight.shape[0]
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    drawn = torch.randperm(words, generator=generator)[: PROBE_TOKENS + 1].tolist()
    return [token for token in drawn if token != padding][:PROBE_TOKENS]


def _row(ids: list[int]) -> Row:
    """Tokens as a row in which all but the first are labels."""
    return Row(array("i", ids), ((1, len(ids)),))
