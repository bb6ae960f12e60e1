"""Evaluation: a run's loss on its validation and its test split, and on a second set."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tuneoff import data
from tuneoff.config import ConfigError
from tuneoff.training.failures import check_evaluation
from tuneoff.training.session import Session
from tuneoff.training.step import Engine, summed_loss


@dataclass(frozen=True)
class SecondSet:
    """A data set beside the run's own, whose loss before and after training says what was forgotten."""

    name: str
    rows: list[data.Row]
    fingerprint: str

    def facts(self) -> dict:
        """What the record says about it."""
        return {
            "data": self.name,
            "rows": len(self.rows),
            "fingerprint": self.fingerprint,
            "tokens": sum(row.labels for row in self.rows),
        }


def load_second_set(session: Session, tokenizer: PreTrainedTokenizerBase) -> SecondSet | None:
    """Read the validation rows of `forgetting.data`, or its test rows where it has none of them.

    Raises:
        ConfigError: data that cannot be read, or that have neither.
    """
    settings = session.experiment.forgetting.data
    if settings is None:
        return None
    try:
        with session.peaks.phase("evaluate"):
            dataset = data.load_dataset(settings, tokenizer, session.experiment.max_length)
    except ConfigError as error:
        raise ConfigError(f"forgetting.{error.key}", error.value, error.allowed) from error
    rows = dataset.splits["validation"] or dataset.splits["test"]
    if not rows:
        raise ConfigError(
            "forgetting.data.path", settings.path, "has neither validation nor test rows"
        )
    return SecondSet(settings.name, rows, dataset.fingerprint)


class Evaluation:
    """Losses per label token, and what they were at the stages of the run."""

    def __init__(
        self,
        session: Session,
        model: Any,
        engine: Engine,
        dataset: data.DataSet,
        second_set: SecondSet | None,
        pad_token_id: int,
    ):
        self.session = session
        self.model = model
        self.engine = engine
        self.dataset = dataset
        self.second_set = second_set
        self.pad_token_id = pad_token_id
        self.losses = no_losses()
        self.second_set_losses: dict[str, float] = {}  # before and after training
        self.evaluated_at = -1  # the step after which the validation split was last evaluated

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {
            "losses": self.losses,
            "second_set_losses": self.second_set_losses,
            "evaluated_at": self.evaluated_at,
        }

    def restore(self, state: dict) -> None:
        """Go on from what `state()` gave."""
        self.losses = state["losses"]
        self.second_set_losses = state["second_set_losses"]
        self.evaluated_at = state["evaluated_at"]

    def is_due(self, step: int, ended: bool) -> bool:
        """Whether an evaluation stands before `step`: the first, one at `eval_every`, or none after it."""
        interval = self.session.experiment.eval_every
        return ended or step == 0 or (interval is not None and step % interval == 0)

    def evaluate_if_due(self, step: int, ended: bool) -> None:
        """Evaluate before the first step, at `eval_every`, and when training has `ended`."""
        # A resume may stand right behind an evaluation.
        if not self.is_due(step, ended) or self.evaluated_at == step:
            return
        loss = self.evaluate_split("validation", step)
        check_evaluation(step, loss)
        self.evaluated_at = step
        if step == 0:
            self.losses["initial"] = loss
            self.evaluate_second_set("before", step)
        if ended:
            self.losses["final"] = loss
            self.evaluate_second_set("after", step)

    def evaluate_split(self, split: str, step: int) -> float | None:
        """Return the loss on a split, and write it down; None where the split is empty."""
        rows = self.dataset.splits[split]
        if not rows:
            return None
        started = time.perf_counter()
        loss = self.mean_loss(rows)
        seconds = time.perf_counter() - started
        if split == "validation":
            best = self.losses["best"] or math.inf
            self.losses["best"] = min(loss, best)
        line = {
            "step": step,
            f"{split}_loss": loss,
            "evaluate_seconds": round(seconds, 3),
        }
        self.session.recorder.log(line)
        place = "eval" if split == "validation" else split
        values = {"loss": loss, "runtime": round(seconds, 3)}
        self.session.trackers.log({place: values}, step)
        return loss

    def evaluate_test(self, step: int) -> None:
        """Evaluate the test split, if the run asks for it."""
        if self.session.experiment.test:
            self.losses["test"] = self.evaluate_split("test", step)

    def evaluate_second_set(self, when: str, step: int) -> None:
        """Evaluate the second set, if there is one; `when` is before or after."""
        if self.second_set is None:
            return
        loss = self.mean_loss(self.second_set.rows)
        self.second_set_losses[when] = loss
        self.session.recorder.log({"step": step, "second_set_loss": loss})
        self.session.trackers.log({"eval": {"second_set_loss": loss}}, step)

    @torch.no_grad()
    def mean_loss(self, rows: list[data.Row]) -> float:
        """Negative log-likelihood per label token of `rows`, over all ranks; all must call."""
        experiment = self.session.experiment
        ranks = self.session.ranks
        size = experiment.eval_batch_size or experiment.batch_size
        batches = data.evaluation_batches(rows, size, self.pad_token_id, ranks.index, ranks.count)
        self.model.eval()
        summed = torch.zeros((), device=ranks.device)
        with self.session.peaks.phase("evaluate"):
            for batch in batches:
                with self.engine.autocast():
                    summed += summed_loss(self.model, batch.to(ranks.device))
                self.session.stop_if_asked()
            sums = ranks.gather_with_peaks(summed.item(), self.session.peaks)
        return sum(sums) / sum(row.labels for row in rows)


def no_losses() -> dict[str, float | None]:
    """The record's `loss` before anything was evaluated."""
    return {"initial": None, "final": None, "best": None, "test": None}
