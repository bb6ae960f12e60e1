"""What a run is judged by beside its loss: exact match of generated answers, perplexity, and what was forgotten."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuneoff import data
from tuneoff.config import ConfigError, Experiment
from tuneoff.config.extractors import extract_answer, normalize_answer
from tuneoff.distributed.ranks import Ranks
from tuneoff.measure.memory_peaks import PhasePeaks
from tuneoff.record import Recorder
from tuneoff.training.generate import Answer, generate_answers

log = logging.getLogger(__name__)


class TaskMetrics:
    """A run's task metrics: how they are measured, and what the record says."""

    def __init__(self, experiment: Experiment, recorder: Recorder, meter: PhasePeaks, ranks: Ranks):
        self.experiment, self.recorder, self.meter, self.ranks = experiment, recorder, meter, ranks
        self.split = "test" if experiment.test else "validation"  # what the run is judged on
        self.exact_match: ExactMatch | None = None
        self.elsewhere: dict[
            str, float | None
        ] = {}  # per-token loss of the second set, before and after
        self._second: list[data.Row] = []
        self._second_facts: dict = {}

    def load(self, own: data.DataSet, tokenizer: PreTrainedTokenizerBase, positions: float) -> None:
        """Take the questions of `own`, and read the second set.

        Args:
            positions: what the model was made for, a prompt and its answer together.

        Raises:
            ConfigError: no test rows where they are asked for, no questions, none with room for an answer, or no rows
                in the second set.
        """
        if self.experiment.test and not own.splits["test"]:
            raise ConfigError(
                "test",
                True,
                f"{self.experiment.data.name} has no test rows; data.test_share takes some",
            )
        if self.experiment.exact_match is not None:
            self.exact_match = ExactMatch(
                self.experiment,
                own.questions(self.split),
                self.split,
                own.answer_end_tokens(tokenizer),
                positions,
            )
        chosen = self.experiment.forgetting.data
        if chosen is not None:
            try:
                with self.meter.phase("evaluate"):
                    found = data.load_dataset(chosen, tokenizer, self.experiment.max_length)
            except ConfigError as error:
                raise ConfigError(f"forgetting.{error.key}", error.value, error.allowed) from error
            self._second = found.splits["validation"] or found.splits["test"]
            if not self._second:
                raise ConfigError(
                    "forgetting.data.path", chosen.path, "has neither validation nor test rows"
                )
            self._second_facts = {
                "data": chosen.name,
                "rows": len(self._second),
                "fingerprint": found.fingerprint,
                "tokens": sum(row.labels for row in self._second),
            }

    def look_elsewhere(
        self, when: str, step: int, mean_loss: Callable[[list[data.Row]], float]
    ) -> None:
        """Evaluate the second set, if there is one; `when` is before or after."""
        if self._second:
            self.elsewhere[when] = loss = mean_loss(self._second)
            self.recorder.log({"step": step, "second_set_loss": loss})

    def match_answers(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        step: int,
        autocast: Callable[[], AbstractContextManager],
        stopping: Callable[[], bool],
    ) -> bool:
        """Generate and score an answer to each question, if there are any, in a phase of its own.

        Each rank answers its share, and knows all answers in the end.

        Args:
            stopping: asked after each batch, by all ranks at once.

        Returns:
            Whether none is left; False where `stopping` said so.
        """
        asked = self.exact_match
        if asked is None:
            return True
        log.info("generating %d answers", len(asked.questions))
        with self.meter.phase("generate"), autocast():
            parts = asked.parts()
            parts += [[]] * (-len(parts) % self.ranks.count)  # they wait for each other after each
            for rows in parts[self.ranks.index :: self.ranks.count]:
                if rows:
                    asked.ask(rows, model, tokenizer)
                self.recorder.alive()
                if stopping():
                    return False
        for scores, seconds in self.ranks.gather((asked.scores, asked.seconds)):
            asked.scores.update(scores)
            asked.seconds = max(asked.seconds, seconds)
        self.recorder.keep_answers(asked.lines())
        self.recorder.log(
            {"step": step, "exact_match": asked.value, "generate_seconds": round(asked.seconds, 3)}
        )
        return True

    def values(self, losses: dict[str, float | None]) -> dict[str, float]:
        """The record's `metrics`, as far as they were measured; each is a column of the report."""
        values, loss = {}, losses["test" if self.experiment.test else "final"]
        if loss is not None:
            values["perplexity"] = (
                math.exp(loss) if loss < 700 else math.inf
            )  # a float ends at e^709
        if self.exact_match and self.exact_match.whole:
            values["exact_match"] = self.exact_match.value
        before, after = (self.elsewhere.get(when) for when in ("before", "after"))
        if before is not None and after is not None:
            values["forgetting"] = after - before
        return values

    def facts(self, values: dict[str, float]) -> dict[str, dict]:
        """The record's `metric_facts`: on what `values` were measured, what that took, and each row's score."""
        facts: dict[str, dict] = (
            {"perplexity": {"split": self.split}} if "perplexity" in values else {}
        )
        if self.exact_match and self.exact_match.whole:
            facts["exact_match"] = self.exact_match.facts()
        if self.elsewhere:
            facts["forgetting"] = {**self._second_facts, **self.elsewhere}
        return facts


class ExactMatch:
    """Generated answers beside the right ones, row by row."""

    def __init__(
        self,
        experiment: Experiment,
        questions: list[data.Question],
        split: str,
        ends: set[int],
        positions: float,
    ):
        """Take the first `experiment.exact_match_limit` questions.

        A prompt that leaves no room for an answer among the model's `positions` is never asked, and counts as wrong.

        Args:
            ends: tokens that end an answer beside the tokenizer's end token.

        Raises:
            ConfigError: there are none, or none that can be asked.
        """
        assert experiment.exact_match is not None
        self.experiment, self.extractor, self.split, self.seconds = (
            experiment,
            experiment.exact_match,
            split,
            0.0,
        )
        self.ends = ends
        self.questions = questions[: experiment.exact_match_limit]
        self.scores: dict[int, dict] = {}
        if not self.questions:
            raise ConfigError(
                "exact_match",
                self.extractor,
                f"the {split} split of {experiment.data.name} has no questions: "
                "it is empty, or plain text",
            )
        for row, question in enumerate(self.questions):
            if len(question.prompt) + experiment.max_new_tokens > positions:
                self.scores[row] = {"row": row, "correct": False, "too_long": len(question.prompt)}
        if self.whole:
            raise ConfigError(
                "max_new_tokens",
                experiment.max_new_tokens,
                f"leaves no prompt of the {split} split any room "
                f"among the model's {positions} positions",
            )
        if self.scores:
            log.warning(
                "exact_match: %d of %d prompts leave no room for max_new_tokens=%d among the model's %d "
                "positions, and count as wrong",
                len(self.scores),
                len(self.questions),
                experiment.max_new_tokens,
                positions,
            )

    def parts(self) -> list[list[int]]:
        """Numbers of the rows that still want an answer, by batch; the longest first, so what fits shows at once."""
        open_rows = (row for row in range(len(self.questions)) if row not in self.scores)
        rows = sorted(open_rows, key=lambda row: -len(self.questions[row].prompt))
        size = self.experiment.eval_batch_size or self.experiment.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def ask(self, rows: list[int], model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Generate the answers to one batch of rows, and score them."""
        started = time.perf_counter()
        answers = generate_answers(
            model,
            tokenizer,
            [self.questions[row].prompt for row in rows],
            self.experiment.max_new_tokens,
            self.ends,
        )
        for row, answer in zip(rows, answers, strict=True):
            self.scores[row] = self._score(row, answer, tokenizer)
        self.seconds += time.perf_counter() - started

    def _score(self, row: int, answer: Answer, tokenizer: PreTrainedTokenizerBase) -> dict:
        text = str(
            tokenizer.decode(
                answer.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
        right = self.questions[row].answer
        expected = extract_answer(right, self.extractor)
        if (
            expected is None
        ):  # the data gives the bare answer, and a way to it is the model's affair
            expected = normalize_answer(right)
        found = extract_answer(text, self.extractor)
        return {
            "row": row,
            "correct": found == expected,
            "found": found,
            "expected": expected,
            "generated": text,
            "tokens": len(answer.ids) + answer.ended,
            "ended": answer.ended,
        }

    @property
    def whole(self) -> bool:
        """Whether every row has its score."""
        return len(self.scores) == len(self.questions)

    @property
    def value(self) -> float:
        """The share of rows whose answer is right."""
        return sum(score["correct"] for score in self.scores.values()) / len(self.questions)

    def lines(self) -> list[dict]:
        """The scores in the order of the rows, as answers.jsonl holds them."""
        return [self.scores[row] for row in sorted(self.scores)]

    def facts(self) -> dict:
        """On what it was measured, and what came of it; `scores` has a 1 for each row that was right, else a 0."""
        lines = self.lines()
        return {
            "split": self.split,
            "rows": len(self.questions),
            "extractor": self.extractor,
            "max_new_tokens": self.experiment.max_new_tokens,
            "found": sum(line.get("found") is not None for line in lines),
            "cut_off": sum(not line.get("ended", True) for line in lines),
            "too_long": sum("too_long" in line for line in lines),
            "generated_tokens": sum(line.get("tokens", 0) for line in lines),
            "seconds": round(self.seconds, 3),
            "scores": "".join(str(int(line["correct"])) for line in lines),
        }
