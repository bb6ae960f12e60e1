"""Secrets: what looks like a password or an access token is masked before a command or a config is written.

A secret is known by the name of its key (`WANDB_API_KEY`, `password`), by where it stands (`https://user:password@host`,
`?token=…`, `Bearer …`), or by its own form (`hf_…`, `ghp_…`). Nothing else is changed.
"""

import re
from functools import lru_cache
from typing import Any

MASK = "***"
# What a record holds that was typed, or may quote what was typed.
MASKED_KEYS = ("command", "config", "error", "tuning")

# Words that make a key's value a secret: as the last word of the key, or before a word such as `value`.
SECRET_WORDS = {
    "apikey",
    "auth",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "netrc",
    "passphrase",
    "passwd",
    "password",
    "pat",
    "pwd",
    "secret",
    "secrets",
    "signature",
    "token",
}
# Before `key`, where the pair is a secret: `api_key`, `AWS_SECRET_ACCESS_KEY`, `private-key`.
SECRET_KEYS = {"access", "account", "api", "auth", "encryption", "private", "secret", "signing"}
# Before `token`, where it is a token of a text: `end_token`, `pad_token`.
TEXT_TOKENS = {
    "bos",
    "cls",
    "end",
    "eos",
    "image",
    "mask",
    "pad",
    "per",
    "sep",
    "special",
    "start",
    "unk",
}
# Words that may follow, as in `token_value`; `HF_TOKEN_FILE` names a file and is no secret.
TRAILING_WORDS = {"base64", "string", "text", "value"}

# What stands before the @ of an address.
USER_INFORMATION = re.compile(r"(?<=://)[^\s/?#'\"]+(?=@)")
# An access token by the form that its issuer gives it.
ISSUED_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}"  # GitHub
    r"|glpat-[A-Za-z0-9_-]{16,}"  # GitLab
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|wandb_v\d+_[A-Za-z0-9_]{20,}"  # Weights & Biases
    r"|(?<!-)eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"  # JSON web tokens
)
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
# The key of `key=value` and `key: value` anywhere in a text, with the sign; the value is looked at behind it.
KEY = re.compile(r"""(?<![\w.@/-])(?P<key>\w[\w.@/-]*+)["']?\s*[=:]\s*""")
# A value ends at a space, or where the next key begins.
VALUE = re.compile(
    r""""[^"]*"|'[^']*'|[^\s&,}\]"']+(?:,(?!\s*["']?[\w.-]+["']?\s*[=:])[^\s&,}\]"']+)*"""
)
# `'key=value with spaces'`, as a shell is given it.
QUOTED_ARGUMENT = re.compile(r"""(?P<quote>["'])(?P<key>[\w.@/+~-]++)=(?P<value>.*?)(?P=quote)""")
ARGUMENT = re.compile(r"(?P<key>[\w.@/+~-]+)=(?P<value>.*)", re.DOTALL)
OPTION = re.compile(r"--?[A-Za-z][\w-]*")
HARMLESS = {"", "0", "1", "false", "none", "null", "true", MASK}


def mask_secrets(value: Any) -> Any:
    """Return the same content with `***` for every secret: of a text, an argument, a command, or a config.

    Args:
        value: a text, a number, or a nest of dictionaries and lists of these. It is not changed. In a list of texts,
            as a command is, `--password` masks the text after it.
    """
    if isinstance(value, str):
        return _mask_text(value)
    if isinstance(value, dict):
        return {key: _mask_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _mask_list(value)
    return value


def mask_record(record: dict) -> dict:
    """Return a record with its command, its config, and what quotes them masked."""
    masked = {key: mask_secrets(record[key]) for key in MASKED_KEYS if key in record}
    return {**record, **masked}


@lru_cache(maxsize=4096)  # a report asks for the same few dozen keys of every record
def is_secret_key(key: str) -> bool:
    """Whether the value of a key such as `WANDB_API_KEY` is a secret; any variable that Hydra sets may be one."""
    if "env_set." in key:
        return True
    # Words end at punctuation, and where capitals begin: apiKey is api, key.
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key.rstrip("\"'"))
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    while words and (words[-1] in TRAILING_WORDS or words[-1].isdigit()):
        words.pop()
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] in ("key", "keys"):
        return before in SECRET_KEYS
    if words[-1] == "token" and before in TEXT_TOKENS:
        return False
    return words[-1] in SECRET_WORDS


def _mask_item(key: Any, value: Any) -> Any:
    """The value of a key in a config: nothing of it is left where the key is a secret's."""
    if isinstance(key, str) and is_secret_key(key) and not _is_harmless(value):
        return MASK
    if key == "env_set" and isinstance(value, dict):
        return dict.fromkeys(value, MASK)
    return mask_secrets(value)


def _mask_list(values: list | tuple) -> list:
    """The items of a list: of a command, arguments, and texts behind an option such as `--api-key`."""
    masked = []
    before: Any = None
    for value in values:
        names_secret = (
            isinstance(before, str) and OPTION.fullmatch(before) and is_secret_key(before)
        )
        if names_secret and isinstance(value, str):
            masked.append(MASK)
        else:
            masked.append(_mask_argument(value))
        before = value
    return masked


def _mask_argument(value: Any) -> Any:
    """One item of a list; of `key=value` with a secret's key, nothing of the value is left, spaces or not."""
    argument = ARGUMENT.fullmatch(value) if isinstance(value, str) else None
    if argument and is_secret_key(argument["key"]) and not _is_harmless(argument["value"]):
        return f"{argument['key']}={MASK}"
    return mask_secrets(value)


@lru_cache(maxsize=4096)  # the records of a report say much the same
def _mask_text(text: str) -> str:
    """A text without its secrets."""
    text = USER_INFORMATION.sub(MASK, text)
    text = BEARER.sub(rf"\1 {MASK}", text)
    text = QUOTED_ARGUMENT.sub(_mask_quoted, text)
    text = _mask_assignments(text)
    return ISSUED_TOKENS.sub(MASK, text)


def _mask_quoted(argument: re.Match) -> str:
    if not is_secret_key(argument["key"]):
        return argument[0]
    return f"{argument['quote']}{argument['key']}={MASK}{argument['quote']}"


def _mask_assignments(text: str) -> str:
    """Mask the value behind every key in a text that is a secret's."""
    pieces = []
    end = 0  # of what is done
    for match in KEY.finditer(text):
        value = VALUE.match(text, match.end())
        if match.start() < end or value is None or not is_secret_key(match["key"]):
            continue
        if _is_harmless(value[0]):
            continue
        pieces += [text[end : match.end()], MASK]
        end = value.end()
    return "".join([*pieces, text[end:]])


def _is_harmless(value: Any) -> bool:
    """Whether a value says nothing that anybody could use, such as `true` or `null`."""
    return str(value).strip("\"'").lower() in HARMLESS
