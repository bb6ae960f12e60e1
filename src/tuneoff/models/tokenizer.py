"""Tokenizers: that of a model, with a padding token that the model has an embedding for."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tuneoff.config import ConfigError, Model, resolve_folder
from tuneoff.models.loading import load_config, loading_options, resolve_path
from tuneoff.models.loading_errors import NO_TOKENIZER, explain_loading_errors
from tuneoff.record import read_json

log = logging.getLogger(__name__)
DEFAULT_TOKENIZER = "tuneoff:tiny"  # of a shape without a path
TOKENIZER = "tokenizer.json"


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer; `pad_token_id` is a token that the model has an embedding for.

    Padding is the one token that a run brings along itself: it fills rows in training and evaluation, and answers in
    generation. All others come from the data, which are compared with the embeddings.

    Raises:
        ConfigError: no vocabulary, or one that the shape in `model.config` does not cover.
    """
    path = model.tokenizer or model.path or DEFAULT_TOKENIZER
    # First, so that a model that cannot be is refused in a line; of a GGUF file this would read the whole header again.
    config = None if model.gguf_file else load_config(model)
    key = "tokenizer" if model.tokenizer else "path"
    options = loading_options(model, at_path=model.tokenizer is None)
    with explain_tokenizer_file(f"model.{key}", path), explain_loading_errors(model, key):
        tokenizer = AutoTokenizer.from_pretrained(resolve_path(path), **options)
    if is_without_words(tokenizer):
        raise ConfigError(f"model.{key}", path, NO_TOKENIZER)
    vocabulary = math.inf
    if config is not None:
        vocabulary = getattr(config.get_text_config(), "vocab_size", None) or math.inf
    if model.path is None and len(tokenizer) > vocabulary:
        allowed = f"must be at least {len(tokenizer)}, as {path} needs"
        raise ConfigError("model.config.vocab_size", vocabulary, allowed)
    if model.gguf_file and model.tokenizer is None:
        _keep_the_files_tokens(tokenizer)
    _choose_padding(tokenizer, vocabulary)
    return tokenizer


def is_without_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has special tokens alone: of a folder without its files transformers makes such a one.

    All that it reads is then nothing, or the token for what is unknown, which is easily learned.
    """
    words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:  # others are words, of which a vocabulary may hold no more
            words -= {token.content}
    return len(words) < 2


@contextmanager
def explain_tokenizer_file(key: str, path: str) -> Iterator[None]:
    """Say of a tokenizer that cannot be made what its tokenizer.json lacks, where that is why.

    Raises:
        ConfigError: naming the file, and what is wrong in it.
    """
    try:
        yield
    except Exception as error:
        reason = describe_tokenizer_file(resolve_folder(path) / TOKENIZER)
        if reason is None:
            raise
        raise ConfigError(key, path, f"its {TOKENIZER} {reason}") from error


def describe_tokenizer_file(file: Path) -> str | None:
    """What is wrong with a tokenizer.json that makes no tokenizer; None where it is not there, or has what it needs."""
    if not file.exists():
        return None
    content = read_json(file)
    if content is None:
        return "cannot be read as a JSON object"
    missing = [name for name in ("model", "added_tokens") if name not in content]
    return f"lacks {' and '.join(missing)}" if missing else None


def _choose_padding(tokenizer: PreTrainedTokenizerBase, vocabulary: float) -> None:
    """Keep the padding token where its number is below `vocabulary`; else take the end token, or another that is.

    No token looks at padding, so that it does not matter which it is.
    """
    own = tokenizer.pad_token_id
    if own is not None and own < vocabulary:
        return
    if own is not None:
        log.warning(
            "the padding token %s (%d) lies beyond the model's %d embeddings: another stands in for it",
            tokenizer.pad_token,
            own,
            vocabulary,
        )
        # Saved with the tokenizer, it would make PEFT resize the embeddings when an adapter is loaded.
        _remove_added_token(tokenizer, own)
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    usable = [token for token in others if token is not None and token < vocabulary]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens([*usable, 0][0])


def _remove_added_token(tokenizer: PreTrainedTokenizerBase, number: int) -> None:
    """Take an added token out of the vocabulary, where the tokenizer is one of the `tokenizers` package."""
    if tokenizer.is_fast:
        _keep_added_tokens(tokenizer, lambda token: token["id"] != number)


def _keep_the_files_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take out the end token of GPT-2 that transformers adds to a GGUF file's vocabulary which does not have it.

    Its number lies beyond the embeddings, and PEFT would resize them to it when an adapter is loaded.
    """
    size = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    _keep_added_tokens(tokenizer, lambda token: token["id"] < size)


def _keep_added_tokens(tokenizer: PreTrainedTokenizerBase, is_kept: Callable[[dict], bool]) -> None:
    """Leave those added tokens alone in the vocabulary for which `is_kept` is true."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if is_kept(token)]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
