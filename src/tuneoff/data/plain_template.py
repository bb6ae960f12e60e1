"""The plain template: a conversation as text under headings in words, for models without their own.

Base models have no chat template, and a bare concatenation leaves no boundary.
"""

from collections.abc import Iterator
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from tuneoff.data.boundaries import find_begin_tokens
from tuneoff.data.row_formats import Example, Message

HEADINGS = {
    "system": "### System:\n{}\n\n",
    "user": "### Instruction:\n{}\n\n",
}
# Directly before an answer, whoever spoke last; an answer to nobody has none.
ANSWER_HEADING = "### Response:\n"


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
        self.begin_tokens = find_begin_tokens(tokenizer)
        # What the record says: the headings with each role's name where its words stand.
        self.text = ""
        for role, heading in HEADINGS.items():
            self.text += heading.replace("{}", f"{{{role}}}")
        self.text += f"{ANSWER_HEADING}{{assistant}}"

    def encode(self, examples: list[Example]) -> Iterator[EncodedConversation]:
        """Tokenise conversations."""
        conversations = [split_into_pieces(example.messages) for example in examples]
        all_pieces = []
        for pieces in conversations:
            all_pieces += pieces
        tokenized = self.tokenizer(all_pieces, add_special_tokens=False)
        ids_of_pieces = iter(tokenized["input_ids"])
        for pieces in conversations:
            ids = list(self.begin_tokens)
            spans = []
            for index in range(len(pieces)):
                piece_ids = list(next(ids_of_pieces))
                is_answer = index % 2 == 1
                if is_answer:
                    piece_ids.append(self.tokenizer.eos_token_id)
                    spans.append((len(ids), len(ids) + len(piece_ids)))
                ids += piece_ids
            yield EncodedConversation(ids, spans)


def split_into_pieces(messages: list[Message]) -> list[str]:
    """Return a conversation's plain text in pieces: prompt, answer, prompt, answer and so on.

    A prompt may be empty. Answers are at the odd places.
    """
    pieces = []
    prompt = ""
    for message in messages:
        if message["role"] == "assistant":
            heading = ANSWER_HEADING if prompt else ""
            pieces += [prompt + heading, message["content"]]
            prompt = ""
        else:
            prompt += HEADINGS[message["role"]].format(message["content"])
    if prompt or not pieces:
        pieces.append(prompt)
    return pieces
