"""A saved model that answers: loaded from a run's folder with the template that it was trained with."""

from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuneoff.config import ConfigError, Data, Model
from tuneoff.config.model import ADAPTER_CONFIG
from tuneoff.data.conversations import give_system
from tuneoff.data.row_formats import Example, Message
from tuneoff.data.templates import choose_template
from tuneoff.models.loading_errors import explain_loading_errors
from tuneoff.record import RUN, describe_os_error, read_json
from tuneoff.training.export import MODEL_FOLDER
from tuneoff.training.generate import generate_answers

# Stands where the answer will be; only what comes before it is asked.
PLACEHOLDER = "answer"


def refuse_missing_base(adapter: Path) -> None:
    """Refuse an adapter whose base was a folder that is gone, which PEFT would look for on the hub.

    Raises:
        ConfigError: naming where it was.
    """
    base = str((read_json(adapter / ADAPTER_CONFIG) or {}).get("base_model_name_or_path"))
    if Path(base).is_absolute() and not Path(base).exists():
        raise ConfigError("model.path", base, f"the base of its adapter is no longer at {base}")


class SavedModel:
    """A trained model and its tokenizer, and how a conversation becomes the tokens that it is asked."""

    def __init__(self, folder: Path):
        """Load what a run saved in `folder`, or a model's folder that no run made.

        Raises:
            ConfigError: it cannot be loaded.
        """
        record = read_json(folder / RUN) or {}
        place = folder / MODEL_FOLDER if (folder / MODEL_FOLDER).is_dir() else folder
        config = record.get("config", {})
        gguf_file = config.get("model", {}).get("gguf_file")
        options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
        is_adapter = (place / ADAPTER_CONFIG).is_file()
        type_name = config.get("dtype")
        if not is_adapter:  # what trained is in it
            type_name = config.get("trainable_dtype") or type_name
        dtype = getattr(torch, str(type_name), "auto")
        try:
            with explain_loading_errors(Model(folder.name, str(place))):
                self.tokenizer = AutoTokenizer.from_pretrained(place)
                loader: Any = AutoModelForCausalLM
                if is_adapter:
                    refuse_missing_base(place)
                    loader = AutoPeftModelForCausalLM
                else:
                    options = {}  # what is saved beside no adapter is in ordinary weights
                model = loader.from_pretrained(place, dtype=dtype, **options)
        except (ConfigError, OSError) as error:
            reason = error.allowed if isinstance(error, ConfigError) else describe_os_error(error)
            raise ConfigError("chat", folder, f"cannot be loaded: {reason}") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        data_facts = record.get("provenance", {}).get("data", {})
        self.continues_text = data_facts.get("format") == "text"
        data = Data(template=data_facts.get("template", "auto"))
        self.default_system = data_facts.get("default_system")
        self.template = choose_template(data, self.tokenizer)

    def answer(self, conversation: list[Message], max_new_tokens: int) -> str:
        """Return the greedy answer to a conversation that ends with the user's turn."""
        prompt = self._encode_prompt(conversation)
        also_ends = self._find_end_tokens()
        (answer,) = generate_answers(
            self.model, self.tokenizer, [prompt], max_new_tokens, also_ends
        )
        return str(self.tokenizer.decode(answer.ids, skip_special_tokens=True)).strip()

    def _encode_prompt(self, conversation: list[Message]) -> list[int]:
        """The tokens up to the answer: as in training, or of a model of plain text the last turn as it is."""
        if self.continues_text:
            return list(self.tokenizer(conversation[-1]["content"])["input_ids"])
        ids, start, _ = self._encode(conversation)
        return ids[:start]

    def _find_end_tokens(self) -> set[int]:
        """The special tokens that end an answer in the template."""
        ids, _, end = self._encode([{"role": "user", "content": "question"}])
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return {ids[end - 1]} & special

    def _encode(
        self,
        conversation: list[Message],
    ) -> tuple[list[int], int, int]:
        """A conversation with an answer: its tokens, and the answer's [start, end) among them."""
        answer: Message = {"role": "assistant", "content": PLACEHOLDER}
        messages = give_system([*conversation, answer], self.default_system)
        example = Example(messages, "", "the prompt")
        ((ids, spans),) = self.template.encode([example])
        start, end = spans[-1]
        return ids, start, end
