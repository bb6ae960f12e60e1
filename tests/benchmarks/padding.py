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

import torch

BATCH_SIZE, MAX_LENGTH, EXAMPLES, STEPS, MEMORY_STEPS = 8, 512, 1024, 3, 50


def examples(vocabulary: int) -> list:
    """Rows of random tokens; all after the question are labels."""
    from tuneoff.data import Row

    draw, rows = random.Random(0), []
    for _ in range(EXAMPLES):
        question, answer = (
            round(draw.lognormvariate(4.0, 0.35)),
            round(draw.lognormvariate(4.88, 0.5)),
        )
        size = min(MAX_LENGTH, question + answer)
        rows.append(Row(array("i", draw.choices(range(vocabulary), k=size)), ((question, size),)))
    return rows


def head_everywhere(batch):
    """The same batch with the head at every position."""
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.keep] = batch.labels
    return batch._replace(keep=torch.arange(len(labels)), labels=labels)


class Variant:
    """One way to make batches: which rows share a row or a step, and where the head runs."""

    def __init__(self, rows: list, layout: str, everywhere: bool):
        from tuneoff.data import StepOrder, pack_rows

        packed = pack_rows(rows, MAX_LENGTH) if layout == "packing" else rows
        size = max(1, round(BATCH_SIZE * len(packed) / len(rows)))
        self.plan, self.everywhere = (
            StepOrder(packed, 0, size, grouped=layout == "group_by_length"),
            everywhere,
        )
        self.name, self.step = f"{layout:16} {'all' if everywhere else 'labels':9}", 0
        self.speeds: list[float] = []  # non-padding tokens a second, of each repetition
        self.tokens = self.positions = self.head = self.labels = 0

    def batch(self, step: int):
        """The batch of a step, and its label tokens."""
        from tuneoff.data import collate

        batch = collate(self.plan.step_rows(step), 0)
        return head_everywhere(batch) if self.everywhere else batch, batch.label_tokens

    def repeat(self, model, optimizer, device: torch.device) -> None:
        """Time the next few steps."""
        from tuneoff.training.step import train_step

        tokens, seconds = 0, 0.0
        for _ in range(STEPS):
            batch, labels = self.batch(self.step)
            batch, started = batch.to(device), clock(device)
            train_step(model, optimizer, [batch], labels)
            seconds += clock(device) - started
            tokens += batch.tokens
            self.step, self.labels, self.head = (
                self.step + 1,
                self.labels + labels,
                self.head + len(batch.keep),
            )
            self.positions += batch.input_ids.numel()
        self.tokens += tokens
        self.speeds.append(tokens / seconds)

    def activations_mib(self, model, optimizer, device: torch.device) -> float:
        """At the peak of the step with the longest rows."""
        from tuneoff.measure.memory_breakdown import MemoryBreakdown
        from tuneoff.training.step import train_step

        batch, labels = self.batch(self.plan.find_longest_step(MEMORY_STEPS))
        with MemoryBreakdown(model, optimizer) as live:
            train_step(model, optimizer, [batch.to(device)], labels)
        return live.peak()["activations"] / 2**20


def clock(device: torch.device) -> float:
    """Seconds: of the CPU where it does the work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main(repetitions: int = 7, model_path: str = "tuneoff:tiny") -> None:
    """Print a line a variant."""
    from transformers import AutoModelForCausalLM

    from tuneoff.models.loading import resolve_path

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(resolve_path(model_path)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    rows = examples(model.config.vocab_size)
    lengths = [len(row.ids) for row in rows]
    print(
        f"{len(rows)} examples of {statistics.mean(lengths):.0f} tokens (to {max(lengths)}), batch_size "
        f"{BATCH_SIZE}, max_length {MAX_LENGTH}, {model_path}, {device}, {torch.get_num_threads()} threads"
    )
    variants = [
        Variant(rows, layout, everywhere)
        for everywhere in (True, False)
        for layout in ("neither", "group_by_length", "packing")
    ]
    for _ in range(repetitions + 1):
        for variant in variants:
            variant.repeat(model, optimizer, device)
    # The first repetition fills caches.
    speeds = [statistics.median(variant.speeds[1:]) for variant in variants]
    print(
        f"{'rows':16} {'head at':9} {'padding':>8} {'head / label':>12} {'activations MiB':>16} {'tokens/s':>9} gain"
    )
    for variant, speed in zip(variants, speeds, strict=True):
        print(
            f"{variant.name} {1 - variant.tokens / variant.positions:8.1%} {variant.head / variant.labels:12.2f} "
            f"{variant.activations_mib(model, optimizer, device):16.0f} {speed:9.0f} {speed / speeds[0]:.2f}"
        )


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
