"""Serving: what the trained model takes to answer, as it was trained and with its adapter merged."""

import copy
import logging
import time
from statistics import median
from typing import Any

import psutil
import torch

from tuneoff.models.layers import count_bytes
from tuneoff.models.reading_back import compute_logits
from tuneoff.training.export import draw_probe
from tuneoff.training.generate import make_greedy_config, only_config
from tuneoff.training.serving_prompt import make_prompt
from tuneoff.training.setup import Parts

log = logging.getLogger(__name__)

REPEATS = 3  # of each measurement, whose median counts
ROOM = 1.2  # times the model's bytes that must be free for a copy to be merged


def measure_serving(parts: Parts) -> dict:
    """Return the record's `serving`, empty where the run does not ask for it; all ranks must call.

    One prompt, answered greedily, by the first rank alone while the others wait. The trained model is left as it is:
    a copy is merged.
    """
    if not parts.experiment.measure_serving:
        return {}
    facts: dict = {}
    if parts.ranks.first:
        log.info("measuring what answering takes")
        facts = _measure(parts)
    parts.ranks.gather(None)
    return facts


def _measure(parts: Parts) -> dict:
    experiment = parts.experiment
    prompt = make_prompt(parts.dataset, experiment.serving_prompt_tokens)
    method = parts.method
    with parts.peaks.phase("serve"):
        speed = _time_answers(parts, parts.model, prompt)
    facts = {
        "prompt_tokens": len(prompt),
        "new_tokens": experiment.serving_new_tokens,
        "repeats": REPEATS,
        **speed,
        "merges": method.merges,
        "plain_lora_rank": method.find_plain_lora_rank(parts.model),
    }
    if method.merges:
        with parts.peaks.phase("serve_merged"):
            facts["merged"] = _measure_merged(parts, prompt)
    return facts


def _measure_merged(parts: Parts, prompt: list[int]) -> dict:
    """The speed of a merged copy, and how far its logits are from the trained model's; or why there is none."""
    if parts.experiment.quantised:
        return {"not_measured": "a quantised base is merged in ordinary weights"}
    if not _has_room(parts.model):
        return {"not_measured": "there is no room for a second copy of the model"}
    probe = draw_probe(parts)
    trained_logits = compute_logits(parts.model, probe)
    merged = parts.method.merge_into_base(copy.deepcopy(parts.model))
    difference = (compute_logits(merged, probe) - trained_logits).abs().max().item()
    return {**_time_answers(parts, merged, prompt), "logits_difference": difference}


def _has_room(model: Any) -> bool:
    """Whether a copy of the model fits into what is free where it lies."""
    needed = ROOM * count_bytes(model.parameters())
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        reserved = torch.cuda.memory_reserved(model.device)
        unused = reserved - torch.cuda.memory_allocated(model.device)
        return needed <= free + unused
    return needed <= psutil.virtual_memory().available


def _time_answers(parts: Parts, model: Any, prompt: list[int]) -> dict:
    """Seconds to the first token, and the tokens a second after it: medians, after a warm-up."""
    most = parts.experiment.serving_new_tokens
    ids = torch.tensor([prompt], device=model.device)  # (1, prompt)
    with torch.no_grad(), parts.engine.autocast():
        _answer(parts, model, ids, most)
        prefills = [_answer(parts, model, ids, 1) for _ in range(REPEATS)]
        wholes = [_answer(parts, model, ids, most) for _ in range(REPEATS)]
    prefill = median(prefills)
    decoding = median(wholes) - prefill
    rate = (most - 1) / decoding if decoding > 0 else None  # a clock too coarse for so few tokens
    return {"prefill_seconds": prefill, "decode_tokens_per_second": rate}


def _answer(parts: Parts, model: Any, ids: torch.Tensor, tokens: int) -> float:
    """The seconds that an answer of exactly so many tokens takes."""
    parts.recorder.alive()
    greedy = make_greedy_config(tokens, None, parts.tokenizer.pad_token_id)
    with only_config(model, greedy):
        _synchronize(model.device)
        started = time.perf_counter()
        answer = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=greedy
        )
        _synchronize(model.device)
        seconds = time.perf_counter() - started
    assert answer.shape[1] == ids.shape[1] + tokens
    return seconds


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
