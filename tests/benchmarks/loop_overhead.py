"""How much the loop costs: its tokens a second over those of a bare PyTorch loop, same model, batches and optimizer.

Run: python tests/benchmarks/loop_overhead.py [pairs] [steps]. Interleaved pairs, medians; both sides fused AdamW (or
the method's own optimizer), batches tokenised beforehand and collated in the loop. A ratio of 1 is no cost.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("full", "lora", "galore", "badam")


def prepared(
    method: str,
    steps: int,
    folder: Path,
    tracker: str = "none",
    words: Sequence[str] = (),
):
    """A run that is set up, without tracker, bar and evaluation; `words` are further settings."""
    import tuneoff.cli.main
    import tuneoff.methods  # noqa: F401
    from tuneoff.config import bind, resolve_config
    from tuneoff.record import Recorder
    from tuneoff.training.run import Run

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[
                f"method={method}",
                f"max_steps={steps}",
                f"tracker={tracker}",
                "progress=false",
                "data.limit=400",
                *words,
            ],
        )
    made = Run(*bind(cfg), Recorder(folder))
    made.prepare({"config": resolve_config(cfg)})
    made.parts.dataset.splits["validation"] = []
    return made


def bare(method: str, steps: int, folder: Path) -> float:
    """Tokens a second of the loop everyone writes first: forward, backward, step, read the loss."""
    from tuneoff.data import collate
    from tuneoff.training.step import summed_loss

    made = prepared(method, steps, folder)
    model, optimizer = made.parts.model.train(), made.parts.optimizer
    tokens = seconds = 0.0
    for step in range(steps):
        start = time.perf_counter()
        batch = collate(made.parts.order.step_rows(step), made.parts.tokenizer.pad_token_id)
        loss = summed_loss(model, batch) / batch.label_tokens
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if step >= 3:
            seconds += time.perf_counter() - start
            tokens += batch.tokens
    return tokens / seconds


def ours(method: str, steps: int, folder: Path) -> float:
    """Tokens a second of the whole loop over the same steps: everything between two steps counts."""
    made = prepared(method, steps, folder)
    made.parts.counted_steps.clear()
    times: list[float] = []
    one_step = made.trainer.take_step

    def watch(step: int) -> None:
        one_step(step)
        times.append(time.perf_counter())

    made.trainer.take_step = watch
    made.fit()
    tokens = sum(
        sum(len(row.ids) for row in made.parts.order.step_rows(step)) for step in range(3, steps)
    )
    return tokens / (times[-1] - times[2])


def main(pairs: int = 5, steps: int = 40) -> None:
    """Print a line a method."""
    for method in METHODS:
        ratios = []
        for pair in range(pairs):
            with tempfile.TemporaryDirectory() as folder:
                sides = [(ours, "ours"), (bare, "bare")]
                speeds = {
                    name: side(method, steps, Path(folder) / name)
                    for side, name in sides[:: 1 - 2 * (pair % 2)]
                }
            ratios.append(speeds["ours"] / speeds["bare"])
        print(
            f"{method:8} ours / bare: median {statistics.median(ratios):.3f}, all "
            + ", ".join(f"{ratio:.3f}" for ratio in ratios),
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
