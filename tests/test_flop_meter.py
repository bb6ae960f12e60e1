"""What a run's steps compute is told of a few counted ones: by phase of the method's cycle, and also after a resume."""

import json
from types import SimpleNamespace

import pytest
import torch

from tuneoff.measure.flop_meter import FlopCounter, FlopMeter

RATE = 1000.0
CYCLE = (100, 200, 300)  # operations a position, by phase
POSITIONS = 10


class Refreshing:
    """An optimizer that renews something at intervals."""

    refresh_interval = 10


class AtOnce(Refreshing):
    """One that renews all of it in the first step of each interval."""

    refresh_offsets: dict = {}


class Turning:
    """One whose trained weights change in turn, in this order."""

    def __init__(self, interval: int, order: list[int]):
        self.refresh_interval = interval
        self.order = order
        self.steps = 0

    def current_phase(self) -> int:
        return self.order[self.steps // self.refresh_interval]


def make_meter(optimizer) -> FlopMeter:
    return FlopMeter(RATE, "measured", optimizer)


def restore_meter(meter: FlopMeter, optimizer, without: str = "") -> FlopMeter:
    """Another meter that goes on from what a checkpoint keeps of this one."""
    state = json.loads(json.dumps(meter.state()))
    state.pop(without, None)
    other = make_meter(optimizer)
    other.restore(state)
    return other


def take_steps(
    meter: FlopMeter, optimizer: Turning, until: int, ahead: bool = False
) -> SimpleNamespace:
    """Drive a meter as the loop does: what the measured steps did, and which ones were counted.

    Args:
        ahead: whether each step is launched before the last one is read.
    """
    seen = SimpleNamespace(flops=0, counted=[])
    launched = []
    for step in range(optimizer.steps, until):
        counter = meter.start(step)
        launched.append((step, counter, CYCLE[optimizer.current_phase()]))
        optimizer.steps += 1
        if not ahead or len(launched) == 2:
            add_to(meter, seen, *launched.pop(0))
    for rest in launched:
        add_to(meter, seen, *rest)
    return seen


def add_to(meter: FlopMeter, seen: SimpleNamespace, step: int, counter, flops: int) -> None:
    """Count and add a launched step."""
    if counter is not None:
        meter.add_count(step, flops * POSITIONS, POSITIONS)
        seen.counted.append(step)
    share = meter.add_step(POSITIONS, 1.0, measured=counter is None)
    assert share == flops * POSITIONS / RATE
    if counter is None:
        seen.flops += flops * POSITIONS


def first_steps(meter: FlopMeter, flops: int = 1500) -> None:
    """100 a position; the first step does 500 more."""
    meter.start(0)
    meter.add_count(0, flops=flops, positions=10)
    meter.add_step(10, 1.0, measured=False)
    meter.start(1)
    meter.add_count(1, flops=2000, positions=20)
    meter.add_step(20, 1.0, measured=False)


# ---------------------------------------------------------------- renewals
def test_operations_are_counted_in_a_few_steps_and_told_of_the_others():
    meter = make_meter(Refreshing())
    assert meter.add_step(10, 1.0, measured=False) is None  # none was launched
    first_steps(meter)
    assert meter.start(2) is None
    # Those 500 come once in ten steps.
    assert meter.add_step(5, 2.0, measured=True) == pytest.approx((500 + 50) / 2 / RATE)
    meter.start(3)
    meter.add_step(5, 1.0, measured=False)
    facts = meter.facts()
    assert facts["mfu"] == pytest.approx(0.275) and facts["tflops_per_second"] == 2.75e-10
    assert restore_meter(meter, Refreshing()).facts() == facts


def test_what_is_renewed_at_once_counts_to_the_steps_that_renew_it():
    meter = make_meter(AtOnce())
    first_steps(meter)
    shares = []
    for step in range(2, 32):
        assert meter.start(step) is None
        shares.append(meter.add_step(10, 1.0, measured=True))
    assert {step + 2 for step, share in enumerate(shares) if share == 1.5} == {10, 20, 30}
    assert meter.flops == 30 * 1000 + 3 * 500


# ---------------------------------------------------------------- phases
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("interval", [1, 5, 50])
def test_each_phase_is_counted_once_and_told_of_all_its_steps(interval, ahead):
    optimizer = Turning(interval, [0, 1, 2] * 10)
    meter = make_meter(optimizer)
    seen = take_steps(meter, optimizer, 30 * interval, ahead)
    assert set(seen.counted) == {0, 1, interval, 2 * interval}
    assert meter.flops / seen.flops == 1


def test_phases_may_come_in_any_order():
    optimizer = Turning(5, [2, 0, 1, 1, 2, 0, 0, 2, 1])
    meter = make_meter(optimizer)
    seen = take_steps(meter, optimizer, 45)
    assert seen.counted == [0, 1, 5, 10]
    assert meter.flops == seen.flops


def test_phases_go_on_after_a_resume():
    optimizer = Turning(5, [0, 1, 2] * 10)
    meter = make_meter(optimizer)
    before = take_steps(meter, optimizer, 8)
    resumed = restore_meter(meter, optimizer)
    after = take_steps(resumed, optimizer, 150)
    assert after.counted == [10]
    assert resumed.flops == before.flops + after.flops


def test_a_checkpoint_that_knows_no_phases_has_each_counted_anew():
    optimizer = Turning(5, [0, 1, 2] * 10)
    meter = make_meter(optimizer)
    before = take_steps(meter, optimizer, 8)
    meter._renewal = 500.0  # as such a checkpoint may have it
    resumed = restore_meter(meter, optimizer, without="by_phase")
    after = take_steps(resumed, optimizer, 150)
    assert after.counted == [8, 10, 15]
    assert resumed.flops == before.flops + after.flops


def test_an_older_checkpoint_of_a_method_without_phases_goes_on():
    meter = make_meter(Refreshing())
    old = {"_first": [1500, 10], "_each_position": 100.0, "_renewal": 500.0}
    meter.restore({**old, "flops": 550.0, "seconds": 2.0})
    assert meter.start(7) is None
    assert meter.add_step(5, 1.0, measured=True) == pytest.approx(0.55)
    assert meter.flops == 1100


# ---------------------------------------------------------------- real steps
def test_a_counter_sees_products_forward_and_backward():
    left = torch.ones(4, 8, requires_grad=True)
    right = torch.ones(8, 2)
    with FlopCounter() as counter:
        (left @ right).sum().backward()
    assert counter.flops == 2 * (2 * 4 * 8 * 2)


@pytest.mark.parametrize(
    "words",
    [
        ["method=badam", "badam_switch_interval=2", "badam_switch_mode=random", "max_steps=20"],
        ["method=galore", "galore_rank=8", "galore_update_interval=4", "max_steps=12"],
    ],
)
def test_the_meter_tells_what_a_run_does(new_run, monkeypatch, words):
    """Beside a counter around all steps, which a run does not have.

    Each step has the same six rows: a row's length and its trained tokens change what a position takes.
    """
    training = new_run(*words, "data.limit=12", "batch_size=6")
    assert len(training.parts.order.rows) == 6
    meter = training.parts.flop_meter
    start = meter.start
    add_step = meter.add_step
    outer = FlopCounter()
    seen = SimpleNamespace(flops=0, measured=0, before=0)

    def watch_start(step):
        seen.before = outer.flops
        return start(step)

    def watch_step(positions, seconds, measured):
        seen.flops += measured * (outer.flops - seen.before)
        seen.measured += measured
        return add_step(positions, seconds, measured)

    monkeypatch.setattr(meter, "start", watch_start)
    monkeypatch.setattr(meter, "add_step", watch_step)
    with outer:
        training.fit()
    training.parts.recorder.close()
    assert seen.measured > 5
    assert meter.flops == pytest.approx(seen.flops, rel=1e-6)


def count_a_position(training) -> float:
    """Operations a position of a run's first step."""
    meter = training.parts.flop_meter
    training.fit()
    training.parts.recorder.close()
    ((_, each_position),) = meter.state()["by_phase"]
    return each_position


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_quantised_layers_count_as_those_they_stand_for(new_run, tmp_path, bits):
    """The products of bitsandbytes are operations of its own, of which PyTorch's list knows nothing."""
    plain = new_run("method=lora", "max_steps=2", folder=tmp_path / "plain")
    words = ["method=lora", "max_steps=2", f"quantization={bits}bit"]
    quantised = new_run(*words, folder=tmp_path / "quantised")
    assert count_a_position(quantised) == pytest.approx(count_a_position(plain), rel=0.02)
