"""Answers as a model gives them: greedy, in padded batches, whatever sampling its own settings ask for."""

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
    own = model.generation_config.eos_token_id
    ends = sorted(
        {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]), *also_ends} - {None}
    )
    chosen = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    length = max(map(len, prompts))
    input_ids = torch.full((len(prompts), length), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for index, prompt in enumerate(prompts):
        input_ids[index, length - len(prompt) :] = torch.tensor(prompt)
        mask[index, length - len(prompt) :] = 1
    with torch.no_grad(), _alone_in_effect(model, chosen):
        found = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=chosen,
        )[:, length:].tolist()  # (rows, at most max_new_tokens)
    return [_until(ids, ends) for ids in found]


def _until(ids: list[int], ends: list[int]) -> Answer:
    """The ids before the first end token; what follows it in a batch is padding."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    return Answer(ids[:stop], stop is not None)


@contextmanager
def _alone_in_effect(model: Any, chosen: GenerationConfig) -> Iterator[None]:
    """Evaluation mode and `chosen` alone: what that leaves open, `generate` would fill from the model's own config."""
    training, holders = (
        model.training,
        [part for part in model.modules() if "generation_config" in vars(part)],
    )
    own = [part.generation_config for part in holders]
    model.eval()
    for part in holders:  # more than one where a wrapper has its own
        part.generation_config = chosen
    try:
        yield
    finally:
        for part, before in zip(holders, own, strict=True):
            part.generation_config = before
        model.train(training)
