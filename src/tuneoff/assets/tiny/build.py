"""The shipped model `tiny`: its tokenizer and architecture, and its weights after training (README.md says how)."""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tuneoff.config import Data
from tuneoff.data.sources import open_source

VOCABULARY = 4096
END = "<|end|>"
HERE = Path(__file__).parent


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the training text of `stdlib`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    splits = open_source(Data("stdlib", "tuneoff:stdlib")).read()
    texts = (source_row.values["text"] for source_row in splits["train"])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=END,
    )


def make_config() -> LlamaConfig:
    """Llama with multi-head attention; every linear matrix has both sides at 256 or more, so rank 128 is still low."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def adopt_weights(run: Path) -> None:
    """Save the weights that a run trained here, in bfloat16."""
    model = LlamaForCausalLM.from_pretrained(run / "model", dtype=torch.bfloat16)
    model.save_pretrained(HERE)
    (HERE / "generation_config.json").unlink()  # it says nothing


if __name__ == "__main__":
    if len(sys.argv) > 1:
        adopt_weights(Path(sys.argv[1]))
    else:
        train_tokenizer().save_pretrained(HERE)
        make_config().save_pretrained(HERE)
