"""Which rows a step sees depends on the seed and the position alone, and little of what they become is padding."""

import itertools
import random
from array import array

import pytest
import torch
from helpers import METHODS, quick_of, trajectory

from tuneoff.data import PackedRow, Row, StepOrder, collate, join_rows, pack_rows
from tuneoff.data.packing import example_starts


def examples(count, seed=0, longest=512):
    """Questions and answers about as long as GSM8K's; the first token of each says which example it is."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        question = round(draw.lognormvariate(4.2, 0.35))
        size = min(longest, question + round(draw.lognormvariate(4.9, 0.5)))
        ids = array("i", [index, *draw.choices(range(4096), k=size - 1)])
        rows.append(Row(ids, ((min(question, size - 1), size),)))
    return rows


ROWS = examples(403)
WAYS = ("group_by_length", "packing")


def padding_share(plan, steps, size):
    """Share of padding among all positions of the first `steps`, in micro-batches of `size` rows."""
    batches = [
        collate(rows[start : start + size], 0)
        for rows in map(plan.step_rows, range(steps))
        for start in range(0, len(rows), size)
    ]
    return 1 - sum(batch.tokens for batch in batches) / sum(
        batch.input_ids.numel() for batch in batches
    )


# ---------------------------------------------------------------- the order
@pytest.mark.parametrize("size", [1, 8, 60, 500])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_is_seen_once_an_epoch(grouped, size):
    plan = StepOrder(ROWS, 3, size, epochs=3, grouped=grouped)
    steps = plan.count_steps("epochs", 3)
    order = [index for step in range(steps) for index in plan.indices(step)]
    epochs = [order[start : start + 403] for start in (0, 403, 806)]
    assert all(sorted(epoch) == list(range(403)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert plan.indices(steps - 1) and not plan.indices(
        steps
    )  # the last step may be short, and there is none after


@pytest.mark.parametrize("grouped", [False, True])
def test_position_alone_decides(grouped):
    """A plan that has seen nothing gives any step's rows at once: a resume needs no state."""
    whole = StepOrder(ROWS, 3, 8, grouped=grouped)
    passed = [whole.indices(step) for step in range(160)]
    for step in (159, 100, 0, 51):
        assert StepOrder(ROWS, 3, 8, grouped=grouped).indices(step) == passed[step]
    assert StepOrder(ROWS, 4, 8, grouped=grouped).indices(100) != passed[100]


def test_unshuffled_rows_come_as_the_set_has_them():
    plan = StepOrder(ROWS, 3, 8, epochs=2, shuffled=False)
    order = [index for step in range(101) for index in plan.indices(step)]
    assert order == [*range(403), *range(403)]
    other_seed = StepOrder(ROWS, 4, 8, epochs=2, shuffled=False)
    assert other_seed.order_hash(9) == plan.order_hash(9) != StepOrder(ROWS, 3, 8).order_hash(9)


def test_grouped_rows_are_alike_long_and_steps_come_in_any_order():
    plain, grouped = (StepOrder(ROWS, 0, 8, grouped=grouped) for grouped in (False, True))
    # An epoch's 403 rows are 50 steps and 3 rows that begin the next.
    assert padding_share(plain, 50, 8) > 0.35
    assert padding_share(grouped, 50, 8) < 0.08
    assert padding_share(grouped, 200, 8) < 0.09  # also where an epoch begins inside a step
    longest = [len(grouped.step_rows(step)[0].ids) for step in range(50)]
    rising = sum(one < two for one, two in itertools.pairwise(longest))
    assert 15 < rising < 35
    again = [sorted(grouped.indices(step)) for step in range(51, 100)]
    assert not any(
        sorted(grouped.indices(step)) in again for step in range(50)
    )  # nobody always meets the same


def test_rows_of_a_step_are_padded_less_when_they_are_cut_into_micro_batches():
    plan = StepOrder(ROWS, 0, 32)
    assert padding_share(plan, 12, 32) > 0.45
    assert padding_share(plan, 12, 8) < 0.18


@pytest.mark.parametrize("option", quick_of(WAYS, "packing"))
def test_every_method_sees_the_same(new_run, tmp_path, option):
    seen = set()
    for method in METHODS:
        extra = ["galore_rank=8"] if "galore" in method else []
        training = new_run(f"method={method}", f"{option}=true", *extra, folder=tmp_path / method)
        seen.add(training.parts.order.order_hash(20))
    assert len(seen) == 1


# ---------------------------------------------------------------- packing
def test_packs_hold_every_example_once_and_are_nearly_full():
    packs = pack_rows(ROWS, 512)
    assert max(len(one.ids) for one in packs) <= 512
    found = [one.ids[start] for one in packs for start in one.starts]
    assert sorted(found) == list(range(403))
    tokens = sum(len(row.ids) for row in ROWS)
    assert sum(len(one.ids) for one in packs) == tokens
    assert len(packs) < 1.05 * tokens / 512 < len(ROWS) / 2
    assert padding_share(StepOrder(packs, 0, 4), 45, 4) < 0.04


def test_a_pack_is_its_examples_one_after_another():
    rows = [
        Row(array("i", [5, 6, 7]), ((1, 3),)),
        Row(array("i", [8, 9, 10, 11]), ((1, 2), (3, 4))),
    ]
    assert join_rows(rows) == PackedRow(array("i", range(5, 12)), ((1, 3), (4, 5), (6, 7)), (0, 3))


def test_a_packed_batch_asks_what_its_examples_ask():
    packs = pack_rows(ROWS[:40], 512)
    batch = collate(packs, 0)
    ids, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    assert (batch.tokens, batch.examples) == (sum(len(row.ids) for row in ROWS[:40]), 40)
    assert batch.label_tokens == sum(row.labels for row in ROWS[:40])
    assert torch.equal(ids[batch.keep + 1], batch.labels)
    # The token after a place is of the same example: nothing is predicted across a boundary.
    assert torch.equal(positions[batch.keep + 1], positions[batch.keep] + 1)
    for row, line in zip(packs, batch.position_ids, strict=True):
        begins = (line == 0).nonzero().flatten().tolist()
        # Padding is an example of its own.
        assert begins == sorted({*example_starts(row), len(row.ids)} - {batch.input_ids.shape[1]})


def test_rows_of_one_example_need_neither_positions_nor_mask():
    batch = collate(ROWS[:8], 0)
    assert batch.position_ids is None and batch.examples == 8
    flat, length = batch.input_ids.flatten(), batch.input_ids.shape[1]
    for index, row in enumerate(ROWS[:8]):
        assert batch.input_ids[index].tolist() == [*row.ids, *[0] * (length - len(row.ids))]
    expected = [
        token for row in ROWS[:8] for start, end in row.spans for token in row.ids[start:end]
    ]
    assert flat[batch.keep + 1].tolist() == batch.labels.tolist() == expected


def test_budgets_count_packs_as_rows(run):
    """An epoch is every example once; tokens are those of the examples."""
    options = [
        "method=full",
        "packing=true",
        "max_steps=null",
        "max_length=256",
        "data.limit=24",
        "batch_size=2",
    ]
    result = run(*options, "epochs=1")
    plain = run("method=full", "max_steps=null", "epochs=1", "max_length=256", "data.limit=24")
    speed = result["throughput"]
    assert speed["tokens_seen"] == plain["throughput"]["tokens_seen"]
    steps = [line for line in result["curve"] if "loss" in line]
    assert len(steps) < 10 and speed["padding_share"] < 0.2 < plain["throughput"]["padding_share"]
    limited = run(*options, "max_tokens=2500")
    tokens = [line["tokens"] for line in limited["curve"] if "loss" in line]
    assert tokens[-2] < 2500 <= tokens[-1]


@pytest.mark.slow
@pytest.mark.parametrize("option", WAYS)
def test_a_run_resumed_in_a_later_epoch_ends_bit_identical(new_run, tmp_path, option):
    from tuneoff.training.failures import Interrupted

    def train(folder, *overrides, stop=None):
        training = new_run(
            "method=lora",
            f"{option}=true",
            "data.limit=24",
            "max_length=200",
            "batch_size=1",
            "gradient_accumulation_steps=3",
            "max_steps=12",
            "lora_dropout=0.1",
            *overrides,
            folder=folder,
        )
        assert 3 < len(training.parts.order.rows) < 9 * 3  # nine steps are done when it stops
        one_step = training.trainer.take_step

        def watched(step):
            if step == stop:
                training.session.stop.set()  # as SIGTERM does: a checkpoint after this step, and the end
            one_step(step)

        training.trainer.take_step = watched
        if stop:
            with pytest.raises(Interrupted):
                training.fit()
        else:
            training.fit()
        training.parts.recorder.close()
        return trajectory(folder), [
            parameter.detach() for parameter in training.parts.model.parameters()
        ]

    lines, weights = train(tmp_path / "whole")
    assert len(train(tmp_path / "stopped", stop=8)[0]) == 10
    resumed, others = train(tmp_path / "stopped", "resume=auto")
    assert resumed == lines and len(lines) == 14
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
