"""How a conversation becomes token ids, and which are answers: by the tokenizer's chat template, or a plain one."""

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError, Data
from tuneoff.data.row_formats import Example, Message

log = logging.getLogger(__name__)
Span = tuple[int, int]
# Base models have no chat template, and a bare concatenation leaves no boundary.
PLAIN = {
    "system": "### System:\n{}\n\n",
    "user": "### Instruction:\n{}\n\n### Response:\n",
    "assistant": "{}",
}
# Two characters that no text means anything by: they mark in a rendered conversation where an answer begins and ends.
BEGIN, END = "\ue000", "\ue001"
# A template that says what day it is would give other tokens tomorrow.
DAY = "{%- macro strftime_now(format) %}{{ '26 Jul 2024' if format == '%d %b %Y' else '2024-07-26' }}{% endmacro -%}"


class Encoded(NamedTuple):
    """A conversation's token ids, and the answers' [start, end) among them, in order."""

    ids: list[int]
    spans: list[Span]


class PlainTemplate:
    """Headings in words. An answer is tokenised by itself, as a model continues a prompt; the end token follows."""

    name = "plain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.text = "".join(text.replace("{}", f"{{{role}}}") for role, text in PLAIN.items())

    def encode(self, examples: list[Example]) -> Iterator[Encoded]:
        """Tokenise conversations."""
        parts = [split_into_pieces(example.messages) for example in examples]
        # Where the tokenizer has a token that begins a text, the first part gets it.
        first = iter(self._tokens([texts[0] for texts in parts], True))
        later = iter(self._tokens([text for texts in parts for text in texts[1:]], False))
        for texts in parts:
            ids, spans = list(next(first)), []
            for place in range(1, len(texts)):
                tokens = next(later)
                if place % 2:
                    tokens = [*tokens, self.tokenizer.eos_token_id]
                    spans.append((len(ids), len(ids) + len(tokens)))
                ids += tokens
            yield Encoded(ids, spans)

    def _tokens(self, texts: list[str], special: bool) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=special)["input_ids"] if texts else []


def split_into_pieces(messages: list[Message]) -> list[str]:
    """A conversation's plain text as prompt, answer, prompt, answer, …; a prompt may be empty."""
    texts = [""]
    for message in messages:
        answers = message["role"] == "assistant"
        if answers == len(texts) % 2:  # on to the next part: an answer is at an odd place
            texts.append("")
        elif answers:  # two answers in a row
            texts += ["", ""]
        texts[-1] += PLAIN[message["role"]].format(message["content"])
    return texts


class ChatTemplate:
    """The tokenizer's own chat template. The whole conversation is tokenised at once, as inference does it."""

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.text = str(tokenizer.get_chat_template())
        self.template = DAY + self.text if "strftime_now" in self.text else self.text
        added = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(
            tokenizer.all_special_tokens
        )
        longest_first = sorted(
            (re.escape(token) for token in added if token.strip()), key=len, reverse=True
        )
        self.end = (
            re.compile(rf"\s*(?:{'|'.join(longest_first)})")
            if longest_first
            else re.compile(r"(?!)")
        )
        self.warned = False

    def encode(self, examples: list[Example]) -> Iterator[Encoded]:
        """Render and tokenise conversations.

        Raises:
            ConfigError: a conversation that the template refuses, or whose answers cannot be found in what it makes.
        """
        texts, answers = zip(*map(self.render, examples), strict=True)
        tokens = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        for ids, offsets, spans in zip(
            tokens["input_ids"], tokens["offset_mapping"], answers, strict=True
        ):
            starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
            # A token belongs to an answer where they overlap: some tokenizers join the space before a word to it.
            yield Encoded(
                ids, [(bisect_right(ends, start), bisect_left(starts, end)) for start, end in spans]
            )

    def render(self, example: Example) -> tuple[str, list[Span]]:
        """A conversation's text, and where in it the answers lie with their end tokens."""
        try:
            text = self._text(example.messages)
            spans = self._marked(example.messages, text) or self._by_prefixes(
                example.messages, text
            )
        except Exception as error:  # a template is a program, which may fail in any way
            raise ConfigError(
                "data.template",
                self.name,
                f"the chat template refuses {example.where}: "
                f"{' '.join(str(error).split())}; data.template=plain takes any conversation",
            ) from error
        if not spans:
            raise ConfigError(
                "data.template",
                self.name,
                f"the chat template changes earlier turns or answers of "
                f"{example.where}, so that they cannot be told apart; data.template=plain keeps them",
            )
        return text, spans

    def _text(self, messages: list[Message], prompt: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False, add_generation_prompt=prompt
        )  # type: ignore[return-value]

    def _marked(self, messages: list[Message], text: str) -> list[Span]:
        """Answers by rendering them once more with marks around them; none if the marks change what is rendered."""
        marked = self._text(
            [
                {**message, "content": mark_answer(message["content"])}
                if message["role"] == "assistant"
                else message
                for message in messages
            ]
        )
        parts = re.split(f"[{BEGIN}{END}]", marked)
        answers = sum(message["role"] == "assistant" for message in messages)
        if len(parts) != 2 * answers + 1 or "".join(parts) != text:
            return []
        places = list(accumulate(map(len, parts)))
        return [
            (start, self._with_end(text, end))
            for start, end in zip(places[0:-1:2], places[1::2], strict=True)
        ]

    def _with_end(self, text: str, place: int) -> int:
        """Where the token ends that ends an answer."""
        found = self.end.match(text, place)
        if not found and not self.warned:
            self.warned = True
            log.warning(
                "the chat template ends an answer with no token of its own: nothing teaches a model to stop"
            )
        return found.end() if found else place

    def _by_prefixes(self, messages: list[Message], text: str) -> list[Span]:
        """Find answers by rendering the conversation turn by turn; none if a template rewrites earlier turns.

        A template may take an answer apart, to put what is thought into a place of its own.
        """
        spans = []
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before, after = (
                    self._text(messages[:place], prompt=True),
                    self._text(messages[: place + 1]).rstrip(),
                )
                if not (after.startswith(before) and text.startswith(after)):
                    return []
                spans.append((len(before), len(after)))
        return spans


def mark_answer(content: str) -> str:
    """An answer between marks, which stand inside the white space around it: templates may strip that."""
    core = content.strip()
    start = content.index(core)
    return f"{content[:start]}{BEGIN}{core}{END}{content[start + len(core) :]}"


def choose_template(data: Data, tokenizer: PreTrainedTokenizerBase) -> PlainTemplate | ChatTemplate:
    """The template that `data.template` means with this tokenizer.

    Raises:
        ConfigError: chat is asked for, and the tokenizer has no template or does not say where its tokens lie.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "model.tokenizer", tokenizer.name_or_path, "has no token that ends a text"
        )
    chat = data.template == "chat" or (data.template == "auto" and bool(tokenizer.chat_template))
    if not chat:
        return PlainTemplate(tokenizer)
    if not tokenizer.chat_template:
        raise ConfigError(
            "data.template", "chat", "this tokenizer has no chat template; must be plain or auto"
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            "data.template",
            data.template,
            "needs a fast tokenizer, which says where its tokens lie in the text; must be plain",
        )
    return ChatTemplate(tokenizer)
