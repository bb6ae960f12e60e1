"""No model is trained whose tokens see those they are to predict: the model itself is asked, by one gradient."""

import copy

import pytest
import torch
from helpers import TINY
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tuneoff.config import ConfigError
from tuneoff.models.checks import check_causality

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
CAUSAL = {
    "llama": {**SIZES, "num_key_value_heads": 2},
    "mixtral": {**SIZES, "num_key_value_heads": 2, "num_local_experts": 4},
    "gpt2": {"vocab_size": 4096, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": SIZES,  # its config says is_decoder=false, and means nothing by it
    "mamba": {"vocab_size": 4096, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "ctrl": {"vocab_size": 4096, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48},  # in place
    "bart": {**SIZES, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4},
    "roberta": {**SIZES, "is_decoder": True},
    "xlm": {"vocab_size": 4096, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "causal": True},
}
READS_AHEAD = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm": {"vocab_size": 4096, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "cpmant": {"vocab_size": 4096, "hidden_size": 32, "num_attention_heads": 4, "dim_head": 8}
    | {"dim_ff": 48, "num_hidden_layers": 2},
    "xlnet": {"vocab_size": 4096, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
}


def small(kind, sizes, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).to(dtype)


@pytest.fixture
def experiment(settings):
    return settings("method=full")[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CAUSAL)
def test_a_causal_model_passes_in_any_precision(kind, dtype, experiment):
    model = small(kind, CAUSAL[kind], dtype).train()
    drawn = torch.get_rng_state()
    check_causality(model, experiment)
    assert torch.equal(drawn, torch.get_rng_state())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", READS_AHEAD)
def test_a_model_that_reads_ahead_is_refused_in_any_precision(kind, dtype, experiment):
    with pytest.raises(ConfigError, match=f"a token of this {kind} sees the tokens after it"):
        check_causality(small(kind, READS_AHEAD[kind], dtype), experiment)


def test_a_model_whose_head_reads_several_streams_is_refused(experiment):
    sizes = {"vocab_size": 4096, "hidden_size": 32, "num_decoder_layers": 2}
    sizes |= {"num_decoder_attention_heads": 4, "decoder_ffn_dim": 48}
    model = small("prophetnet", sizes)
    with pytest.raises(
        ConfigError, match="the head of this prophetnet reads .* states for .* tokens"
    ):
        check_causality(model, experiment)


def test_a_glance_ahead_far_below_rounding_is_found(experiment):
    model = small("llama", CAUSAL["llama"], torch.bfloat16)
    hidden = model.model

    class Glancing(nn.Module):
        def forward(self, *args, **kwargs):
            out = hidden(*args, **kwargs)
            states = out.last_hidden_state
            out.last_hidden_state = states + 1e-6 * states.flip(1)
            return out

    model.model = Glancing()
    model.get_input_embeddings = lambda: hidden.embed_tokens
    with pytest.raises(ConfigError, match="sees the tokens after it"):
        check_causality(model, experiment)


def test_weights_that_are_no_numbers_are_left_to_the_first_evaluation(experiment):
    model = small("llama", CAUSAL["llama"])
    nn.init.constant_(model.model.layers[0].mlp.up_proj.weight, float("nan"))
    check_causality(model, experiment)


def test_what_makes_a_model_causal_is_said_and_true(experiment):
    with pytest.raises(ConfigError) as caught:
        check_causality(small("roberta", READS_AHEAD["roberta"]), experiment)
    assert str(caught.value) == (
        f"model.path={experiment.model.path}: a token of this roberta sees the tokens after it, "
        "which it is to predict; its config's is_decoder=true lets it see the tokens before alone"
    )
    shape = copy.deepcopy(experiment)
    shape.model.path = None
    with pytest.raises(ConfigError, match=r"^model.config=xlm: .*; model.config.causal=true lets"):
        check_causality(small("xlm", READS_AHEAD["xlm"]), shape)
    with pytest.raises(ConfigError, match="which it is to predict$"):
        check_causality(small("cpmant", READS_AHEAD["cpmant"]), experiment)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_is_refused_before_it_trains(run, tmp_path, method):
    folder = tmp_path / "roberta"
    small("roberta", READS_AHEAD["roberta"]).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    with pytest.raises(ConfigError, match="is_decoder=true"):
        run(f"method={method}", f"model.path={folder}")
    assert not (tmp_path / "run" / "result.json").exists()


def test_quantised_weights_are_asked_too(settings):
    from tuneoff.models.loading import load_model

    for bits in ("4bit", "8bit"):
        experiment, method, _ = settings("method=lora", f"quantization={bits}")
        check_causality(method.prepare(load_model(experiment)), experiment)


def test_asking_takes_little_memory():
    """The gradients of no weight, and activations of a few tokens."""
    from tuneoff.measure.memory_breakdown import MemoryBreakdown

    model = small("llama", {**CAUSAL["llama"], "hidden_size": 256, "intermediate_size": 1024})
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    with MemoryBreakdown(model) as live:
        check_causality(model, None)
    assert sum(live.peak().values()) < 1.3 * weights


def test_learned_positions_that_begin_after_padding_are_counted(run, tmp_path):
    """RoBERTa's table of 128 has room for 127 tokens where padding is 0."""
    folder = tmp_path / "roberta"
    sizes = {**SIZES, "max_position_embeddings": 96, "is_decoder": True}
    small("roberta", sizes).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    with pytest.raises(ConfigError, match="max_length=96: must be at most 95, the positions that"):
        run("method=full", f"model.path={folder}", "data.limit=600")


@pytest.mark.parametrize(("kind", "said"), [("roberta", True), ("llama", False)])
def test_a_prediction_says_what_it_could_not_ask(settings, tmp_path, kind, said):
    """It has no weights, so that it names what training goes by."""
    from tuneoff.predict import predict

    sizes = READS_AHEAD.get(kind) if said else CAUSAL[kind]
    small(kind, sizes).save_pretrained(tmp_path)
    experiment, method, _ = settings("method=full", "task=predict", f"model.path={tmp_path}")
    lines = predict(experiment, method)["assumptions"]
    assert any("its config says is_decoder=false" in line for line in lines) == said
