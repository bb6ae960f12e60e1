"""Named templates: the usual texts around the turns of a conversation, by the names that LLaMA-Factory has for them.

Facts of its `data/template.py`. `{bos}` and `{eos}` are the tokenizer's own; `{}` is what was said.
"""

from typing import NamedTuple

CHATML_USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CHATML_ANSWER = "{}<|im_end|>\n"
CHATML_SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class NamedTemplate(NamedTuple):
    """The texts of one template."""

    user: str  # with what begins the answer
    assistant: str = "{}{eos}"
    system: str = "{}"
    prefix: str = ""
    default_system: str = ""
    # Whether the words of the system stand inside the first user's turn.
    system_in_user: bool = False


NAMED_TEMPLATES = {
    "alpaca": NamedTemplate(
        "### Instruction:\n{}\n\n### Response:\n",
        "{}{eos}\n\n",
        default_system=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
        ),
    ),
    "chatml": NamedTemplate(CHATML_USER, CHATML_ANSWER, CHATML_SYSTEM),
    "deepseek": NamedTemplate("User: {}\n\nAssistant:", system="{}\n\n", prefix="{bos}"),
    "default": NamedTemplate(
        "Human: {}{eos}\nAssistant:",
        "{}{eos}\n",
        "System: {}{eos}\n",
    ),
    "empty": NamedTemplate("{}", "{}"),
    "gemma": NamedTemplate(
        "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        "{}<end_of_turn>\n",
        "{}\n\n",
        prefix="{bos}",
        system_in_user=True,
    ),
    "llama3": NamedTemplate(
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{}<|eot_id|>",
        "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        prefix="{bos}",
    ),
    "mistral": NamedTemplate(
        "[INST] {}[/INST]", " {}{eos}", "{}\n\n", prefix="{bos}", system_in_user=True
    ),
    "phi": NamedTemplate(
        "<|user|>\n{}<|end|>\n<|assistant|>\n",
        "{}<|end|>\n",
        "<|system|>\n{}<|end|>\n",
    ),
    "qwen": NamedTemplate(
        CHATML_USER,
        CHATML_ANSWER,
        CHATML_SYSTEM,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "qwen3_nothink": NamedTemplate(CHATML_USER, CHATML_ANSWER, CHATML_SYSTEM),
    "vicuna": NamedTemplate("USER: {} ASSISTANT:", default_system=VICUNA_SYSTEM),
}
