"""Prompts by chat templates of every shape: question and instruction once, roles, the answer's turn open; or a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes import CHAT_TEMPLATE, tiny_tokenizer
from formats.template_shapes import CHATML, OPEN, REFUSED, SHAPES
from mathgrpo.answers.prompt_check import require_answerable
from mathgrpo.errors import UserError
from mathgrpo.formats import FORMATS, get_format
from mathgrpo.formats.chat import encode_prompt, put
from mathgrpo.formats.rendering import conversation, rendered
from mathgrpo.types import Problem

QUESTION = "What is 17 + 4?"
PROBLEM = Problem(QUESTION, "21")
TURNS = [{"role": "system", "content": "Answer in <b>one</b> line.\nNo more."}, {"role": "user", "content": QUESTION}]


def tokenizer_with(template: str) -> Any:
    """Return the character tokenizer with a template, and a begin token that it adds to plain text by itself."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|unk|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|unk|> $A", special_tokens=[("<|unk|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_puts_question_and_instruction_once_and_opens_the_answer(name: str) -> None:
    shape = SHAPES[name]
    tokenizer = tokenizer_with(shape.template)
    shown = rendered(tokenizer, TURNS, {})
    assert shown.text.count(QUESTION) == 1 and shown.text.count(TURNS[0]["content"]) == 1
    assert shown.text.endswith(shape.open_end) and shown.opened == shape.opened and shown.lacks == ""
    roles = "".join(turn["role"][0] for turn in shown.turns)
    assert roles == shape.roles or shape.roles == "?"
    assert isinstance(shown.turns[0]["content"], list) == shape.parts
    ids = encode_prompt(tokenizer, PROBLEM, get_format("xml")).ids
    assert ids.count(tokenizer.bos_token_id) == shape.template.count("bos_token"), "one begin token, the template's"


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if not f.leaky], ids=lambda fmt: fmt.name)
def test_every_format_comes_out_of_every_shape_whole(fmt: Any) -> None:
    for shape in SHAPES.values():
        text = put(tokenizer_with(shape.template), PROBLEM, fmt).text
        assert text.count(fmt.system_prompt.strip()) == 1 and text.count(fmt.user_turn(QUESTION)) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_changes_the_words_is_refused_in_one_line(name: str) -> None:
    template, reason = REFUSED[name]
    with pytest.raises(UserError, match=rf"model\.path.*chat template.*({reason})") as refused:
        rendered(tokenizer_with(template), TURNS, {})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("question", ["2", "a", "assistant", "user", " 7 \n"])
def test_a_question_that_stands_elsewhere_too_is_looked_for_with_a_mark(question: str) -> None:
    dropping = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}<|user|>2<|assistant|>"
    )
    with pytest.raises(UserError, match=r"leaves the user turn out|word for word"):
        rendered(tokenizer_with(dropping), [{"role": "user", "content": question}], {})
    thinking = rendered(
        tokenizer_with(SHAPES["qwq, qwen3 thinking"].template), [{"role": "user", "content": question}], {}
    )
    assert thinking.opened == "<think>\n"


def test_a_prompt_that_ends_before_the_assistants_turn_is_refused_with_the_line_to_add() -> None:
    tokenizer = tokenizer_with(CHATML)
    with pytest.raises(UserError, match="does not heed add_generation_prompt") as refused:
        require_answerable(tokenizer, get_format("xml"))
    line = str(refused.value).partition("folder end in ")[2]
    tokenizer.chat_template += line
    require_answerable(tokenizer, get_format("xml"))
    assert put(tokenizer, PROBLEM, get_format("xml")).text.endswith(OPEN)


def test_an_old_thinking_may_be_cut_and_an_old_answer_may_not() -> None:
    turns = [*TURNS, {"role": "assistant", "content": "<think>hm</think>21"}, {"role": "user", "content": "Sure?"}]
    assert "hm" not in rendered(tokenizer_with(SHAPES["r1 distill"].template), turns, {}).text
    without = (
        "{% for m in messages %}{% if m.role != 'assistant' %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(UserError, match="leaves the assistant turn out"):
        rendered(tokenizer_with(without), turns, {})


def test_words_that_a_template_obeys_may_go() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content.replace('/no_think', '') }}{% endfor %}<|assistant|>"
    )
    shown = rendered(tokenizer_with(template), [{"role": "user", "content": "What is 2 + 2? /no_think"}], {})
    assert shown.text == "<|user|>What is 2 + 2? <|assistant|>"


@pytest.mark.parametrize(
    ("template", "begun", "text", "opened"),
    [
        (CHAT_TEMPLATE, "Let me", "<|assistant|>Let me", "Let me"),
        (CHAT_TEMPLATE, "<think>\n17", "<|assistant|><think>\n17", "<think>\n17"),
        (SHAPES["r1 distill"].template, "17 + 4", "<|Assistant|>17 + 4", "17 + 4"),
        (SHAPES["r1 distill"].template, "<think>\n17", "<|Assistant|><think>\n17", "<think>\n17"),
        (SHAPES["qwq, qwen3 thinking"].template, "<think>ok</think>\n<answer>", "<think>\nok</think>\n<answer>", None),
        (SHAPES["smolvlm, parts alone"].template, "So", "Assistant: So", "So"),
        (SHAPES["gemma 2, system refused"].template, "So", "model\nSo", "So"),
    ],
)
def test_an_answer_that_is_begun_is_continued(template: str, begun: str, text: str, opened: str | None) -> None:
    shown = rendered(tokenizer_with(template), [*TURNS, {"role": "assistant", "content": begun}], {})
    assert shown.text.endswith(text) and shown.text.count(QUESTION) == 1
    assert shown.opened == opened or (opened is None and begun.endswith(shown.opened[-8:]))


def test_the_plain_layout_continues_an_answer_too() -> None:
    tokenizer = tiny_tokenizer(chat_template=False)
    shown = conversation(tokenizer, [*TURNS, {"role": "assistant", "content": "It is"}], {})
    assert shown.text == f"{TURNS[0]['content']}\n\n{QUESTION}\n\nIt is" and shown.opened == "It is"


def published() -> list[Path]:
    """Return the chat templates of published models that TRL comes with."""
    trl = pytest.importorskip("trl")
    return sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))


def test_the_templates_of_published_models_serve_the_formats() -> None:
    files = published()
    assert len(files) > 40
    thinking = set()
    for file in files:
        tokenizer = tokenizer_with(file.read_text(encoding="utf-8"))
        for fmt in (get_format("xml"), get_format("think")):
            require_answerable(tokenizer, fmt)
            shown = put(tokenizer, PROBLEM, fmt)
            assert shown.text.count(fmt.system_prompt.strip()) == 1 == shown.text.count(fmt.user_turn(QUESTION))
        thinking |= {file.stem} if shown.opened else set()
    assert {"deepseek_r1_distill", "nemotron_3_nano", "qwen3_5_think"} <= thinking
    assert not {"qwen3", "qwen2_5", "llama3", "qwen3_5_nothink", "gemma3", "smolvlm"} & thinking
