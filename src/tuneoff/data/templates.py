"""Templates: how a conversation becomes token ids, and which of them are answers."""

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError, SingleSet
from tuneoff.config.templates import NAMED_TEMPLATES
from tuneoff.data.chat_template import ChatTemplate
from tuneoff.data.named_template import NamedTemplate
from tuneoff.data.plain_template import PlainTemplate

Template = PlainTemplate | ChatTemplate | NamedTemplate


def choose_template(data: SingleSet, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the template that `data.template` means with this tokenizer.

    Raises:
        ConfigError: chat is asked for, and the tokenizer has no template, several without a default, or
            does not say where its tokens lie in a text; the tokenizer has no end token, or not
            those of a named template.
    """
    if tokenizer.eos_token_id is None:
        message = "has no token that ends a text"
        raise ConfigError("model.tokenizer", tokenizer.name_or_path, message)
    if data.template in NAMED_TEMPLATES:
        return NamedTemplate(tokenizer, data.template)
    has_chat_template = bool(tokenizer.chat_template)
    chat = data.template == "chat" or (data.template == "auto" and has_chat_template)
    if not chat:
        return PlainTemplate(tokenizer)
    if not has_chat_template:
        message = "this tokenizer has no chat template; must be plain or auto"
        raise ConfigError("data.template", "chat", message)
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        message = f"this tokenizer's chat templates are {', '.join(templates)}, none of them default; must be plain"
        raise ConfigError("data.template", data.template, message)
    if not tokenizer.is_fast:
        message = (
            "needs a fast tokenizer, which says where its tokens lie in the text; must be plain"
        )
        raise ConfigError("data.template", data.template, message)
    return ChatTemplate(tokenizer)
