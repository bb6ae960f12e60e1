"""The tokenizer of a model, with a padding token."""

import json

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tuneoff.config import ConfigError, Model
from tuneoff.models.loading import (
    explain_loading_errors,
    load_config,
    loading_options,
    resolve_path,
)

DEFAULT_TOKENIZER = "tuneoff:tiny"  # of a shape without a path


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a padding token (the end-of-text one where it has none).

    Raises:
        ConfigError: a vocabulary that the shape in `model.config` does not cover.
    """
    path = model.tokenizer or model.path or DEFAULT_TOKENIZER
    # First, so that a model that cannot be is refused in a line; of a GGUF file this would read the whole header again.
    config = None if model.gguf_file else load_config(model)
    key = "tokenizer" if model.tokenizer else "path"
    with explain_loading_errors(model, key):
        tokenizer = AutoTokenizer.from_pretrained(
            resolve_path(path), **loading_options(model, gguf=model.tokenizer is None)
        )
    if config and model.path is None and len(tokenizer) > config.vocab_size:
        raise ConfigError(
            "model.config.vocab_size",
            config.vocab_size,
            f"must be at least {len(tokenizer)}, as {path} needs",
        )
    if model.gguf_file and model.tokenizer is None:
        _keep_the_files_tokens(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _keep_the_files_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take out the end token of GPT-2 that transformers adds to a GGUF file's vocabulary which does not have it.

    Its number lies beyond the embeddings, and PEFT would resize them to it when an adapter is loaded.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    size = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < size]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
