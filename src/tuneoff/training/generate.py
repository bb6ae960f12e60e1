"""Generation: greedy answers in padded batches, whatever sampling a model's own settings ask for."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase


class Answer(NamedTuple):
    """What was generated after a prompt: token ids, without the one that ended it."""

    ids: list[int]
    ended: bool  # by an end token; False where `max_new_tokens` cut it off


def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    also_ends: Iterable[int] = (),
) -> list[Answer]:
    """Greedy answers to one batch of `prompts` (token ids), of at most `max_new_tokens` each.

    They end with the tokenizer's end token, with any that the model's generation config names, or any of `also_ends`.
    The model is left as it was: its mode, and its generation config, of which nothing else has an effect.
    """
    ends = _end_tokens(model, tokenizer, also_ends)
    greedy = make_greedy_config(max_new_tokens, ends, tokenizer.pad_token_id)
    input_ids, mask = _pad_left(prompts, tokenizer.pad_token_id)
    with torch.no_grad(), only_config(model, greedy):
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=greedy,
        )  # (rows, prompt and answer)
    answers = output[:, input_ids.shape[1] :].tolist()  # (rows, at most max_new_tokens)
    return [_cut_at_end(ids, ends) for ids in answers]


def make_greedy_config(
    max_new_tokens: int, ends: list[int] | None, pad_token_id: Any
) -> GenerationConfig:
    """Return the settings of greedy answers; without `ends` each has `max_new_tokens` exactly."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=pad_token_id,
    )


def _end_tokens(
    model: Any, tokenizer: PreTrainedTokenizerBase, also_ends: Iterable[int]
) -> list[int]:
    own = model.generation_config.eos_token_id
    if not isinstance(own, list):
        own = [own]
    ends = {tokenizer.eos_token_id, *own, *also_ends}
    return sorted(ends - {None})


def _pad_left(
    prompts: Sequence[Sequence[int]],
    pad: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (input ids, mask), each (rows, longest prompt); the mask is 0 where there is padding."""
    length = max(map(len, prompts))
    input_ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros_like(input_ids)
    for index, prompt in enumerate(prompts):
        start = length - len(prompt)
        input_ids[index, start:] = torch.tensor(prompt)
        mask[index, start:] = 1
    return input_ids, mask


def _cut_at_end(ids: list[int], ends: list[int]) -> Answer:
    """The ids before the first end token; what follows it in a batch is padding."""
    for index, token in enumerate(ids):
        if token in ends:
            return Answer(ids[:index], True)
    return Answer(ids, False)


@contextmanager
def only_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode and `config` alone: what that leaves open, `generate` would fill from the model's own config."""
    was_training = model.training
    # More than one where a wrapper has its own.
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    own_configs = [owner.generation_config for owner in owners]
    model.eval()
    for owner in owners:
        owner.generation_config = config
    try:
        yield
    finally:
        for owner, own_config in zip(owners, own_configs, strict=True):
            owner.generation_config = own_config
        model.train(was_training)
