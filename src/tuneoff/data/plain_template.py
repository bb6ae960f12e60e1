"""The plain template: a conversation as text under headings in words, for models without their own.

Base models have no chat template, and a bare concatenation leaves no boundary.
"""

from collections.abc import Iterator
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from tuneoff.data.row_formats import Example, Message

HEADINGS = {
    "system": "### System:\n{}\n\n",
    "user": "### Instruction:\n{}\n\n### Response:\n",
    "assistant": "{}",
}


class EncodedConversation(NamedTuple):
    """A conversation's token ids, and the answers' [start, end) among them, in order."""

    ids: list[int]
    spans: list[tuple[int, int]]


class PlainTemplate:
    """Headings in words.

    An answer is tokenised by itself, as a model continues a prompt; the end token follows it.
    """

    name = "plain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Take the tokenizer of the model."""
        self.tokenizer = tokenizer
        # What the record says: the headings with each role's name where its words stand.
        self.text = ""
        for role, heading in HEADINGS.items():
            self.text += heading.replace("{}", f"{{{role}}}")

    def encode(self, examples: list[Example]) -> Iterator[EncodedConversation]:
        """Tokenise conversations."""
        pieces = [split_into_pieces(example.messages) for example in examples]
        first_pieces = [texts[0] for texts in pieces]
        later_pieces = []
        for texts in pieces:
            later_pieces += texts[1:]
        # Where the tokenizer has a token that begins a text, the first piece gets it.
        first_ids = iter(self._tokenize(first_pieces, True))
        later_ids = iter(self._tokenize(later_pieces, False))
        for texts in pieces:
            ids = list(next(first_ids))
            spans = []
            for index in range(1, len(texts)):
                piece_ids = list(next(later_ids))
                is_answer = index % 2 == 1
                if is_answer:
                    piece_ids.append(self.tokenizer.eos_token_id)
                    spans.append((len(ids), len(ids) + len(piece_ids)))
                ids += piece_ids
            yield EncodedConversation(ids, spans)

    def _tokenize(self, texts: list[str], special_tokens: bool) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=special_tokens)["input_ids"]


def split_into_pieces(messages: list[Message]) -> list[str]:
    """Return a conversation's plain text in pieces: prompt, answer, prompt, answer and so on.

    A prompt may be empty. Answers are at the odd places.
    """
    pieces = [""]
    for message in messages:
        is_answer = message["role"] == "assistant"
        last_is_answer = len(pieces) % 2 == 0
        if is_answer and last_is_answer:  # two answers in a row: an empty prompt between them
            pieces += ["", ""]
        elif is_answer != last_is_answer:
            pieces.append("")
        pieces[-1] += HEADINGS[message["role"]].format(message["content"])
    return pieces
