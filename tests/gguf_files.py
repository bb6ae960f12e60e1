"""Writes a small model as a GGUF file, as llama.cpp's converter would."""

import json
from pathlib import Path

import gguf
import numpy as np
from transformers import PreTrainedModel

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write(model: PreTrainedModel, tokenizer: Path, path: Path) -> dict[str, np.ndarray]:
    """Write a Llama: matrices in blocks of 8 bits, vectors in float32, the tokenizer's vocabulary and merges.

    Returns:
        The weights that the file stands for, by the model's own names.
    """
    config, writer, kept = model.config, gguf.GGUFWriter(path, "llama"), {}
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if values.ndim == 1:
            writer.add_tensor(_name(name), values)
            kept[name] = values
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        heads = config.num_attention_heads if ".q_proj." in name or ".k_proj." in name else 0
        blocks = gguf.quantize(_interleaved(values, heads), kind)
        writer.add_tensor(_name(name), blocks, raw_dtype=kind)
        kept[name] = gguf.dequantize(gguf.quantize(values, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


def _name(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, index, inside = name.split(".", 3)
    return f"blk.{index}.{LAYER[inside.removesuffix('.weight')]}.weight"


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """The two halves of each head in turn, which is how llama.cpp rotates a Llama's queries and keys."""
    if not heads:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    for add in (
        writer.add_bos_token_id,
        writer.add_eos_token_id,
        writer.add_pad_token_id,
        writer.add_unk_token_id,
    ):
        add(0)
    writer.add_add_bos_token(False)
