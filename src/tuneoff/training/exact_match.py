"""Exact match: generated answers beside the right ones, row by row."""

import logging
import time
from collections import Counter
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuneoff import data
from tuneoff.config import ConfigError, Experiment
from tuneoff.config.extractors import extract_answer, normalize_answer
from tuneoff.training.generate import Answer, generate_answers
from tuneoff.training.session import Session
from tuneoff.training.step import Engine

log = logging.getLogger(__name__)
Questions = list[data.Question]


class ExactMatch:
    """The questions of a split, and the score of each answer so far."""

    def __init__(
        self,
        experiment: Experiment,
        questions: Questions,
        split: str,
        ends: set[int],
        positions: float,
    ):
        """Take the first `experiment.exact_match_limit` questions, of several sets as many of each.

        A prompt that leaves no room for an answer among the model's `positions` is never asked, and counts as wrong.

        Args:
            split: where the questions are from, for the record.
            ends: tokens that end an answer beside the tokenizer's end token.
            positions: what the model was made for, a prompt and its answer together; may be infinite.

        Raises:
            ConfigError: there are none, or none that can be asked.
        """
        assert experiment.exact_match is not None
        self.experiment = experiment
        self.extractor = experiment.exact_match
        self.split = split
        self.ends = ends
        self.questions = take_evenly(questions, experiment.exact_match_limit)
        self.scores: dict[int, dict] = {}  # by row, as a line of answers.jsonl
        self.seconds = 0.0  # that answering took
        if not self.questions:
            raise ConfigError(
                "exact_match",
                self.extractor,
                f"the {split} split of {experiment.data.name} has no questions: "
                "it is empty, or plain text",
            )
        self._pass_over_long_prompts(positions)

    def _pass_over_long_prompts(self, positions: float) -> None:
        most = self.experiment.max_new_tokens
        for row, question in enumerate(self.questions):
            length = len(question.prompt)
            if length + most > positions:
                self.scores[row] = {"row": row, "correct": False, "too_long": length}
        if self.complete:
            raise ConfigError(
                "max_new_tokens",
                most,
                f"leaves no prompt of the {self.split} split any room "
                f"among the model's {positions} positions",
            )
        if self.scores:
            log.warning(
                "exact_match: %d of %d prompts leave no room for max_new_tokens=%d among the model's %d "
                "positions, and count as wrong",
                len(self.scores),
                len(self.questions),
                most,
                positions,
            )

    # ------------------------------------------------------------ answering
    def open_batches(self) -> list[list[int]]:
        """Numbers of the rows that still want an answer, by batch; the longest first, so what fits shows at once."""
        every_row = range(len(self.questions))
        rows = [row for row in every_row if row not in self.scores]
        rows.sort(key=lambda row: -len(self.questions[row].prompt))
        experiment = self.experiment
        evaluated_rows = experiment.eval_batch_size or experiment.batch_size
        size = experiment.exact_match_batch_size or evaluated_rows
        starts = range(0, len(rows), size)
        return [rows[start : start + size] for start in starts]

    def answer(self, rows: list[int], model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Generate the answers to one batch of rows, and score them."""
        started = time.perf_counter()
        prompts = [self.questions[row].prompt for row in rows]
        answers = generate_answers(
            model, tokenizer, prompts, self.experiment.max_new_tokens, self.ends
        )
        for row, answer in zip(rows, answers, strict=True):
            self.scores[row] = self._score(row, answer, tokenizer)
        self.seconds += time.perf_counter() - started

    def _score(self, row: int, answer: Answer, tokenizer: PreTrainedTokenizerBase) -> dict:
        text = tokenizer.decode(
            answer.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        generated = str(text)
        return {
            "row": row,
            **self._compare(generated, self.questions[row].answer),
            "generated": generated,
            "tokens": len(answer.ids) + answer.ended,
            "ended": answer.ended,
        }

    def _compare(self, generated: str, right: str) -> dict:
        """What was looked for in a generated text and in the right answer, and whether the two are one."""
        try:
            expected = extract_answer(right, self.extractor)
            extracted = extract_answer(generated, self.extractor)
        except TimeoutError:
            return {"correct": False, "timed_out": True}
        if expected is None:
            # The data give the bare answer, and the way to it is the model's affair.
            expected = normalize_answer(right)
        return {"correct": extracted == expected, "found": extracted, "expected": expected}

    def merge(self, other_scores: dict[int, dict], other_seconds: float) -> None:
        """Take over what another rank has scored meanwhile."""
        self.scores.update(other_scores)
        self.seconds = max(self.seconds, other_seconds)

    # ------------------------------------------------------------ what came of it
    @property
    def complete(self) -> bool:
        """Whether every row has its score."""
        return len(self.scores) == len(self.questions)

    @property
    def value(self) -> float:
        """The share of rows whose answer is right."""
        correct = sum(score["correct"] for score in self.scores.values())
        return correct / len(self.questions)

    def values_by_set(self) -> dict[str, float]:
        """Of several sets the share of right answers in each; empty of one set."""
        right: dict[str, list[bool]] = {}
        for row, score in self.scores.items():
            set_name = self.questions[row].set_name
            if set_name:
                right.setdefault(set_name, []).append(score["correct"])
        shares = {}
        for name, scores in sorted(right.items()):
            shares[name] = sum(scores) / len(scores)
        return shares

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
            "timed_out": sum("timed_out" in line for line in lines),
            "generated_tokens": sum(line.get("tokens", 0) for line in lines),
            "seconds": round(self.seconds, 3),
            "scores": "".join("1" if line["correct"] else "0" for line in lines),
        }


def take_evenly(questions: Questions, limit: int | None) -> Questions:
    """The first questions, as many of each set as there are for `limit`, in their order."""
    if limit is None or limit >= len(questions):
        return questions
    seen: Counter = Counter()
    turns = []
    for place, question in enumerate(questions):
        turns.append((seen[question.set_name], place))
        seen[question.set_name] += 1
    taken = sorted(place for _, place in sorted(turns)[:limit])
    return [questions[place] for place in taken]


def answer_questions(
    exact_match: ExactMatch,
    session: Session,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
) -> None:
    """Generate and score an answer to each open question, in a phase of its own.

    Each rank answers its share, and knows all answers in the end. All ranks must call.

    Raises:
        StopSignal: one of the ranks was asked to stop.
    """
    ranks = session.ranks
    log.info("generating %d answers", len(exact_match.questions))
    with session.peaks.phase("generate"), engine.autocast():
        batches = exact_match.open_batches()
        # Ranks wait for each other after each batch, so that all need as many.
        missing = -len(batches) % ranks.count
        batches += [[]] * missing
        for rows in batches[ranks.index :: ranks.count]:
            if rows:
                exact_match.answer(rows, model, tokenizer)
            session.recorder.alive()
            ranks.gather_with_peaks(None, session.peaks)
            session.stop_if_asked()
    for scores, seconds in ranks.gather((exact_match.scores, exact_match.seconds)):
        exact_match.merge(scores, seconds)
