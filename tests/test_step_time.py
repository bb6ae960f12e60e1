"""How long a step takes is foreseen: its operations equal closed formulas, and a device's rates make seconds of them."""

from collections import Counter

import pytest
import torch
from helpers import METHODS, foreseen

from tuneoff.measure.cards import find_card, list_cards, read_cards_file
from tuneoff.measure.operations import (
    DECOMPOSITION,
    MATRIX,
    OTHER,
    Operation,
    OperationCounts,
    count_flops,
)
from tuneoff.measure.rates import Rates, forecast_rates
from tuneoff.predict import predict
from tuneoff.predict.batches import TypicalRows
from tuneoff.predict.fake_mode import FakeMode
from tuneoff.predict.predictor import Predictor
from tuneoff.predict.run_length import find_run_length
from tuneoff.predict.step_time import choose_spread, estimate_seconds
from tuneoff.record.ranges import format_hours, format_range

ROWS = TypicalRows(length=64, labels=20, packed=False)
BATCH = 2


def foresee(*words: str):
    """A predictor of tiny under a method, at its random weights."""
    return Predictor(*foreseen("model.pretrained=false", f"batch_size={BATCH}", *words))


def closed_formula(predictor, base_gradients: bool) -> float:
    """6 N a token for what trains, 4 N for what gradients only pass, and attention: 4 s² d forward, 2.5 times backward.

    The output head sees trained tokens alone. Where the embeddings do not train, no gradient passes the first layer's
    projections of them.
    """
    config = predictor.model.config
    tokens = BATCH * ROWS.length
    places = BATCH * ROWS.labels
    flops = 0.0
    for name, module in predictor.model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        rows = places if name.endswith("lm_head") else tokens
        factor = 6 if module.weight.requires_grad else 4
        reads_embeddings = ".layers.0.self_attn." in name and "o_proj" not in name
        if reads_embeddings and not base_gradients and "lora_B" not in name:
            factor -= 2
        flops += factor * rows * module.weight.numel()
    heads = config.num_attention_heads
    scores = BATCH * heads * ROWS.length**2 * (config.hidden_size // heads)
    return flops + 4 * scores * 3.5 * config.num_hidden_layers


@pytest.mark.parametrize("method", ["full", "lora"])
def test_operations_of_a_step_equal_the_closed_formula(method):
    predictor = foresee(f"method={method}")
    counts = predictor.count(ROWS)
    expected = closed_formula(predictor, base_gradients=method == "full")
    assert counts.total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_counted(settings, method):
    """Sparse masks, too; and the shares of a method's kinds of steps are all of them."""
    words = ["galore_rank=8"] if "galore" in method else []
    predictor = Predictor(*settings(f"method={method}", *words)[:2])
    steps = list(predictor.typical_steps(ROWS))
    assert sum(step.share for step in steps) == pytest.approx(1)
    assert all(step.counts.total_flops(MATRIX) and step.counts.bytes for step in steps)


@pytest.mark.slow
def test_a_refresh_is_a_share_of_the_steps_and_has_its_decompositions():
    predictor = foresee("method=galore", "galore_rank=8", "galore_update_interval=20")
    list(predictor.moments(BATCH))  # which leave the interval at 1
    refresh, steady = predictor.typical_steps(ROWS)
    assert (refresh.share, steady.share) == (0.05, 0.95)
    assert refresh.counts.total_flops(DECOMPOSITION) > 0 == steady.counts.total_flops(DECOMPOSITION)
    products = steady.counts.total_flops(MATRIX)
    assert products == pytest.approx(refresh.counts.total_flops(MATRIX), rel=0.01)


def test_a_method_of_blocks_is_the_mean_of_its_turns():
    predictor = foresee("method=badam", "badam_switch_interval=10")
    steps = list(predictor.typical_steps(ROWS))
    assert sum(step.share for step in steps) == pytest.approx(1)
    by_block = [step.counts.total_flops() for step in steps[1::2]]
    # The gradient of a later block's turn passes fewer layers.
    assert by_block == sorted(by_block, reverse=True) and len(set(by_block)) == 3


def test_phases_are_chosen_from_end_to_end():
    assert choose_spread(range(7), 3) == [0, 3, 6]
    assert choose_spread([4], 3) == [4]


def make_rates(**changes) -> Rates:
    given = {
        "matrix": {"float32": 100.0, "bfloat16": 400.0},
        "decomposition": 10.0,
        "bandwidth": 1000.0,
        "launch_seconds": 0.5,
        "overlaps": False,
    }
    return Rates(**{**given, **changes})


@pytest.mark.parametrize(
    ("operation", "seconds"),
    [
        (Operation(MATRIX, "float32", 500, 1000), 5.0),
        (Operation(MATRIX, "bfloat16", 500, 1000), 1.25),
        (Operation(MATRIX, "float64", 500, 1000), 5.0),
        (Operation(MATRIX, "float32", 5, 3000), 3.0),
        (Operation(DECOMPOSITION, "float32", 500, 1000), 50.0),
        (Operation(OTHER, "float32", 0, 2000), 2.0),
    ],
)
def test_an_operation_is_bound_by_its_arithmetic_or_by_memory(operation, seconds):
    counts = OperationCounts()
    counts.counts = Counter({operation: 2})
    assert estimate_seconds(counts, make_rates()) == 2 * (seconds + 0.5)
    # A device beside the host is as slow as the slower of the two.
    assert estimate_seconds(counts, make_rates(overlaps=True)) == 2 * seconds
    waiting = make_rates(overlaps=True, launch_seconds=100.0)
    assert estimate_seconds(counts, waiting) == 200


def test_every_card_has_rates_and_a_source():
    assert set(list_cards()) == {"h100", "h200", "a100", "4090", "l40s"}
    for card in list_cards().values():
        assert find_card(card.reported_as) is card
        assert card.source and card.bandwidth > 100
        # Dense figures: those with sparsity are twice as high.
        assert card.tflops["bfloat16"] < 1000 and card.tflops["tf32"] >= card.tflops["float32"]
        slow, fast = forecast_rates(card, tf32=False)
        assert slow.matrix["bfloat16"] < fast.matrix["bfloat16"] < 1e12 * card.tflops["bfloat16"]
        assert slow.launch_seconds > fast.launch_seconds
        in_tf32, _ = forecast_rates(card, tf32=True)
        assert in_tf32.matrix["float32"] == in_tf32.matrix["tf32"]
    assert find_card("NVIDIA H100 PCIe") is None  # other rates
    assert set(read_cards_file()) == {"cards", "reached", "reached_on_cpu"}


@pytest.mark.slow
def test_a_prediction_says_the_time_of_a_run():
    words = ["method=lora", "max_steps=100", "data.limit=48", "max_length=96"]
    run, method = foreseen(*words, "device=a100", "model.pretrained=false")
    time = predict(run, method)["time"]
    fast, slow = time["step_seconds"]
    assert 0 < fast < slow
    assert time["steps"] == 100
    assert time["hours"] == pytest.approx([100 * fast / 3600, 100 * slow / 3600], rel=1e-3)
    assert time["work_a_step"]["kernels"] > 100
    assert "A100" in time["rates"]


def test_rows_are_those_of_data_that_are_at_hand():
    run, _ = foreseen("method=full", "max_steps=4", "data.limit=48", "max_length=96")
    length = find_run_length(run)
    assert length.steps == 4
    # The embedded set trains docstrings alone, and its rows are padded.
    assert length.rows.labels < length.rows.length <= 96
    assert length.tokens_a_step < run.batch_size * length.rows.length


@pytest.mark.parametrize(
    ("budget", "steps", "seconds"),
    [
        ("max_steps=7", 7, None),
        ("max_tokens=4096", 2, None),
        ("max_seconds=60", None, 60),
        ("epochs=2", None, None),
    ],
)
def test_without_the_data_rows_are_taken_to_be_full(budget, steps, seconds):
    words = ["data.path=owner/name", "batch_size=4", "max_length=512"]
    run, _ = foreseen("method=full", budget, *words)
    length = find_run_length(run)
    assert (length.steps, length.seconds) == (steps, seconds)
    assert length.rows == TypicalRows(512, 511, False)


def test_ranges_in_words():
    assert format_range([0.1234, 0.5678]) == "0.123 to 0.568"
    assert format_range([1234.5, 1234.6]) == "1,234 to 1,235"
    assert format_range([2.0001, 2.0002]) == "2"
    assert format_hours({"hours": None}).startswith("hours unknown: epochs")
    assert format_hours({"hours": [1.5, 2.5]}) == "1.5 to 2.5 h"


def test_arguments_that_no_formula_knows_are_no_error():
    ragged = (torch.ones(2, 3), torch.ones(4, 5))
    assert count_flops(torch.ops.aten.mm, ragged, {}, torch.ones(2, 5)) == (MATRIX, 0)


# ---------------------------------------------------------------- bytes
MEGABYTES_4 = 4_000_000  # a million float32


def count_bytes(step) -> int:
    """Bytes that the operations of a function on fake tensors move."""
    with FakeMode() as mode, mode.count_operations() as counts:
        tensors = [torch.empty(1_000_000) for _ in range(4)]
        counts.counts.clear()
        step(*tensors)
    return counts.bytes


def fused_adamw(parameter, gradient, *moments, **more):
    torch._fused_adamw_(
        [parameter],
        [gradient],
        *([moment] for moment in moments),
        [],
        [torch.empty(())],
        lr=0.1,
        beta1=0.9,
        beta2=0.99,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
        **more,
    )


def fused_adamw_scaled(*tensors):
    fused_adamw(*tensors, grad_scale=torch.empty(()))


@pytest.mark.parametrize(
    ("step", "arrays", "scalars"),
    [
        # Parameter, gradient and two moments are read; the gradient is not written.
        (fused_adamw, 4 + 3, 1),  # and the number of the step
        (fused_adamw_scaled, 4 + 4, 2),  # unless it is divided by a scale
        (lambda a, b, c, d: torch._foreach_mul_([a, b], 2.0), 2 + 2, 0),
        (lambda a, b, c, d: torch._foreach_add_([a], [b]), 2 + 1, 0),
        (lambda a, b, c, d: a.add_(b), 2 + 1, 0),
        (lambda a, b, c, d: torch.add(a, b), 2 + 1, 0),
        (lambda a, b, c, d: torch.add(a, b, out=c), 2 + 1, 0),
    ],
)
def test_what_an_operation_reads_and_what_it_writes_counts_once(step, arrays, scalars):
    assert count_bytes(step) == arrays * MEGABYTES_4 + 4 * scalars


def test_products_of_quantised_layers_are_known_by_name():
    import bitsandbytes  # noqa: F401 (registers them)

    inputs = torch.ones(2, 3, 8)
    packed = torch.ones(20, 1, dtype=torch.uint8)
    weight = torch.ones(5, 8, dtype=torch.int8)
    for name, args in (
        ("gemm_4bit", (inputs, packed, (5, 8), None, 64, "nf4")),
        ("gemv_4bit", (inputs[:, :1], packed, (5, 8), None, None, 64)),
        ("int8_scaled_mm", (inputs.flatten(0, 1), weight, None, None)),
        ("int8_linear_matmul", (inputs.flatten(0, 1), weight)),
        ("int8_mixed_scaled_mm", (inputs, inputs.flatten(0, 1), weight, None, None, None)),
    ):
        packet = getattr(torch.ops.bitsandbytes, name)
        rows = args[0].shape[:-1].numel()
        assert count_flops(packet, args, {}, None) == (MATRIX, 2 * rows * 5 * 8), name
