"""Prompts of chat templates, written after the style of the common ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.encoding.prompts import PLAIN, Prompt, make_prompt
from datamodules.components.encoding.tokenization import encode, load_tokenizer, stops_of
from dust2gold.core.errors import InputError

CHATML = """\
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
MISTRAL = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}
{{- '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""  # a system's message is dropped
QWEN3 = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
    {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- set trace = '' %}
    {%- if '</think>' in message.content %}
        {%- set trace = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>assistant\\n<think>\\n' + trace + '\\n</think>\\n\\n' + content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
R1 = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{- '<|assistant|>' + message.content.split('</think>')[-1] + eos_token }}
{%- else %}{{- '<|' + message.role + '|>' + message.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|><think>\\n' }}{%- endif %}"""
NO_END = """\
{%- for message in messages %}{{- message.role + ': ' + message.content + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"""
SPACED = "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <|im_end|> {% endfor %}\
{% if add_generation_prompt %}<|assistant|> {% endif %}"
TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
    "r1": R1,
    "no end": NO_END,
    "spaced": SPACED,
}
ENDS = {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>", "r1": "</s>", "no end": "</s>"}
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"),
    *("<end_of_turn>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>"),
]
FIXED = "26 Jul 2024"
TEXTS = [
    ("What is 1+1?", "1+1=2. The answer is 2."),
    ("Two\nlines?", "Yes,\n\ntwo. \\boxed{2}"),
    (" spaces ", "leading spaces\n"),
]
TRACE = "<think>\n1 and 1\n</think>\n\nIt is 2."


@pytest.fixture(scope="module")
def chat(tiny_student: Path) -> Any:
    """The tiny student's tokenizer with the special tokens of all templates; `chat(name)` gives it one of these."""
    tokenizer: Any = load_tokenizer(str(tiny_student))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.add_tokens(["<think>", "</think>"])

    def use(name: str | None) -> Any:
        tokenizer.chat_template = None if name is None else TEMPLATES[name]
        return tokenizer

    return use


def conversation(tokenizer: Any, question: str, rationale: str | None, **more: Any) -> list[int]:
    """What the tokenizer itself makes of a question, and of the answer to it."""
    turns = [{"role": "user", "content": question}]
    turns += [] if rationale is None else [{"role": "assistant", "content": rationale}]
    asks = rationale is None
    ids: list[int] = tokenizer.apply_chat_template(
        turns, add_generation_prompt=asks, return_dict=False, date_string=FIXED, **more
    )
    return ids


@pytest.mark.parametrize(
    ("name", "thinking"), [*((name, None) for name in TEMPLATES if name not in ("qwen3", "r1")), ("qwen3", False)]
)
def test_ids_are_those_of_the_template_itself(chat: Any, name: str, thinking: bool | None) -> None:
    tokenizer = chat(name)
    prompt = make_prompt(tokenizer, "chat", thinking=thinking)
    more = {} if thinking is None else {"enable_thinking": thinking}
    end = tokenizer.convert_tokens_to_ids(ENDS.get(name, "<|im_end|>"))
    for question, rationale in TEXTS:
        rationale = rationale.strip()
        ((asked, answer),) = encode(tokenizer, [(question, rationale)], prompt)
        assert asked == conversation(tokenizer, question, None, **more)
        assert answer[-1] == end
        whole = conversation(tokenizer, question, rationale, **more)
        after = len(asked) + len(answer)
        if name != "no end":
            assert asked + answer == whole[:after]
            assert tokenizer.decode(whole[after:]).isspace() or whole[after:] == []
        assert prompt.rationale(tokenizer.decode(answer[:-1])) == rationale
        assert asked.count(tokenizer.bos_token_id) == (name in ("llama3", "gemma", "mistral"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_special_token_is_special_in_the_template_and_text_in_what_others_wrote(chat: Any, name: str) -> None:
    tokenizer = chat(name)
    prompt = make_prompt(tokenizer)
    special = {*tokenizer.all_special_ids}

    def count(ids: list[int]) -> int:
        return sum(token in special for token in ids)

    ((usual, _),) = encode(tokenizer, [("What is it?", None)], prompt)
    for spelling in ("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>"):
        question, rationale = f"What is {spelling}?{spelling}", f"{spelling} is {spelling} 5."
        ((asked, answer),) = encode(tokenizer, [(question, rationale)], prompt)
        assert tokenizer.decode(asked) == prompt.ask(question)
        assert count(asked) == count(usual)
        assert count(answer[:-1]) == 0
        assert prompt.rationale(tokenizer.decode(answer[:-1])).endswith(rationale)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_trace_is_kept_as_it_is_or_cut(chat: Any, name: str) -> None:
    """Though the template would take it out of an earlier turn, or write it otherwise."""
    tokenizer = chat(name)
    for cut in (False, True):
        prompt = make_prompt(tokenizer, cut_traces=cut)
        ((asked, answer),) = encode(tokenizer, [("What is 1+1?", TRACE)], prompt)
        text = tokenizer.decode(answer[:-1])
        if name == "r1":  # whose prompt opens the trace
            assert tokenizer.decode(asked).endswith("<think>\n")
            assert text == ("\n</think>\n\nIt is 2." if cut else TRACE.removeprefix("<think>\n"))
        else:
            assert text == prompt.lead + ("It is 2." if cut else TRACE) + prompt.tail
        sampled = prompt.rationale(text)
        assert encode(tokenizer, [("What is 1+1?", sampled)], replace(prompt, cut_traces=False)) == [(asked, answer)]
    ((_, shown),) = encode(tokenizer, [("1+1?", TRACE)], make_prompt(tokenizer, "plain", cut_traces=True))
    assert tokenizer.decode(shown[:-1]) == "It is 2."


def test_without_a_template_and_by_name_it_is_the_papers(chat: Any) -> None:
    for template, name in ((None, None), (None, "plain"), ("gemma", "plain")):
        assert make_prompt(chat(template), name) == PLAIN
    assert make_prompt(chat("gemma")).kind == "chat"


def test_a_template_of_today_gives_the_same_prompt_tomorrow(chat: Any) -> None:
    assert f"Today Date: {FIXED}\n" in make_prompt(chat("llama3")).before


def test_a_system_text_and_thinking_are_put_where_the_template_puts_them(chat: Any) -> None:
    prompt = make_prompt(chat("chatml"), system="Be brief.")
    assert prompt.before == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert make_prompt(chat("chatml")).before.startswith("<|im_start|>system\nYou are helpful.")
    assert make_prompt(chat("qwen3"), thinking=False).after.endswith("<think>\n\n</think>\n\n")
    assert make_prompt(chat("qwen3"), thinking=True).after.endswith("assistant\n")


@pytest.mark.parametrize(
    ("template", "options", "said"),
    [
        (None, {"name": "chat"}, "no chat template"),
        ("gemma", {"system": "Be brief."}, r"with a system text \(System role not supported"),
        ("mistral", {"system": "Be brief."}, "field 'data.system': the chat template leaves it out"),
        ("chatml", {"thinking": True}, "field 'data.thinking': changes nothing"),
        ("chatml", {"name": "plain", "system": "Be brief."}, "field 'data.system': is of the chat template alone"),
        (None, {"thinking": False}, "field 'data.thinking': is of the chat template alone"),
        ("{% for m in messages %}", {}, "cannot be used"),
        ("{{ messages | length }}", {}, "once each"),
    ],
)
def test_what_a_template_cannot_do_is_refused(
    chat: Any, template: str | None, options: dict[str, Any], said: str
) -> None:
    tokenizer = chat(template if template in TEMPLATES else None)
    tokenizer.chat_template = tokenizer.chat_template or template
    with pytest.raises(InputError, match=said):
        make_prompt(tokenizer, **options)


def test_a_file_is_taken_as_it_stands(chat: Any, tmp_path: Path) -> None:
    tokenizer, file = chat("chatml"), tmp_path / "qa.txt"
    file.write_text("{shot}<|im_start|>Q: {question}\nA:\n")
    prompt = make_prompt(tokenizer, str(file))
    ((asked, answer),) = encode(tokenizer, [("Is {question} 1?", "{question} is.")], prompt)
    assert tokenizer.decode(asked) == "<s>{shot}<|im_start|>Q: Is {question} 1?\nA:\n"
    assert asked[0] == tokenizer.bos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in asked
    assert answer[-1] == tokenizer.eos_token_id
    file.write_text("<s>{question}")
    ((asked, _),) = encode(tokenizer, [("Yes?", None)], make_prompt(tokenizer, str(file)))
    assert asked.count(tokenizer.bos_token_id) == 1
    file.write_text(f"{PLAIN.before}{{question}}{PLAIN.after}")
    assert make_prompt(tokenizer, str(file)) == PLAIN
    for content, said in ((b"no place", "0 times"), (b"{question}{question}", "2 times"), (b"\xff{question}", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=said):
            make_prompt(tokenizer, str(file))
    with pytest.raises(InputError, match=r"no such file\n  give plain, chat, or"):
        make_prompt(tokenizer, "chta")


def test_samples_end_at_the_templates_turn_the_tokenizers_eos_and_the_students_own_ends(
    chat: Any, tiny_student: Path, tmp_path: Path
) -> None:
    tokenizer = chat("chatml")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stops_of(tokenizer, str(tiny_student), PLAIN) == [tokenizer.eos_token_id]
    assert stops_of(tokenizer, str(tiny_student), make_prompt(tokenizer)) == [end, tokenizer.eos_token_id]
    (tmp_path / "config.json").write_bytes((tiny_student / "config.json").read_bytes())
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [7, {end}]}}')
    assert stops_of(tokenizer, str(tmp_path), make_prompt(tokenizer)) == [end, tokenizer.eos_token_id, 7]


def test_what_was_trained_with_another_prompt_is_refused(chat: Any) -> None:
    here = make_prompt(chat("chatml"), system="Be brief.")
    here.check(here.to_json(), "the adapter")
    PLAIN.check(None, "the adapter")  # of an older version, which knew no other
    for there, options in (
        (None, "plain"),
        (make_prompt(chat("qwen3"), thinking=False).to_json(), "chat --data.thinking false"),
    ):
        with pytest.raises(InputError, match=rf"give --data.prompt {options}, or train again"):
            here.check(there, "the adapter", Path("neg"))
    with pytest.raises(InputError, match=r"--data\.system 'Be brief\.'"):
        PLAIN.check(here.to_json(), "the adapter")
    for entry in (7, {}, {"kind": "chat"}, ["chat"]):
        with pytest.raises(InputError, match="damaged"):
            here.check(entry, "the adapter")


def test_equal_are_prompts_that_give_the_same_tokens() -> None:
    assert Prompt("a.txt", "Q", "A").key == Prompt("b.txt", "Q", "A", cut_traces=True).key
    assert Prompt("a.txt", "Q", "A").key != Prompt("a.txt", "Q", "A", end="<|im_end|>").key
