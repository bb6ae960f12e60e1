"""The tokenizer's own chat template, and where in what it makes of a conversation the answers are."""

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError
from tuneoff.data.plain_template import EncodedConversation
from tuneoff.data.printable import escape_unprintable
from tuneoff.data.row_formats import Example, Message
from tuneoff.data.time_limit import TimeLimit, TimeLimitExceeded

log = logging.getLogger(__name__)
Span = tuple[int, int]
# White space that a template may strip from the beginning of an answer: none of it, line breaks, all.
STRIPPED = ("", "\n", None)
# Characters of the private use area. Two that a conversation does not hold mark in what is rendered
# of it where an answer begins and ends.
PRIVATE_USE = [chr(code) for code in range(0xE000, 0xF900)]
# Seconds of CPU time for one conversation; the usual ones take less than a thousandth.
RENDER_SECONDS = 10.0
# A template that tells today's date would give other tokens tomorrow.
FIXED_DATE = (
    "{%- macro strftime_now(format) %}"
    "{{ '26 Jul 2024' if format == '%d %b %Y' else '2024-07-26' }}"
    "{% endmacro -%}"
)


class ChatTemplate:
    """The tokenizer's own chat template.

    The whole conversation is tokenised at once, as inference does it; where an answer begins with
    white space, no token holds some of it and what stands before it, since a prompt ends there.
    """

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Take a fast tokenizer that has a chat template."""
        self.tokenizer = tokenizer
        self.text = str(tokenizer.get_chat_template())
        self.template = self.text
        if "strftime_now" in self.text:
            self.template = FIXED_DATE + self.text
        self.end_pattern = compile_end_pattern(tokenizer)
        self.warned = False

    def encode(self, examples: list[Example]) -> Iterator[EncodedConversation]:
        """Render and tokenise conversations.

        Raises:
            ConfigError: a conversation that the template refuses, or whose answers cannot be found
                in what it makes.
        """
        texts = []
        spans_in_texts = []
        location = ""
        try:
            with TimeLimit(RENDER_SECONDS) as limit:
                for example in examples:
                    location = example.location
                    limit.restart()
                    text, spans_in_text = self.render(example)
                    texts.append(text)
                    spans_in_texts.append(spans_in_text)
        except TimeLimitExceeded as error:
            raise ConfigError(
                "data.template",
                self.name,
                f"the chat template takes longer than {RENDER_SECONDS:g} s for {location}; "
                "data.template=plain takes any conversation",
            ) from error
        tokens = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for text, ids, offsets, spans_in_text in zip(
            texts, tokens["input_ids"], tokens["offset_mapping"], spans_in_texts, strict=True
        ):
            for start, _ in spans_in_text:
                if text[start : start + 1].isspace():
                    self._cut_token(text, start, ids, offsets)
            yield EncodedConversation(ids, find_token_spans(offsets, spans_in_text))

    def _cut_token(
        self,
        text: str,
        position: int,
        ids: list[int],
        offsets: list[Span],
    ) -> None:
        """Replace the token in whose middle a position lies by those of the text before and behind it."""
        place = bisect_right([end for _, end in offsets], position)
        if place == len(offsets) or offsets[place][0] >= position:
            return
        start, end = offsets[place]
        parts = [text[start:position], text[position:end]]
        parts_ids = self.tokenizer(parts, add_special_tokens=False)["input_ids"]
        if [self.tokenizer.decode(part_ids) for part_ids in parts_ids] != parts:
            return  # this tokenizer writes something before a text
        before, behind = parts_ids
        ids[place : place + 1] = [*before, *behind]
        offsets[place : place + 1] = [
            *[(start, position)] * len(before),
            *[(position, end)] * len(behind),
        ]

    def render(self, example: Example) -> tuple[str, list[Span]]:
        """Return a conversation's text, and where in it the answers lie with their end tokens.

        Raises:
            ConfigError: as `encode`.
        """
        messages = example.messages
        try:
            text = self._apply(messages)
            spans = self._find_by_marks(messages, text)
            if not spans:
                spans = self._find_by_prefixes(messages, text)
        except Exception as error:  # a template is a program, which may fail in any way
            reason = escape_unprintable(" ".join(str(error).split()))[:500]
            raise ConfigError(
                "data.template",
                self.name,
                f"the chat template refuses {example.location}: {reason}; "
                "data.template=plain takes any conversation",
            ) from error
        left_out = find_left_out(messages, text)
        if left_out:
            raise ConfigError(
                "data.template",
                self.name,
                f"the chat template leaves out what the {left_out} says in {example.location}; "
                "data.template=plain keeps it",
            )
        if not spans:
            raise ConfigError(
                "data.template",
                self.name,
                f"the chat template changes earlier turns or answers of {example.location}, "
                "so that they cannot be told apart; data.template=plain keeps them",
            )
        return text, spans

    def _apply(self, messages: list[Message], generation_prompt: bool = False) -> str:
        text = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
        return str(text)

    def _find_by_marks(self, messages: list[Message], text: str) -> list[Span]:
        """Find answers by rendering them once more with marks around them.

        Returns:
            Their [start, end) in `text`; none if the marks change what is rendered.
        """
        begin, end_mark = choose_marks(text)
        answers = sum(message["role"] == "assistant" for message in messages)
        tried = []
        for stripped in STRIPPED:
            marked = mark_answers(messages, begin, end_mark, stripped)
            if marked in tried:
                continue
            tried.append(marked)
            # Outside, answer, outside, answer, …, outside.
            pieces = re.split(f"[{begin}{end_mark}]", self._apply(marked))
            if len(pieces) == 2 * answers + 1 and "".join(pieces) == text:
                return self._find_in_pieces(pieces, text)
        return []

    def _find_in_pieces(self, pieces: list[str], text: str) -> list[Span]:
        """Return where answers lie in a text that was divided at their ends."""
        spans = []
        end = 0
        outsides = pieces[0:-1:2]
        inside = pieces[1::2]
        for outside, answer in zip(outsides, inside, strict=True):
            start = end + len(outside)
            end = start + len(answer)
            spans.append((start, self._include_end_token(text, end)))
        return spans

    def _include_end_token(self, text: str, position: int) -> int:
        """Return where the token ends that ends the answer before `position`."""
        match = self.end_pattern.match(text, position)
        if match:
            return match.end()
        if not self.warned:
            self.warned = True
            log.warning(
                "the chat template ends an answer with no token of its own: "
                "nothing teaches a model to stop"
            )
        return position

    def _find_by_prefixes(self, messages: list[Message], text: str) -> list[Span]:
        """Find answers by rendering the conversation turn by turn.

        Marks do not work where a template takes an answer apart, to put what is thought into a
        place of its own.

        Returns:
            Their [start, end) in `text`; none if the template rewrites earlier turns.
        """
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._apply(messages[:index], generation_prompt=True)
            after = self._apply(messages[: index + 1]).rstrip()
            if not after.startswith(before) or not text.startswith(after):
                return []
            spans.append((len(before), len(after)))
        return spans


def find_left_out(messages: list[Message], text: str) -> str | None:
    """Return whose words, of the system or a user, do not stand in what a template makes; None where all do.

    Some templates have no place for a system, and say nothing of it. White space may be another.
    """
    squeezed = ""
    for message in messages:
        words = message["content"].strip()
        if message["role"] == "assistant" or words in text:
            continue
        squeezed = squeezed or "".join(text.split())
        if "".join(words.split()) not in squeezed:
            return message["role"]
    return None


def compile_end_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a pattern for a special token, perhaps after white space: what may end an answer."""
    tokens = set(tokenizer.all_special_tokens)
    for added_token in tokenizer.added_tokens_decoder.values():
        tokens.add(added_token.content)
    escaped = [re.escape(token) for token in tokens if token.strip()]
    if not escaped:
        return re.compile(r"(?!)")  # matches nothing
    longest_first = sorted(escaped, key=len, reverse=True)
    return re.compile(rf"\s*(?:{'|'.join(longest_first)})")


def choose_marks(text: str) -> tuple[str, str]:
    """Return two characters that a text does not hold.

    Raises:
        ValueError: it holds all 6,400 of the private use area.
    """
    free = [character for character in PRIVATE_USE[:2] if character not in text]
    if len(free) < 2:
        free = sorted(set(PRIVATE_USE).difference(text))
    if len(free) < 2:
        raise ValueError("no characters are left to mark answers with")
    return free[0], free[1]


def mark_answers(
    messages: list[Message], begin: str, end_mark: str, stripped: str | None
) -> list[Message]:
    """Return a conversation with its answers between marks.

    The marks stand inside the white space that templates may strip: all behind an answer, and before it
    the characters of `stripped`; where that is None, all.
    """
    marked_messages = []
    for message in messages:
        if message["role"] == "assistant":
            content = message["content"]
            start = len(content) - len(content.lstrip(stripped))
            end = max(start, len(content.rstrip()))
            marked = f"{content[:start]}{begin}{content[start:end]}{end_mark}{content[end:]}"
            message = {**message, "content": marked}
        marked_messages.append(message)
    return marked_messages


def find_token_spans(offsets: list[Span], spans_in_text: list[Span]) -> list[Span]:
    """Return which tokens lie in each span of a text.

    A token belongs to an answer where they overlap: some tokenizers join the space before a word to it.
    """
    token_starts = [start for start, _ in offsets]
    token_ends = [end for _, end in offsets]
    spans = []
    for start, end in spans_in_text:
        spans.append((bisect_right(token_ends, start), bisect_left(token_starts, end)))
    return spans
