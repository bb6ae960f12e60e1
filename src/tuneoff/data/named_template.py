"""A template by its usual name: its texts around the turns, whatever chat template the tokenizer has.

Tokenised as LLaMA-Factory does it: a turn by itself, and cut at the tokens that begin and end a text.
"""

import re
from collections.abc import Iterator
from enum import Enum

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError
from tuneoff.config.templates import NAMED_TEMPLATES
from tuneoff.data.plain_template import EncodedConversation
from tuneoff.data.row_formats import Example, Message

SLOT = re.compile(r"(\{bos\}|\{eos\})")
CONTROL_TOKEN = re.compile(r"<\|?[a-z_]+\|?>")
SAID = "{}"


class Slot(Enum):
    """A place for a token that begins or ends a text; no text is one, whatever somebody says."""

    BEGIN = "{bos}"
    END = "{eos}"


Piece = str | Slot


class NamedTemplate:
    """The texts of one of `NAMED_TEMPLATES`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str):
        """Take the tokenizer of the model.

        Raises:
            ConfigError: the template has control tokens that the tokenizer has not.
        """
        self.tokenizer = tokenizer
        self.name = name
        self.texts = NAMED_TEMPLATES[name]
        self.text = "".join(map(str, self.texts))  # for the record
        self.slots = {Slot.BEGIN: tokenizer.bos_token_id, Slot.END: tokenizer.eos_token_id}
        vocabulary = tokenizer.get_vocab()
        for token in CONTROL_TOKEN.findall(self.text):
            if token not in vocabulary:
                message = f"this tokenizer has no token {token}; auto takes what it has"
                raise ConfigError("data.template", name, message)

    def encode(self, examples: list[Example]) -> Iterator[EncodedConversation]:
        """Tokenise conversations.

        Raises:
            ConfigError: an answer that would not follow its heading.
        """
        for example in examples:
            self.refuse_unanswered(example)
        conversations = [self.list_turns(example.messages) for example in examples]
        texts: list[str] = []
        for turns in conversations:
            for _, pieces in turns:
                texts += [piece for piece in pieces if isinstance(piece, str)]
        tokenized = iter(self._tokenize(texts))
        for turns in conversations:
            ids: list[int] = []
            spans = []
            for is_answer, pieces in turns:
                start = len(ids)
                for piece in pieces:
                    if isinstance(piece, str):
                        ids += next(tokenized)
                        continue
                    token = self.slots[piece]
                    if token is not None:
                        ids.append(token)
                if is_answer:
                    spans.append((start, len(ids)))
            yield EncodedConversation(ids, spans)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def refuse_unanswered(self, example: Example) -> None:
        """Refuse a user's turn without an answer below it, and an answer to nobody: the heading stands with the user's.

        Raises:
            ConfigError: with its place.
        """
        if self.texts.user.endswith(SAID):  # there is no heading
            return
        speaker = ""
        for turn in example.messages:
            role = turn["role"]
            before = f"one of the {speaker}" if speaker else "none"
            speaks_to_nobody = role == "assistant" and speaker != "user"
            if speaks_to_nobody or (speaker == "user" and role != "assistant"):
                reason = f"a turn of the {role} follows {before}"
                refused = f"the template refuses {example.location}: {reason}"
                message = f"{refused}; data.template=plain takes any conversation"
                raise ConfigError("data.template", self.name, message)
            speaker = role

    def list_turns(
        self,
        messages: list[Message],
    ) -> list[tuple[bool, list[Piece]]]:
        """Return a conversation's turns: whether each is an answer, and its pieces, texts or slots."""
        texts = self.texts
        system = texts.default_system
        if messages and messages[0]["role"] == "system":
            system = messages[0]["content"] or system
            messages = messages[1:]
        turns = [(False, cut_at_slots(texts.prefix, ""))]
        inside = ""
        if system and texts.system_in_user:
            inside = texts.system.replace(SAID, system)
        elif system:
            turns.append((False, cut_at_slots(texts.system, system)))
        for message in messages:
            content = message["content"]
            if message["role"] == "assistant":
                turns.append((True, cut_at_slots(texts.assistant, content)))
            elif message["role"] == "system":
                turns.append((False, cut_at_slots(texts.system, content)))
            else:
                turns.append((False, cut_at_slots(texts.user, inside + content)))
                inside = ""
        return turns


def cut_at_slots(text: str, said: str) -> list[Piece]:
    """Return a template's text with what was said put in, cut at its slots."""
    pieces: list[Piece] = []
    for part in SLOT.split(text):
        if SLOT.fullmatch(part):
            pieces.append(Slot(part))
            continue
        filled = part.replace(SAID, said, 1)
        if filled:
            pieces.append(filled)
    return pieces
