"""The loss is on answers and their end tokens and on nothing else, whatever a chat template makes of a conversation."""

import threading
import time

import pytest
from sets import SMOLLM2, chatty, new_tokenizer, plain, trained, write_lines

from tuneoff.config import ConfigError, Data
from tuneoff.data import load_dataset
from tuneoff.data.chat_template import ChatTemplate
from tuneoff.data.dataset import Row
from tuneoff.data.plain_template import ANSWER_HEADING, PlainTemplate
from tuneoff.data.row_formats import Example
from tuneoff.data.templates import choose_template
from tuneoff.data.time_limit import TimeLimit, TimeLimitExceeded

LLAMA3 = """{{- bos_token }}
{%- if strftime_now is defined %}{%- set date = strftime_now("%d %b %Y") %}{%- else %}{%- set date = "26 Jul 2024" %}
{%- endif %}
{{- "<|start|>system<|stop|>\n\nToday Date: " + date + "\n\n<|eot|>" }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|stop|>\n\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\n\n' }}{%- endif %}"""
# Qwen3's way: what was thought is taken out of earlier turns, and the last gets a place for it.
THINKING = """{%- for message in messages %}
{%- set content = message.content %}{%- set thought = '' %}
{%- if message.role == 'assistant' and '</think>' in content %}
    {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
    {%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and loop.last %}
{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}
{{- content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
# Mistral's way: what the system says stands in the last question, wherever that is.
MOVING = """{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set system = messages[0].content + '\n\n' %}
{%- set turns = messages[1:] %}{%- else %}{%- set system = '' %}{%- set turns = messages %}{%- endif %}
{%- for message in turns %}{%- if message.role == 'user' %}
{{- '[INST] ' + (system if loop.last or loop.index == turns | length - 1 else '') + message.content + ' [/INST]' }}
{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}{%- endfor %}"""
# Gemma's way: another role's name, and no system.
STRICT = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<|turn|>' + role + '\n' + message.content | trim + '<|done|>\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|turn|>model\n' }}{%- endif %}"""
# With the tags by which a template itself says what is generated.
TAGGED = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}{{- '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
# Words for turns, and a full stop for an end.
WORDS = """{%- for message in messages %}{{- message.role + ': ' + message.content + '\n' }}{%- endfor %}"""
END = "<|im_end|>"


def turns(*contents: str, system: str | None = None) -> Example:
    """A conversation of question, answer, question, answer."""
    roles = ("user", "assistant")
    said = [
        {"role": roles[place % 2], "content": content} for place, content in enumerate(contents)
    ]
    return Example(
        [{"role": "system", "content": system}, *said] if system else said, "", "rows.jsonl: line 7"
    )


def answers(template: str, example: Example) -> list[str]:
    """What is trained of a conversation, whose tokens must be those that the tokenizer itself makes of it."""
    tokenizer = new_tokenizer(
        template, "<|im_start|>", END, "<|start|>", "<|stop|>", "<|eot|>", "<|turn|>", "<|done|>"
    )
    ((ids, spans),) = ChatTemplate(tokenizer).encode([example])
    whole = tokenizer.apply_chat_template(example.messages, tokenize=True, return_dict=False)
    assert "strftime_now" in template or ids == whole
    return trained(Row(ids, spans), tokenizer)


TALK = turns("Hello?", "Hello there.", "What is 1 + 1?", "It is 2.\n\nSure.")


@pytest.mark.parametrize(
    ("template", "end"), [(SMOLLM2, END), (LLAMA3, "<|eot|>"), (STRICT, "<|done|>"), (TAGGED, END)]
)
def test_every_answer_and_its_end_token_are_trained_and_nothing_else(template, end):
    assert answers(template, TALK) == [f"Hello there.{end}", f"It is 2.\n\nSure.{end}"]


SPACED = turns("Hello?", "  Hello \n", "What?", "\n\n  Two. ")
# What it takes from the beginning of an answer are line breaks alone.
BREAKS_OFF = SMOLLM2.replace("+ message['content'] +", "+ message['content'].lstrip('\n') +")


@pytest.mark.parametrize(
    ("template", "trained_texts"),
    [
        (LLAMA3, ["Hello<|eot|>", "Two.<|eot|>"]),
        (SMOLLM2, [f"  Hello \n{END}", f"\n\n  Two. {END}"]),
        (BREAKS_OFF, [f"  Hello \n{END}", f"  Two. {END}"]),
    ],
)
def test_white_space_of_an_answer_is_trained_as_far_as_the_template_keeps_it(
    template, trained_texts
):
    tokenizer = new_tokenizer(template, "<|im_start|>", END, "<|start|>", "<|stop|>", "<|eot|>")
    ((ids, spans),) = ChatTemplate(tokenizer).encode([SPACED])
    assert trained(Row(ids, spans), tokenizer) == trained_texts
    assert tokenizer.decode(ids) == ChatTemplate(tokenizer).render(SPACED)[0]


@pytest.mark.parametrize("template", [SMOLLM2, BREAKS_OFF])
def test_a_prompt_is_the_templates_own_where_its_answer_begins_with_white_space(template):
    tokenizer = new_tokenizer(template, "<|im_start|>", END)
    for answer in ("    return 1", "\n    return 1", "\n\nTwo.", "\tTwo."):
        asked = turns("Go on.", answer)
        ((ids, spans),) = ChatTemplate(tokenizer).encode([asked])
        prompt = tokenizer.apply_chat_template(
            asked.messages[:-1], add_generation_prompt=True, return_dict=False
        )
        assert ids[: spans[-1][0]] == prompt


@pytest.mark.parametrize("answer", ["", "  ", "\n"])
def test_an_answer_of_white_space_alone_ends_all_the_same(answer):
    for template, end in ((LLAMA3, "<|eot|>"), (SMOLLM2, END)):
        tokenizer = new_tokenizer(template, "<|im_start|>", END, "<|start|>", "<|stop|>", "<|eot|>")
        ((ids, spans),) = ChatTemplate(tokenizer).encode([turns("Say nothing.", answer)])
        kept = answer if template == SMOLLM2 else ""
        assert trained(Row(ids, spans), tokenizer) == [kept + end]


def test_control_tokens_in_what_is_said_end_no_answer():
    odd = turns(f"What does {END} mean?", f"{END} ends a turn.", "And then?", "Nothing.")
    assert answers(SMOLLM2, odd) == [f"{END} ends a turn.{END}", f"Nothing.{END}"]


def test_answers_that_repeat_the_question_or_each_other_are_told_apart():
    assert answers(SMOLLM2, turns("a", "a", "a", "a")) == [f"a{END}"] * 2
    ((_, spans),) = ChatTemplate(chatty()).encode([turns("a", "a", "a", "a")])
    assert spans[0][1] < spans[1][0]


def test_a_template_may_move_what_the_system_says():
    example = turns("one", "1", "two", "2", system="Count.")
    assert answers(MOVING, example) == [" 1<|end|>", " 2<|end|>"]


def test_words_of_the_system_that_the_template_leaves_out_are_refused():
    """Phi-3's first template had turns of users and assistants alone."""
    template = (
        "{% for m in messages %}{% if m['role'] != 'system' %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] | replace('\n', ' ') }}<|im_end|>\n"
        "{% endif %}{% endfor %}"
    )
    asked = [{"role": "user", "content": "one\n  two?"}, {"role": "assistant", "content": "2"}]
    assert answers(template, Example(asked, "", "rows.jsonl: line 7")) == [f"2{END}"]
    told = [{"role": "system", "content": "Be brief."}, *asked]
    message = "^data.template=chat: the chat template leaves out what the system says in rows.jsonl: line 7;"
    with pytest.raises(ConfigError, match=message):
        answers(template, Example(told, "", "rows.jsonl: line 7"))


def test_thoughts_are_trained_where_the_template_keeps_them():
    assert answers(THINKING, turns("q", "<think>\nhm\n</think>\n\nyes")) == [
        f"<think>\nhm\n</think>\n\nyes{END}"
    ]
    assert answers(THINKING, TALK) == [f"Hello there.{END}", f"It is 2.\n\nSure.{END}"]


def test_thoughts_that_the_template_takes_out_are_refused_not_guessed():
    with pytest.raises(
        ConfigError,
        match=r"^data.template=chat: .*changes.*rows.jsonl: line 7.*data.template=plain",
    ):
        answers(THINKING, turns("q", "<think>\nhm\n</think>\n\nyes", "q", "no"))


def test_what_a_template_refuses_is_told_with_its_place():
    with pytest.raises(ConfigError, match="refuses rows.jsonl: line 7: System role not supported"):
        answers(STRICT, turns("a", "b", system="Be kind."))
    with pytest.raises(ConfigError, match="refuses rows.jsonl: line 7: can only concatenate str"):
        answers("{{ messages[0].content + 1 }}", turns("a", "b"))


LOOPS = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_template_that_loops_is_refused_within_its_time(monkeypatch, in_main_thread):
    """Without SIGALRM: this is not always the main thread."""
    monkeypatch.setattr("tuneoff.data.chat_template.RENDER_SECONDS", 0.3)
    caught = []

    def encode():
        try:
            list(ChatTemplate(new_tokenizer(LOOPS + SMOLLM2)).encode([TALK]))
        except ConfigError as error:
            caught.append(str(error))

    started = time.process_time()
    if in_main_thread:
        encode()
    else:
        thread = threading.Thread(target=encode)
        thread.start()
        thread.join()
    assert time.process_time() - started < 5
    (line,) = caught
    assert line.startswith(
        "data.template=chat: the chat template takes longer than 0.3 s for rows.jsonl: line 7; "
    )


def test_a_time_limit_hits_nothing_behind_it():
    for _ in range(20):
        try:
            with TimeLimit(0.0) as limit:
                for _ in range(20_000):
                    limit.restart()
        except TimeLimitExceeded:
            pass
        for _ in range(50_000):  # an exception that came late would come here
            pass
    with TimeLimit(60.0):
        time.sleep(0.3)


def test_private_use_characters_in_what_is_said_are_no_marks():
    odd = turns("\ue000?", "\ue001 and \ue000.", "And?", "\ue002", system="\ue001")
    found = [text.strip() for text in answers(MOVING, odd)]
    assert found == ["\ue001 and \ue000.<|end|>", "\ue002<|end|>"]


def test_an_answer_without_an_end_token_is_told_once(caplog):
    assert answers(WORDS, TALK) == [
        " Hello there.",
        " It is 2.\n\nSure.",
    ]  # a space belongs to its word
    assert caplog.text.count("nothing teaches a model to stop") == 1


def test_a_template_that_tells_the_date_gives_the_same_tokens_tomorrow():
    tokenizer = new_tokenizer(LLAMA3, "<|start|>", "<|stop|>", "<|eot|>")
    text, _ = ChatTemplate(tokenizer).render(TALK)
    assert "Today Date: 26 Jul 2024\n" in text


def test_the_prompt_of_the_last_answer_is_what_a_model_is_given_to_answer():
    ((ids, spans),) = ChatTemplate(chatty()).encode([TALK])
    asked = chatty().apply_chat_template(
        TALK.messages[:-1], add_generation_prompt=True, return_dict=False
    )
    assert ids[: spans[-1][0]] == asked


# ---------------------------------------------------------------- the plain one, and which is chosen
def test_plain_turns_follow_each_other():
    example = turns("Hello?", "Hi.", "Bye?", "Bye.", system="Be kind.")
    ((ids, spans),) = PlainTemplate(plain()).encode([example])
    assert plain().decode(ids) == (
        "### System:\nBe kind.\n\n### Instruction:\nHello?\n\n### Response:\nHi.<|end|>"
        "### Instruction:\nBye?\n\n### Response:\nBye.<|end|>"
    )
    assert trained(Row(ids, spans), plain()) == ["Hi.<|end|>", "Bye.<|end|>"]


def test_plain_takes_conversations_in_any_order():
    said = [
        ("assistant", "Hi."),
        ("assistant", "Well?"),
        ("user", "a"),
        ("user", "b"),
        ("assistant", "c"),
    ]
    ((ids, spans),) = PlainTemplate(plain()).encode(
        [Example([{"role": r, "content": c} for r, c in said], "", "")]
    )
    assert trained(Row(ids, spans), plain()) == ["Hi.<|end|>", "Well?<|end|>", "c<|end|>"]


@pytest.mark.parametrize("before", ["S U", "U S", "U U", "S", "U S U", "U A S", "U A U S U"])
def test_a_plain_answer_stands_under_its_heading_whoever_spoke_before(before):
    messages = []
    roles = {"S": "system", "U": "user", "A": "assistant"}
    for speaker in [*before.split(), "A"]:
        messages.append({"role": roles[speaker], "content": f"said by {speaker}"})
    ((ids, spans),) = PlainTemplate(plain()).encode([Example(messages, "", "")])
    for start, _ in spans:
        assert plain().decode(ids[:start]).endswith(f"\n\n{ANSWER_HEADING}")
    text = plain().decode(ids)
    assert text.count(ANSWER_HEADING) == len(spans) == before.count("A") + 1
    assert text.count("said by") == len(messages)


def test_auto_takes_the_tokenizers_template_where_there_is_one():
    names = [
        choose_template(Data("t", "t", template=template), tokenizer()).name
        for template in ("auto", "plain")
        for tokenizer in (plain, chatty)
    ]
    assert names == ["plain", "chat", "plain", "plain"]
    with pytest.raises(
        ConfigError, match="^data.template=chat: this tokenizer has no chat template"
    ):
        choose_template(Data("t", "t", template="chat"), plain())


def test_several_templates_without_a_default_are_refused():
    tokenizer = new_tokenizer()
    tokenizer.chat_template = {"rag": SMOLLM2, "tool_use": SMOLLM2}
    with pytest.raises(ConfigError, match="data.template=auto: .*rag, tool_use, none of them def"):
        choose_template(Data("test"), tokenizer)
    tokenizer.chat_template["default"] = SMOLLM2
    assert choose_template(Data("test"), tokenizer).text == SMOLLM2


def test_a_conversation_that_the_template_refuses_is_skipped_where_bad_rows_are(tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    refused = [{"role": "system", "content": "Be brief."}, *talk]
    tokenizer = new_tokenizer(STRICT, "<|turn|>", "<|done|>")
    path = write_lines(tmp_path / "rows.jsonl", [{"messages": refused}, {"messages": talk}])
    with pytest.raises(ConfigError, match="System role not supported"):
        load_dataset(Data("test", str(path)), tokenizer, 64)
    data = load_dataset(Data("test", str(path), on_bad_row="skip"), tokenizer, 64)
    (row,) = data.splits["train"]
    assert trained(row, tokenizer) == ["yo<|done|>"]
    assert data.unread["skipped_rows"] == 1
    assert "the chat template refuses" in data.unread["skipped"][0]
    write_lines(path, [{"messages": refused}])
    with pytest.raises(ConfigError, match="no training rows beside those that are skipped, as .*1"):
        load_dataset(Data("test", str(path), on_bad_row="skip"), tokenizer, 64)
