"""One run in several processes: the same losses as in one, one record, and nothing left when a rank dies."""

import json
import os
import signal
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import MagicMock, patch

import pytest
import torch
from helpers import (
    METHODS,
    quick_of,
    trajectory,
)
from test_metrics import LEARN, SECOND, SUMS, sums  # noqa: F401 (a fixture)
from transformers import AutoModelForCausalLM

from tuneoff.config import ConfigError
from tuneoff.data import Row, collate, evaluation_batches, split_between_ranks
from tuneoff.distributed import ranks as ranks_module
from tuneoff.jobs import supervisor
from tuneoff.jobs.work import TrainWork
from tuneoff.record import read_json
from tuneoff.training import exact_match, step_under_way, trainer
from tuneoff.training.step import summed_loss

ROWS = [Row(array("i", range(1, 3 + size)), ((1, 2 + size),)) for size in (3, 50, 9, 17, 1, 30, 5)]
ALONE = {"badam", "badam_ratio", "galore_layerwise"}  # METHODS.md
# Beyond the directions that these gradients have, a projection is rounding noise, however the rows are split.
OPTIONS = {"galore": ["galore_rank=4", "galore_update_interval=5"]}


# ---------------------------------------------------------------- dealing rows
def test_every_row_is_dealt_once_and_every_rank_gets_as_many_batches():
    for ranks in (1, 2, 3, 8):
        shares = [
            split_between_ranks([ROWS[i : i + 2] for i in range(0, 7, 2)], rank, ranks)
            for rank in range(ranks)
        ]
        assert len({len(share) for share in shares}) == 1
        assert sorted(
            row for share in shares for part in share for row in part if row.spans
        ) == sorted(ROWS)
        evaluated = [
            batch for rank in range(ranks) for batch in evaluation_batches(ROWS, 2, 0, rank, ranks)
        ]
        assert sum(batch.label_tokens for batch in evaluated) == sum(row.labels for row in ROWS)


def test_the_row_that_stands_in_adds_nothing_but_reaches_every_weight(debug_model):
    model = AutoModelForCausalLM.from_pretrained(debug_model)
    (blank,) = split_between_ranks([ROWS[:2]], 1, 2)
    loss = summed_loss(model, collate(blank, 0))
    loss.backward()
    assert loss.item() == 0
    assert all(
        parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters()
    )


# ---------------------------------------------------------------- two processes
@dataclass(frozen=True)
class PatchedWork(TrainWork):
    """Calls a function in place of training, which may train in its turn."""

    function: Callable

    def run(self) -> dict:
        return self.function(self.experiment, self.method, self.folder, self.start)


def perform(experiment, method, folder, start) -> dict:
    return TrainWork(experiment, method, folder, start).run()


@pytest.fixture
def two(settings, tmp_path):
    """`two("method=full", …)` trains in two processes that the supervisor starts, and returns (result, folder)."""

    def start(*overrides, work=perform, folder=tmp_path / "two"):
        experiment, method, config = settings(*overrides, "num_processes=2")
        told = {
            "config": config,
            "command": list(overrides),
            "method": experiment.method,
            "seed": experiment.seed,
        }
        patched = PatchedWork(experiment, method, folder, told, work)
        supervisor.run_supervised(patched, supervisor.Limits(), tmp_path / "run.log")
        return read_json(folder / "result.json"), folder

    return start


def compare_processes(make_settings, folder, measured, method: str) -> None:
    """Six steps of four rows in one process, and in two: the losses are the same, or the method says why it refuses.

    Args:
        make_settings: `make_settings(method, *words)` returns (experiment, method, config).
    """
    shared = ["max_steps=6", "max_grad_norm=null"]
    splits = {
        1: ["batch_size=4"],
        2: ["batch_size=1", "gradient_accumulation_steps=2", "num_processes=2"],
    }
    losses = []
    for processes, words in splits.items():
        try:
            experiment, chosen, config = make_settings(method, *shared, *words)
        except ConfigError as refused:
            assert processes == 2
            measured(method, "two processes", refused.allowed)
            return
        place = folder / str(processes)
        start = {"config": config, "method": method, "seed": experiment.seed}
        work = TrainWork(experiment, chosen, place, start)
        supervisor.run_supervised(work, supervisor.Limits(), folder / f"{processes}.log")
        result = read_json(place / "result.json")
        assert result["status"] == "finished", result["error"]
        losses.append([line["loss"] for line in result["curve"] if "loss" in line])
    assert len(losses[0]) == 6
    largest = max(abs(one - other) for one, other in zip(*losses, strict=True))
    measured(method, "two processes", largest)
    assert largest <= 1e-4


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """45 rows to train on, in 12 steps of 4, so that in the last one a rank has none; answers of 1 to 45 words."""
    path = tmp_path_factory.mktemp("uneven") / "rows.jsonl"
    splits = ["train"] * 45 + ["validation"] * 7
    rows = [
        {
            "prompt": f"say {number}",
            "completion": "return self " * (number * 17 % 45 + 1),
            "split": split,
        }
        for number, split in enumerate(splits)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TOGETHER = [method for method in METHODS if method not in ALONE]


def choose_uneven(rows) -> list[str]:
    """The options of one epoch over rows of uneven lengths, with clipping."""
    return [
        f"data.path={rows}",
        "data.limit=null",
        "max_steps=null",
        "epochs=1",
        "eval_every=6",
        "max_grad_norm=1",
    ]


@pytest.mark.parametrize("method", quick_of(TOGETHER, "lora"))
def test_two_processes_give_the_losses_of_one(run, two, uneven, measured, method):
    options = [f"method={method}", *choose_uneven(uneven), *OPTIONS.get(method, [])]
    one = run(*options, "batch_size=4")
    result, folder = two(*options, "batch_size=1", "gradient_accumulation_steps=2")
    assert result["status"] == "finished", result["error"]
    for made, processes, sharding in ((one, 1, "none"), (result, 2, "ddp")):
        assert made["provenance"]["num_processes"] == processes
        assert made["provenance"]["sharding"] == sharding
    for key in ("batch_order_hash", "base_weights_hash", "data"):
        assert result["provenance"][key] == one["provenance"][key]
    steps = [[line for line in other["curve"] if "loss" in line] for other in (one, result)]
    assert len(steps[0]) == len(steps[1]) == 12
    for alone, together in zip(*steps, strict=True):
        measured(method, "two processes", abs(together["loss"] - alone["loss"]))
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        assert together["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-3)
        assert (together["tokens"], together["lr"]) == (alone["tokens"], alone["lr"])
    for key in ("initial", "final", "best"):
        assert result["loss"][key] == pytest.approx(one["loss"][key], abs=1e-4)
    assert result["parameters"] == one["parameters"]
    assert result["throughput"]["tokens_seen"] == one["throughput"]["tokens_seen"]
    by_rank, highest = result["memory"]["peak_gib_by_rank"], result["memory"]["peak_gib"]
    assert len(by_rank) == 2 and {*highest} == {"load", "train", "evaluate"}
    assert all(highest[phase] == max(rank[phase] for rank in by_rank) for phase in highest)
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "run.json",
        "metrics.jsonl",
        "result.json",
    }


def test_methods_that_need_one_process_are_refused(settings, measured):
    refused = set()
    for method in METHODS:
        try:
            settings(f"method={method}", "num_processes=2")
        except ConfigError as error:
            assert str(error).startswith("num_processes=2: must be 1 where")
            measured(method, "two processes", error.allowed)
            refused.add(method)
    assert refused == ALONE


@pytest.mark.slow
def test_task_metrics_are_those_of_one(run, two, sums):  # noqa: F811
    options = [
        *LEARN,
        *SECOND,
        f"data.path={sums}",
        "test=true",
        "eval_batch_size=2",
    ]  # three batches for two ranks
    one = run(*options)
    result, folder = two(*options, "batch_size=3")
    assert (
        result["metrics"] == pytest.approx(one["metrics"], rel=0.01)
        and one["metrics"]["exact_match"] == 1
    )
    timeless = [{**other["metric_facts"]["exact_match"], "seconds": 0} for other in (one, result)]
    assert timeless[0] == timeless[1]
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [answer["generated"] for answer in answers] == [completion for _, completion in SUMS]
    assert all(rank["generate"] > 0 for rank in result["memory"]["peak_gib_by_rank"])


def stopped_while_it_answers(experiment, method, folder, start):
    """SIGTERM reaches the second process alone, behind its first batch of answers."""
    answer = exact_match.ExactMatch.answer

    def until(self, *given):
        answer(self, *given)
        if int(os.environ["RANK"]):
            signal.raise_signal(signal.SIGTERM)

    exact_match.ExactMatch.answer = until
    return perform(experiment, method, folder, start)


def test_all_stop_answering_where_one_is_told_to(two, sums):  # noqa: F811
    options = [*LEARN, f"data.path={sums}", "max_steps=2", "batch_size=1"]
    result, folder = two(*options, work=stopped_while_it_answers)
    assert result["status"] == "interrupted" and "exact_match" not in result["metrics"]
    result, folder = two(*options, "resume=auto", folder=folder)
    assert (
        result["status"] == "finished"
        and result["resumed_at_step"] == 2
        and "exact_match" in result["metrics"]
    )


# ---------------------------------------------------------------- stopped, resumed, lost
def stopped_after(steps, experiment, method, folder, start):
    """Train, as if every process were killed after so many steps; without a number, to the end."""
    one_step = trainer.Trainer.take_step

    def until(self, step):
        if step == steps:
            os._exit(9)
        one_step(self, step)
        if step == 10:
            (folder.parent / f"{folder.name}.{self.parts.ranks.index}").write_text(
                json.dumps(
                    [
                        float(sum(p.double().sum() for p in self.parts.model.parameters())),
                        torch.get_rng_state().sum().item(),
                    ]
                )
            )

    trainer.Trainer.take_step = until
    return perform(experiment, method, folder, start)


def ahead(work, experiment, method, folder, start):
    """Have every rank read a step while the next one runs, and speak to the others as beside NCCL."""
    step_under_way.computes_beside_host = lambda device: True
    join = ranks_module.join_hosts

    def join_beside_nccl():
        with patch.object(torch.distributed, "get_backend", return_value="nccl"):
            group = join()
        assert group is not torch.distributed.group.WORLD
        return group

    ranks_module.join_hosts = join_beside_nccl
    return work(experiment, method, folder, start)


def test_ranks_that_do_not_reach_each_other_are_told_what_to_set(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    refused = MagicMock(side_effect=RuntimeError("connection refused"))
    monkeypatch.setattr(torch.distributed, "new_group", refused)
    with pytest.raises(RuntimeError, match="GLOO_SOCKET_IFNAME=NAME names the network interface"):
        ranks_module.join_hosts()
    assert refused.call_args.kwargs["timeout"] < ranks_module.PATIENCE


@pytest.mark.slow
def test_ranks_leave_their_group_when_all_have_finished(run, monkeypatch):
    """A process that ends within it may be aborted, upon which its launcher ends the others."""
    left = []
    monkeypatch.setattr(ranks_module.Ranks, "leave", lambda ranks: left.append(ranks.index))
    assert run("method=lora", "max_steps=1")["status"] == "finished" and left == [0]
    monkeypatch.setattr(trainer.Trainer, "fit", MagicMock(side_effect=RuntimeError("lost")))
    assert run("method=lora", "max_steps=1")["status"] == "failed" and left == [0]


def test_ranks_wait_for_each_other_before_they_leave(monkeypatch):
    calls = MagicMock()
    monkeypatch.setattr(torch.distributed, "destroy_process_group", calls.destroy)
    monkeypatch.setattr(ranks_module.Ranks, "gather", calls.gather)
    ranks = ranks_module.Ranks.__new__(ranks_module.Ranks)
    ranks.count = 1
    ranks.leave()
    assert not calls.mock_calls
    ranks.count = 2
    ranks.leave()
    assert [call[0] for call in calls.mock_calls] == ["gather", "destroy"]


def test_a_stopped_run_ends_bit_identical_and_dropout_differs_by_rank(two, tmp_path):
    """The whole one reads each step at its end; the stopped one while the next step runs."""
    options = [
        "method=lora",
        "lora_dropout=0.2",
        "max_steps=11",
        "save_every=2",
        "eval_every=4",
        "batch_size=2",
    ]
    two(*options, work=partial(stopped_after, None))
    killed = partial(ahead, partial(stopped_after, 7))
    result, folder = two(*options, work=killed, folder=tmp_path / "stopped")
    assert (
        result["status"] == "killed"
        and "rank 0 of 2 ended by exit code 9" in result["error"]["message"]
    )
    resumed = partial(ahead, partial(stopped_after, None))
    result, folder = two(*options, "resume=auto", work=resumed, folder=folder)
    assert result["resumed_at_step"] == 6
    assert trajectory(folder) == trajectory(tmp_path / "two")
    ends = [
        json.loads((tmp_path / f"{name}.{rank}").read_text())
        for name in ("two", "stopped")
        for rank in (0, 1)
    ]
    assert len({weights for weights, _ in ends}) == 1
    assert ends[:2] == ends[2:] and ends[0][1] != ends[1][1]


def signalled_in_the_second(experiment, method, folder, start):
    """SIGTERM reaches the second rank alone, while it launches its fourth step."""
    launch = trainer.launch_step

    def until(parts, batches, step):
        if step == 3 and parts.ranks.index == 1:
            signal.raise_signal(signal.SIGTERM)
        return launch(parts, batches, step)

    trainer.launch_step = until
    return perform(experiment, method, folder, start)


@pytest.mark.slow
def test_ranks_that_run_ahead_stop_together(two, tmp_path):
    """All learn of it by what they read of the third step, while the fourth runs; none takes a fifth."""
    options = ["method=lora", "max_steps=6", "eval_every=2", "lora_dropout=0.1", "batch_size=2"]
    two(*options, folder=tmp_path / "whole")
    result, folder = two(*options, work=partial(ahead, signalled_in_the_second))
    assert result["status"] == "interrupted" and "after step 4" in result["error"]["message"]
    result, folder = two(*options, "resume=auto", work=partial(ahead, perform))
    assert result["resumed_at_step"] == 4
    assert trajectory(folder) == trajectory(tmp_path / "whole")


@pytest.mark.slow
def test_ranks_that_run_ahead_end_a_budget_of_seconds_together(two):
    options = ["method=lora", "max_steps=null", "max_seconds=0.5", "batch_size=2"]
    result, _ = two(*options, work=partial(ahead, perform))
    assert result["status"] == "finished", result["error"]
    lines = [line for line in result["curve"] if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert sum(line["step_seconds"] for line in lines) >= 0.5


def diverges_in_the_second(experiment, method, folder, start):
    """The second rank's loss of the fourth step is no number; its weights are untouched by that."""
    launch = trainer.launch_step

    def until(parts, batches, step):
        launched = launch(parts, batches, step)
        if step == 3 and parts.ranks.index == 1:
            result = launched.reading.result
            launched.reading.result = result._replace(loss=result.loss * float("nan"))
        return launched

    trainer.launch_step = until
    return perform(experiment, method, folder, start)


@pytest.mark.slow
def test_ranks_that_run_ahead_tell_of_the_step_that_diverged(two):
    result, _ = two("method=lora", "max_steps=6", work=partial(ahead, diverges_in_the_second))
    assert result["status"] == "diverged", result["error"]
    assert "diverged at step 4: loss nan" in result["error"]["message"]
    assert [line["step"] for line in result["curve"]] == [0, 1, 2, 3, 4]


def fails_in_the_second(failure, experiment, method, folder, start):
    one_step = trainer.Trainer.take_step

    def until(self, step):
        if step == 2 and self.parts.ranks.index == 1:
            failure()
        one_step(self, step)

    trainer.Trainer.take_step = until
    return perform(experiment, method, folder, start)


def run_out_of_memory():
    raise MemoryError("no more")


def kill_yourself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_rank_that_fails_ahead_waits_for_no_lost_one(two):
    """It would tell the others what it read of the step before, and they wait for it in the step that it failed in."""
    began = time.monotonic()
    launching = partial(fails_while_launching, run_out_of_memory)
    result, _ = two("method=full", work=partial(ahead, launching))
    assert (result["status"], result["error"]["message"]) == ("out_of_memory", "rank 1: no more")
    assert [line["step"] for line in result["curve"]][:2] == [0, 1]
    assert time.monotonic() - began < supervisor.ALONE_SECONDS + 30


def fails_while_launching(failure, experiment, method, folder, start):
    launch = trainer.launch_step

    def until(parts, batches, step):
        if step == 2 and parts.ranks.index == 1:
            failure()
        return launch(parts, batches, step)

    trainer.launch_step = until
    return perform(experiment, method, folder, start)


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (run_out_of_memory, "out_of_memory", "rank 1: no more"),
        (kill_yourself, "killed", "rank 1 of 2 ended by SIGKILL and left no result"),
    ],
)
def test_what_happens_to_one_rank_is_in_the_record(two, failure, status, message):
    began = time.monotonic()
    result, _folder = two("method=full", work=partial(fails_in_the_second, failure))
    assert (result["status"], result["error"]["message"]) == (status, message)
    assert [line["step"] for line in result["curve"]] == [0, 1, 2] and result["memory"]["peak_gib"][
        "train"
    ] > 0
    assert time.monotonic() - began < supervisor.ALONE_SECONDS + 10


def sleeps_in_the_first(experiment, method, folder, start):
    if int(os.environ["RANK"]):
        raise ValueError("no good")
    time.sleep(60)


def test_the_first_rank_does_not_wait_for_a_lost_one_for_ever(two, monkeypatch):
    monkeypatch.setattr(supervisor, "ALONE_SECONDS", 1.0)
    result, _ = two(work=sleeps_in_the_first)
    assert result["status"] == "failed" and result["error"]["message"] == "no good"


# ---------------------------------------------------------------- split over the processes
def split_by_fsdp(work, experiment, method, folder, start):
    """Have accelerate split the model over CPUs by FSDP2, which it does of itself for other devices alone."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    make = Accelerator.__init__

    def split(self, **settings):
        make(self, **settings)
        # What `accelerate launch` sets, after what it would have of a CPU.
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        self.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )

    Accelerator.__init__ = split
    return work(experiment, method, folder, start)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_fsdp2_gives_the_losses_of_one_process_and_resumes(run, two, uneven, tmp_path, method):
    options = [f"method={method}", *choose_uneven(uneven), "save_every=2", "save_model=true"]
    one = run(*options, "batch_size=4")
    options += ["batch_size=1", "gradient_accumulation_steps=2"]
    result, whole = two(*options, work=partial(split_by_fsdp, partial(stopped_after, None)))
    assert result["status"] == "finished", result["error"]
    for alone, together in zip(one["curve"], result["curve"], strict=True):
        key = "loss" if "loss" in alone else "validation_loss"
        assert together[key] == pytest.approx(alone[key], abs=1e-4)
    assert result["parameters"] == one["parameters"]
    stopped = tmp_path / "stopped"
    two(*options, work=partial(split_by_fsdp, partial(stopped_after, 7)), folder=stopped)
    result, _ = two(
        *options,
        "resume=auto",
        work=partial(split_by_fsdp, partial(stopped_after, None)),
        folder=stopped,
    )
    assert result["resumed_at_step"] == 6 and trajectory(stopped) == trajectory(whole)
    models = [
        AutoModelForCausalLM.from_pretrained(folder / "model")
        for folder in (tmp_path / "run", whole)
    ]
    for (name, ours), theirs in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        assert (ours - theirs).abs().max() <= 1e-3 * ours.abs().max(), name
