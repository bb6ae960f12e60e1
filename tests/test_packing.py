"""Packed examples train as they do alone, for every architecture that is let through; the others are refused."""

import copy
from array import array

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tuneoff.config import ConfigError
from tuneoff.data import Row, collate, join_rows, pack_rows
from tuneoff.models.checks import check_packing
from tuneoff.training.step import summed_loss

SHARED = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **SHARED,
}
SHAPES = {
    "llama": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 2},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "attn_pdrop": 0,
        "resid_pdrop": 0,
        "embd_pdrop": 0,
        **SHARED,
    },
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "dropout": 0,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
        **SHARED,
    },
}
KEPT_APART = ("llama", "qwen2", "gpt2")


def tiny(kind, attention="sdpa"):
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **SHAPES[kind])
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()


def rows(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [
        Row(
            array("i", torch.randint(3, 300, (size,), generator=generator).tolist()),
            ((max(1, size // 3), size),),
        )
        for size in sizes
    ]


EXAMPLES = rows(5, 31, 17, 2, 40, 9, 23, 12)


def gradients_of(model, batches):
    """The summed loss, and the gradient of every weight by name."""
    loss = sum(summed_loss(model, batch) for batch in batches)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", SHAPES)
def test_padding_on_the_right_needs_no_mask(kind, attention):
    """Each example alone, against all in one padded batch."""
    model = tiny(kind, attention)
    loss, gradients = gradients_of(model, [collate(EXAMPLES, 0)])
    alone, expected = gradients_of(
        copy.deepcopy(tiny(kind, attention)), [collate([row], 0) for row in EXAMPLES]
    )
    assert loss == pytest.approx(alone, rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= 1e-5 * max(
            1e-2, expected[name].abs().max()
        ), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KEPT_APART)
def test_packed_loss_and_gradients_are_the_unpacked_ones(kind, attention):
    packs = pack_rows(EXAMPLES, 48)
    assert len(packs) == 3 and any(len(one.ids) < 48 for one in packs)  # with padding
    loss, gradients = gradients_of(tiny(kind, attention), [collate(packs, 0)])
    alone, expected = gradients_of(tiny(kind, attention), [collate([row], 0) for row in EXAMPLES])
    assert loss == pytest.approx(alone, rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= 1e-5 * max(
            1e-2, expected[name].abs().max()
        ), name


@pytest.mark.parametrize("kind", KEPT_APART)
@torch.no_grad()
def test_another_first_example_leaves_the_second_as_it_was(kind):
    model = tiny(kind).eval()
    first, other, second = rows(11, 11, 13)
    packed = []
    for before in (first, other):
        batch = collate([join_rows([before, second])], 0)
        packed.append(
            model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            ).logits[0, 11:]
        )
    assert torch.equal(*packed)
    alone = model(input_ids=torch.tensor([second.ids.tolist()])).logits[0]
    assert (packed[0] - alone).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KEPT_APART)
def test_architectures_that_keep_examples_apart_are_let_through(kind, dtype):
    model = tiny(kind).to(dtype)
    check_packing(model)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_architecture_that_leaks_is_refused_in_any_precision(dtype):
    with pytest.raises(
        ConfigError, match="packing=true: an example would see the one packed before it in opt"
    ):
        check_packing(tiny("opt").to(dtype))


def test_a_leak_far_below_rounding_is_found():
    """BLOOM's positions are distances, so that its leak is small: here as large as bf16's own rounding."""
    torch.manual_seed(1)
    config = AutoConfig.for_model("bloom", hidden_size=32, n_layer=2, n_head=4, **SHARED)
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    with pytest.raises(ConfigError, match="would see"):
        check_packing(model)


def test_an_example_read_at_other_positions_is_refused():
    """GPT-2 whose positions count through the row: nothing leaks, but a packed example is another one."""
    model = tiny("gpt2")
    model.transformer.wpe.register_forward_pre_hook(
        lambda module, inputs: (torch.arange(inputs[0].shape[1]).expand_as(inputs[0]),)
    )
    with pytest.raises(ConfigError, match="packing=true: packed logits differ by"):
        check_packing(model)


def test_a_run_is_refused_with_its_key_and_leaves_no_result(run, tmp_path, debug_model):
    from transformers import AutoTokenizer

    folder = tmp_path / "opt"
    config = AutoConfig.for_model("opt", **{**SHAPES["opt"], "vocab_size": 4096})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(debug_model).save_pretrained(folder)
    with pytest.raises(ConfigError, match="packing=true"):
        run("method=lora", "packing=true", f"model.path={folder}")
    assert not (tmp_path / "run" / "result.json").exists()
    # 96 tokens fit, and without packing it trains.
    assert (
        run("method=lora", f"model.path={folder}", folder=tmp_path / "plain")["status"]
        == "finished"
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_step_of_all_rows_is_the_same_packed(run, tmp_path, method):
    """An epoch of a single step: loss, gradient and what evaluation finds afterwards."""
    options = [
        f"method={method}",
        "batch_size=16",
        "data.limit=16",
        "max_length=192",
        "max_steps=null",
        "epochs=1",
    ]
    plain = run(*options, folder=tmp_path / "plain")
    packed = run(*options, "packing=true", folder=tmp_path / "packed")
    (step,), (same,) = (
        [line for line in result["curve"] if "loss" in line] for result in (plain, packed)
    )
    for key in ("loss", "gradient_norm", "tokens"):
        assert same[key] == pytest.approx(step[key], rel=1e-5)
    assert packed["loss"]["final"] == pytest.approx(plain["loss"]["final"], rel=1e-5)
