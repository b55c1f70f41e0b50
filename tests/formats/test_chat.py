"""Prompts: with a chat template, without one, and with templates that will not have a system turn."""

from __future__ import annotations

import pytest

from fakes import CHAT_TEMPLATE, tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.formats import FORMATS, get_format
from mathgrpo.formats.chat import encode_prompt, problem_messages, problem_text, prompt_messages
from mathgrpo.types import Problem

QUESTION = "What is 2 + 2?"
PROBLEM = Problem(QUESTION, "4")
XML_PROMPT = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + CHAT_TEMPLATE
)
DROPS_SYSTEM = CHAT_TEMPLATE.replace("<|{{ message.role }}|>", "{% if message.role == 'user' %}<|user|>").replace(
    "<|end|>{% endfor %}", "<|end|>{% endif %}{% endfor %}"
)


def test_messages_hold_the_reference_prompt_word_for_word() -> None:
    assert prompt_messages(QUESTION, get_format("xml")) == [
        {"role": "system", "content": XML_PROMPT},
        {"role": "user", "content": QUESTION},
    ]


def test_every_system_prompt_names_its_tags() -> None:
    for name, marks in {
        "working_out": ("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>"),
        "think": ("<think>", "</think>", "<answer>", "</answer>"),
        "boxed": ("\\boxed{}",),
    }.items():
        assert all(mark in FORMATS[name].system_prompt for mark in marks)


def test_think_puts_the_question_between_problem_tags_even_with_braces() -> None:
    assert prompt_messages("{x} %s?", get_format("think"))[1]["content"] == "<problem>\n{x} %s?\n</problem>"


def test_chat_template_is_used_and_opens_the_assistants_turn() -> None:
    text = problem_text(tiny_tokenizer(), PROBLEM, get_format("xml"))
    assert text == f"<|system|>{XML_PROMPT}<|end|><|user|>{QUESTION}<|end|><|assistant|>"


def test_plain_layout_without_a_template() -> None:
    text = problem_text(tiny_tokenizer(chat_template=False), PROBLEM, get_format("think"))
    system = get_format("think").system_prompt
    assert text == f"{system}\n\n<problem>\n{QUESTION}\n</problem>\n\n"


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM], ids=["refuses", "drops"])
def test_system_turn_is_merged_where_the_template_will_not_have_it(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    text = problem_text(tokenizer, PROBLEM, get_format("xml"))
    assert text == f"<|user|>{XML_PROMPT.strip()}\n\n{QUESTION}<|end|><|assistant|>"


@pytest.mark.parametrize("template", ["{{ raise_exception('never\never') }}", "{% for %}"])
def test_a_broken_template_is_one_clear_line(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=r"model\.path.*chat template") as caught:
        problem_text(tokenizer, PROBLEM, get_format("xml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chat_template", [True, False])
def test_encoded_prompt_decodes_to_its_text_and_is_keyed_by_the_problem(chat_template: bool) -> None:
    tokenizer, problem = tiny_tokenizer(chat_template=chat_template), Problem(QUESTION, "4")
    prompt = encode_prompt(tokenizer, problem, get_format("xml"))
    assert tokenizer.decode(prompt.ids) == problem_text(tokenizer, PROBLEM, get_format("xml"))
    assert prompt.key == int(problem.id, 16) >> 1 and 0 <= prompt.key < 2**63


def _adding_ends(tokenizer: object) -> object:
    """Return the tokenizer made to add <|system|> as BOS and <|end|> as EOS by itself."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single="<|system|> $A <|end|>", special_tokens=[("<|system|>", 2), ("<|end|>", 1)]
    )
    return tokenizer


def test_bos_comes_once_and_eos_never() -> None:
    fmt, problem = get_format("xml"), Problem(QUESTION, "4")
    plain = encode_prompt(_adding_ends(tiny_tokenizer(chat_template=False)), problem, fmt).ids
    assert plain[0] == 2 and plain.count(2) == 1 and plain.count(1) == 0
    templated = encode_prompt(_adding_ends(tiny_tokenizer()), problem, fmt).ids
    assert templated == encode_prompt(tiny_tokenizer(), problem, fmt).ids and templated.count(2) == 1


def test_the_leaky_prompt_is_the_notebooks_and_nothing_else() -> None:
    problem, fmt = Problem("Two and two?", "4", solution="2 + 2 = 4"), get_format("think_leaky")
    expected = "<problem>\nTwo and two?\n</problem>\n\n<think>\n2 + 2 = 4\n</think>\n\n<answer>4</answer>"
    for tokenizer in (tiny_tokenizer(), tiny_tokenizer(chat_template=False)):
        assert problem_text(tokenizer, problem, fmt) == expected
        assert tokenizer.decode(encode_prompt(tokenizer, problem, fmt).ids) == expected
    assert problem_messages(problem, fmt) == [{"role": "user", "content": expected}]


def test_no_other_format_shows_the_solution_or_the_answer() -> None:
    problem = Problem("Two and two?", "4711", solution="2 + 2 = 4711")
    for fmt in FORMATS.values():
        if not fmt.leaky:
            assert "4711" not in problem_text(tiny_tokenizer(), problem, fmt)
            assert problem_messages(problem, fmt) == prompt_messages("Two and two?", fmt)


def test_a_leaky_format_without_a_solution_is_one_clear_line() -> None:
    fmt = get_format("think_leaky")
    with pytest.raises(
        UserError, match=r'format\.name="think_leaky": .* has none; name problems\.columns\.solution'
    ) as caught:
        encode_prompt(tiny_tokenizer(), Problem(QUESTION, "4"), fmt)
    assert "\n" not in str(caught.value)
