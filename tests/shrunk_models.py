"""Shrunk models: any causal architecture of transformers in a few hundred thousand random weights.

`python tests/shrunk_models.py [TYPE …]` prints what each comes to.
"""

import dataclasses
import sys
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 4096  # that of the shipped tokenizer
POSITIONS = 128

WIDTHS = """hidden_size d_model n_embd embed_dim dim word_embed_proj_dim emb_dim embedding_size input_embedding_size
    output_embedding_size lru_width residual_channels attention_hidden_size d_embed"""
INNER_WIDTHS = """intermediate_size ffn_dim n_inner d_ff dff decoder_ffn_dim dim_ff encoder_ffn_dim ffn_hidden_size
    feed_forward_size intermediate_size_mlp"""
EXPERT_WIDTHS = """moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size
    moe_shared_expert_intermediate_size shared_intermediate_size"""
LAYERS = """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers
    num_encoder_layers max_window_layers"""
HEADS = """num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads
    num_decoder_attention_heads num_encoder_attention_heads"""
POSITION_COUNTS = "max_position_embeddings n_positions n_ctx max_seq_len context_length"
SMALL: dict[str, int] = {
    **dict.fromkeys(WIDTHS.split(), 32),
    **dict.fromkeys(INNER_WIDTHS.split(), 48),
    **dict.fromkeys(EXPERT_WIDTHS.split(), 24),
    **dict.fromkeys(LAYERS.split(), 2),
    **dict.fromkeys(HEADS.split(), 4),
    **dict.fromkeys(POSITION_COUNTS.split(), POSITIONS),
    **dict.fromkeys(["num_key_value_heads", "num_global_key_value_heads"], 2),
    # Mixtures.
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_top_k", "num_experts_per_token"], 2),
    **dict.fromkeys(["n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"], 1),
    # Latent attention.
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "o_lora_rank", "index_head_dim"], 16),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "head_dim"], 8),
    **dict.fromkeys(["index_n_heads", "index_topk", "d_kv", "rotary_dim", "qk_head_dim"], 8),
    # State spaces and linear attention.
    **dict.fromkeys(["state_size", "mamba_d_state", "ssm_state_size"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 8),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads"], 2),
    **dict.fromkeys(["mamba_n_heads", "n_mamba_heads", "mamba_num_heads"], 2),
    **dict.fromkeys(["mamba_n_groups", "n_groups", "mamba_ngroups"], 1),
    **dict.fromkeys(["chunk_size", "mamba_chunk_size"], 16),
    # Small tables beside the words.
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "sliding_window": 16,
    "adapter_rank": 8,
}
WORDS = dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY)
TOKENS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
# Sizes that are left open where they follow from others, and are asked for in some types.
OPEN = {
    "head_dim": 8,
    "num_key_value_heads": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
STATE_SPACE = {"mamba_n_heads": 2, "num_hidden_layers": 2}
# What the rules above do not make whole: sizes that must agree with each other, by model type.
OWN: dict[str, dict[str, Any]] = {
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "gemma4_unified_vision": {"mm_embed_dim": 32, "num_position_embeddings": 64},
    "xlstm": {"chunk_size": 64, "hidden_size": 64},
    "bamba": {**STATE_SPACE, "attn_layer_indices": [1]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "hidden_size": 32},
    },
    "dots1": {"n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "dots3_note": {"num_key_value_heads": 4},
    "ernie4_5_moe": {"moe_k": 2},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "granitemoehybrid": {**STATE_SPACE, "layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "hc_count": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 16},
    "roc_bert": {"pronunciation_embed_dim": 8, "shape_embed_dim": 8, "shape_vocab_size": 64},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds": False,
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
        "num_buckets": 4,
        "num_key_value_heads": 4,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "num_hidden_layers": 2},
}


def shrunk_config(model_type: str, **sizes: Any) -> PreTrainedConfig:
    """The configuration of a model type with small sizes; `sizes` come before all others."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**{**_small_sizes(config_class), **sizes})


def _small_sizes(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    try:
        default = config_class()
    except Exception:  # of some types the default sizes do not agree with each other
        default = None
    sizes: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        fixed = WORDS.get(field.name, TOKENS.get(field.name))
        small = SMALL.get(field.name)
        if fixed is not None:
            sizes[field.name] = fixed
        elif small is not None and type(field.default) is int and field.default > small:
            sizes[field.name] = small
        elif field.name in OPEN and field.default is None:
            sizes[field.name] = OPEN[field.name]
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = SMALL[
            "num_attention_heads"
        ]  # latent attention has no groups
    for name, part_class in config_class.sub_configs.items():
        part = getattr(default, name, None)
        if part is not None:
            sizes[name] = _small_sizes(type(part))
        elif part_class is not AutoConfig:
            sizes[name] = _small_sizes(part_class)
    own = OWN.get(config_class.model_type, {})
    return {**sizes, **_layer_kinds(config_class, default), **own}


def _layer_kinds(config_class: type[PreTrainedConfig], default: Any) -> dict[str, Any]:
    """One layer of each kind, where a model type mixes kinds of layers."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    kinds = list(dict.fromkeys(getattr(default, "layer_types", None) or ()))
    if len(kinds) < 2 or "layer_types" not in fields:
        return {}
    return {"layer_types": kinds, "num_hidden_layers": len(kinds)}


def shrunk_model(model_type: str, **sizes: Any) -> PreTrainedModel:
    """The model of a shrunk configuration, drawn from torch's global generator."""
    return AutoModelForCausalLM.from_config(shrunk_config(model_type, **sizes))


if __name__ == "__main__":
    import time
    import traceback

    import torch

    for model_type in sys.argv[1:] or MODEL_TYPES:
        started = time.perf_counter()
        try:
            with torch.device("meta"):
                weights = shrunk_model(model_type).num_parameters()
            if weights > 8_000_000:
                raise ValueError(f"{weights:,} weights")
            model = shrunk_model(model_type)
            ids = torch.randint(1, VOCABULARY, (2, 16))
            logits = model.eval()(input_ids=ids).logits
            words = f"{sum(p.numel() for p in model.parameters()):,} {tuple(logits.shape)}"
        except Exception as error:
            words = f"! {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            if len(sys.argv) in (2, 3):
                traceback.print_exc()
        print(f"{model_type} {words} ({time.perf_counter() - started:.1f} s)", flush=True)
