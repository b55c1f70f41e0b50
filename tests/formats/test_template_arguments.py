"""Arguments of chat templates: those that a template reads reach it, others are one line."""

from __future__ import annotations

import pytest

from fakes import CHAT_TEMPLATE, tiny_tokenizer
from formats.template_shapes import SHAPES
from mathgrpo.answers.prompt_check import date_note, require_answerable
from mathgrpo.config.recipe import FormatSection
from mathgrpo.errors import UserError
from mathgrpo.formats import format_of
from mathgrpo.formats.chat import encode_prompt, problem_text
from mathgrpo.formats.template_arguments import readable_arguments
from mathgrpo.types import Problem

PROBLEM = Problem("What is 2 + 2?", "4")
THINKS = SHAPES["nemotron 3, thinking unless told"].template
LOOPS = (
    "{% for m in messages %}{% if m.content is string %}{% set content = m.content %}{% endif %}<|{{ m.role }}|>"
    "{{ content }}"
    "{% endfor %}<|assistant|>{{ enable_thinking }}"
)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{% if enable_thinking is defined and not enable_thinking %}a{% endif %}", ("enable_thinking",)),
        ("{% set a = a if a is defined else 1 %}{{ a }}", ("a",)),
        ("{% set a = a | default(true) %}{{ a }}", ("a",)),
        ("{% if not a is defined %}{% set a = 1 %}{% endif %}{{ a }}", ("a",)),
        ("{% set b = 1 %}{{ b }}{% for m in messages %}{{ m }}{{ loop.index }}{% endfor %}", ()),
        ("{% macro f(x) %}{{ x }}{{ y }}{% endmacro %}{{ f(1) }}", ("y",)),
        ("{% set n = namespace(i=0) %}{% set n.i = n.i + k %}{{ n.i }}{{ range(2) }}{{ dict(a=1) }}", ("k",)),
        ("{% generation %}{{ z }}{% endgeneration %}{% for m in messages %}{% break %}{% endfor %}", ("z",)),
        ("{{ tools }}{{ documents }}{{ bos_token }}{{ strftime_now('%d') }}", ("documents", "tools")),
        ("{% for %}", ()),
    ],
)
def test_the_names_a_template_reads(template: str, names: tuple[str, ...]) -> None:
    assert readable_arguments(template) == names


def test_arguments_decide_the_prompt_and_what_it_opens() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKS
    ends = {}
    for value in (True, False):
        fmt = format_of(FormatSection(name="think", chat_template_kwargs={"enable_thinking": value}))
        require_answerable(tokenizer, fmt)
        prompt = encode_prompt(tokenizer, PROBLEM, fmt)
        assert tokenizer.decode(prompt.ids) == problem_text(tokenizer, PROBLEM, fmt)
        ends[value] = (tokenizer.decode(prompt.ids)[-8:], prompt.opened)
    assert ends == {True: ("<think>\n", "<think>\n"), False: ("</think>", "")}


@pytest.mark.parametrize(
    ("template", "name", "line"),
    [
        (THINKS, "enable_thinkin", r'did you mean "enable_thinking"\?; it reads enable_thinking$'),
        (CHAT_TEMPLATE, "enable_thinking", "does not read it; it reads none; leave it out$"),
        (None, "enable_thinking", "the model has no chat template"),
        (LOOPS, "thoughts", "does not read it; it reads enable_thinking$"),
        (THINKS, "add_generation_prompt", "does not read it; it reads enable_thinking$"),
    ],
)
def test_an_argument_that_changes_nothing_is_one_line(template: str | None, name: str, line: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    fmt = format_of(FormatSection(chat_template_kwargs={name: False}))
    with pytest.raises(UserError, match=rf"^format\.chat_template_kwargs.*{line}"):
        require_answerable(tokenizer, fmt)


def test_a_template_that_writes_todays_date_is_noted_unless_it_is_pinned() -> None:
    tokenizer = tiny_tokenizer()
    assert date_note(tokenizer, format_of(FormatSection())) == ""
    tokenizer.chat_template = SHAPES["llama 3.2, today's date"].template.replace("{{ bos_token }}", "")
    assert "it reads date_string" in date_note(tokenizer, format_of(FormatSection()))
    assert date_note(tokenizer, format_of(FormatSection(chat_template_kwargs={"date_string": "26 Jul 2024"}))) == ""


def test_a_format_that_no_completion_can_have_is_told_before_anything_is_drawn() -> None:
    """Such as one whose tags are not in the tokenizer's vocabulary: what is decoded has not what was written."""
    tokenizer = tiny_tokenizer()
    state = tokenizer.backend_tokenizer.to_str().replace('"/":', '"\\u0000":')
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(state)
    with pytest.raises(UserError, match=r'format\.name="think": no completion of this model .*has no </think>'):
        require_answerable(tokenizer, format_of(FormatSection(name="think")))
