"""What padding and the output head cost: non-padding tokens a second with each of the three remedies on and off.

Run: python tests/benchmarks/padding.py [repetitions] [model]. `group_by_length` and `packing` through the
product's own settings; the head off its labels by asking every position, which is what a model that is given labels
does. The lengths resemble GSM8K's (58 tokens a question, 150 an answer on average: 4.0 and 1.9 characters a token with
SmolLM2's tokenizer, of about 530 characters a pair), drawn from a seed. Each repetition runs the next steps of every
variant, in turn; speeds are medians, and a gain is the median's ratio to all three off. With packing a row holds
several examples, so its batch_size is smaller, for about as many tokens in a step.

Times are the process's CPU seconds on a CPU, which other work on the machine does not lengthen much, else wall seconds.
"""
import random
import statistics
import sys
import time
from array import array
from collections.abc import Iterator

import torch

BATCH_SIZE, MAX_LENGTH, EXAMPLES, STEPS = 8, 512, 1024, 3


def examples(vocabulary: int) -> list:
    """Rows of random tokens; all after the question are labels."""
    from tuneoff.data import Row
    draw, rows = random.Random(0), []
    for _ in range(EXAMPLES):
        question, answer = round(draw.lognormvariate(4.0, 0.35)), round(draw.lognormvariate(4.88, 0.5))
        size = min(MAX_LENGTH, question + answer)
        rows.append(Row(array("i", draw.choices(range(vocabulary), k=size)), ((question, size),)))
    return rows


def head_everywhere(batch):
    """The same batch with the head at every position."""
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.keep] = batch.labels
    return batch._replace(keep=torch.arange(len(labels)), labels=labels)


def steps(rows: list, layout: str, everywhere: bool) -> Iterator[tuple[list, int]]:
    """The batches of one optimizer step after another, and their label tokens."""
    from tuneoff.data import Plan, collate, pack
    packs = pack(rows, MAX_LENGTH) if layout == "packing" else rows
    size = max(1, round(BATCH_SIZE * len(packs) / len(rows)))
    plan, step = Plan(packs, 0, size, grouped=layout == "group_by_length"), 0
    while True:
        batch = collate(plan.step_rows(step), 0)
        yield [head_everywhere(batch) if everywhere else batch], batch.label_tokens
        step += 1


def measure(model, optimizer, source: Iterator, device: torch.device) -> dict:
    """One repetition: some steps, timed, and one more whose memory is counted."""
    from tuneoff.live import LiveMemory
    from tuneoff.step import train_step
    seen = {"tokens": 0, "positions": 0, "head": 0, "labels": 0, "seconds": 0.0}
    for _ in range(STEPS):
        batches, labels = next(source)
        batches = [batch.to(device) for batch in batches]
        started = clock(device)
        train_step(model, optimizer, batches, labels)
        seen["seconds"] += clock(device) - started
        for batch in batches:
            seen["tokens"] += batch.tokens
            seen["positions"] += batch.input_ids.numel()
            seen["head"] += len(batch.keep)
        seen["labels"] += labels
    batches, labels = next(source)
    with LiveMemory(model, optimizer) as live:
        train_step(model, optimizer, [batch.to(device) for batch in batches], labels)
    return {**seen, "activations": live.peak()["activations"] / 2**20}


def clock(device: torch.device) -> float:
    """Seconds: of the CPU where it does the work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main(repetitions: int = 7, model_path: str = "tuneoff:tiny") -> None:
    """Print a line a variant."""
    from transformers import AutoModelForCausalLM

    from tuneoff.models import locate
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(locate(model_path)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    rows = examples(model.config.vocab_size)
    lengths = [len(row.ids) for row in rows]
    print(f"{len(rows)} examples of {statistics.mean(lengths):.0f} tokens (to {max(lengths)}), batch_size "
          f"{BATCH_SIZE}, max_length {MAX_LENGTH}, {model_path}, {device}, {torch.get_num_threads()} threads")
    variants = {(layout, everywhere): steps(rows, layout, everywhere)
                for everywhere in (True, False) for layout in ("neither", "group_by_length", "packing")}
    found: dict = {variant: [] for variant in variants}
    for repetition in range(repetitions + 1):
        for variant, source in variants.items():
            seen = measure(model, optimizer, source, device)
            if repetition:  # the first fills caches
                found[variant].append(seen)
    base = None
    print(f"{'rows':16} {'head at':9} {'padding':>8} {'head / label':>12} {'activations MiB':>16} {'tokens/s':>9} gain")
    for (layout, everywhere), runs in found.items():
        total = {key: sum(run[key] for run in runs) for key in runs[0]}
        speed = statistics.median(run["tokens"] / run["seconds"] for run in runs)
        base = base or speed
        peak = statistics.median(run["activations"] for run in runs)
        print(f"{layout:16} {'all' if everywhere else 'labels':9} {1 - total['tokens'] / total['positions']:8.1%} "
              f"{total['head'] / total['labels']:12.2f} {peak:16.0f} {speed:9.0f} {speed / base:.2f}")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
