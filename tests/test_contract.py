"""Contracts 2, 4 and 5: the same command gives the same bits, micro-batches change nothing, a seed's methods share."""

import pytest
from helpers import METHODS, apart, quick_of, trajectory
from test_shelf import base_logits, difference, logits_of

OWN = {
    "galore": ["galore_rank=8"],
    "galore_layerwise": ["galore_rank=8"],
    "badam": ["badam_switch_interval=2", "badam_switch_mode=random"],
    "badam_ratio": ["badam_switch_interval=2"],
}


@pytest.mark.parametrize("method", quick_of(METHODS, "full", "lora", "pissa"))
def test_it_starts_at_the_base_model(new_run, measured, method):
    training = new_run(*own(method), "max_steps=1")
    training.parts.recorder.close()
    largest = difference(logits_of(training.parts.model), base_logits(training))
    measured(method, "start", largest)
    assert training.parts.method.starts_at_base and largest <= 2e-5


# Layer-wise GaLore steps within each micro-batch.
WHOLE_STEPS = [method for method in METHODS if method != "galore_layerwise"]


def own(method):
    return [f"method={method}", *OWN.get(method, [])]


@pytest.mark.parametrize("method", quick_of(METHODS, "lora", "galore", "badam"))
def test_the_same_command_twice_is_the_same_run(run, tmp_path, measured, method):
    for name in ("first", "second"):
        run(*own(method), "max_steps=5", folder=tmp_path / name)
    first, second = trajectory(tmp_path / "first"), trajectory(tmp_path / "second")
    measured(method, "twice", apart(first, second))
    assert len(first) == 7 and first == second


@pytest.mark.parametrize("method", quick_of(WHOLE_STEPS, "lora", "badam_ratio"))
def test_micro_batches_hand_the_optimizer_one_batchs_gradients(new_run, tmp_path, method):
    """16 rows, 2 times 8, 4 times 4, of unequal lengths. (What Adam makes of the last bits is its own affair: its first
    step divides each by itself; with SGD weights agree to 1e-6, as test_step.py shows.)
    """
    found = []
    for parts in (1, 2, 4):
        training = new_run(
            *own(method),
            "max_steps=1",
            f"batch_size={16 // parts}",
            f"gradient_accumulation_steps={parts}",
            folder=tmp_path / str(parts),
        )
        found.append({})

        def look(*_, model=training.parts.model, seen=found[-1]):
            seen.update(
                {
                    name: weight.grad.to_dense().clone()
                    if weight.grad.is_sparse
                    else weight.grad.clone()
                    for name, weight in model.named_parameters()
                    if weight.grad is not None
                }
            )

        training.parts.optimizer.register_step_pre_hook(look)
        training.fit()
        training.parts.recorder.close()
    whole, *splits = found
    assert whole and all(split.keys() == whole.keys() for split in splits)
    for name, gradient in whole.items():
        assert (
            max(apart(gradient, split[name]) for split in splits) <= 3e-6 * gradient.abs().max()
        ), name


@pytest.mark.slow
def test_methods_of_a_seed_share_data_order_tokens_and_base_weights(run, quick_run):
    seen = {}
    for method in METHODS:
        result, _ = quick_run(method)
        origin = result["provenance"]
        seen[method] = (
            origin["base_weights_hash"],
            origin["batch_order_hash"],
            origin["data"]["fingerprint"],
            result["throughput"]["tokens_seen"],
            result["loss"]["initial"].hex()[:12],
        )
    assert len({item[:4] for item in seen.values()}) == 1, seen
    other = run("method=full", "seed=1")
    assert other["provenance"]["batch_order_hash"] != seen["full"][1]


def test_dropout_and_new_modules_do_not_move_the_data(run, tmp_path):
    plain = run("method=lora", folder=tmp_path / "plain")
    dropped = run("method=lora", "lora_dropout=0.5", "lora_rank=2", folder=tmp_path / "dropped")
    assert plain["provenance"]["batch_order_hash"] == dropped["provenance"]["batch_order_hash"]
    assert [line["tokens"] for line in plain["curve"] if "loss" in line] == [
        line["tokens"] for line in dropped["curve"] if "loss" in line
    ]
