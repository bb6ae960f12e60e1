"""Shared by the data's tests: files of rows, and tiny's tokenizer with a chat model's template and control tokens."""

import json
from functools import cache
from pathlib import Path

from helpers import TINY

# SmolLM2-135M-Instruct's own, as its tokenizer has it.
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


def new_tokenizer(template: str | None = None, *control: str):
    """Tiny's tokenizer, with a chat template and control tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    if template:
        tokenizer.add_special_tokens({"additional_special_tokens": list(control)})
        tokenizer.chat_template = template
    return tokenizer


@cache
def plain():
    """Tiny's, without a chat template."""
    return new_tokenizer()


@cache
def chatty():
    """Tiny's with SmolLM2's template and control tokens."""
    return new_tokenizer(SMOLLM2, "<|im_start|>", "<|im_end|>")


def write_lines(path: Path, rows: list) -> Path:
    """A jsonl file of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int, **more) -> list[dict]:
    """Rows of prompt and completion, each another."""
    return [
        {"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}.", **more}
        for n in range(count)
    ]


def trained(row, tokenizer) -> list[str]:
    """The texts of a row's answers."""
    return [tokenizer.decode(list(row.ids[start:end])) for start, end in row.spans]
