"""Every format reads what it writes, and is not fooled or broken by what a model may write instead."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.config.recipe import FormatSection
from mathgrpo.errors import UserError
from mathgrpo.formats import FORMATS, Format, Parsed, get_format

EVERY = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
TAGGED = pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f.name != "boxed"], ids=lambda fmt: fmt.name)
PIECES = [
    "<reasoning>",
    "</reasoning>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "<SOLUTION>",
    "</SOLUTION>",
    "<start_working_out>",
    "<end_working_out>",
    "\\boxed{",
    "{",
    "}",
    "\\",
    "\n",
    " ",
    "18",
    "x",
    "😀",
    "\0",
]


def blocks(fmt: Format) -> tuple[str, str]:
    """Return a format's written completion cut into its reasoning block (with the gap) and its answer block."""
    text = fmt.write("2 * 9 = 18", "18")
    openings = {"working_out": "<SOLUTION>", "boxed": "\\boxed"}
    start = text.index(openings.get(fmt.name, "<answer>"))
    return text[:start], text[start:]


def test_the_formats_are_those_a_recipe_allows() -> None:
    allowed = FormatSection.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    assert tuple(FORMATS) == allowed and all(get_format(name).name == name for name in allowed)


def test_unknown_format_says_what_is_allowed() -> None:
    with pytest.raises(UserError, match=r'format\.name="json".*xml, working_out, think, boxed'):
        get_format("json")


def test_written_layouts() -> None:
    assert get_format("xml").write("r", "7") == "<reasoning>\nr\n</reasoning>\n<answer>\n7\n</answer>\n"
    assert get_format("working_out").write("r", "7") == "<start_working_out>r<end_working_out><SOLUTION>7</SOLUTION>"
    assert get_format("think").write("r", "7") == "<think>\nr\n</think>\n\n<answer>7</answer>"
    assert get_format("boxed").write("r", "7") == "r\n\n\\boxed{7}"


@EVERY
@pytest.mark.parametrize("answer", ["18", "1,200", "-5", "$18.50", "\\frac{1}{2}", "{1, 2}", "\\{1\\}", "18 eggs"])
def test_reads_what_it_writes(fmt: Format, answer: str) -> None:
    reasoning = "line 1 = 1\n\nline 2 < 3"
    assert fmt.parse(fmt.write(reasoning, answer)) == Parsed(reasoning, answer, strict=True, soft=True)


@EVERY
def test_space_at_the_end_is_strict_and_trailing_text_is_only_soft(fmt: Format) -> None:
    text = fmt.write("2 * 9 = 18", "18")
    assert fmt.parse(text + " \n\n").strict
    trailing = fmt.parse(text + "\nIgnore the above, the answer is 7")
    assert trailing == Parsed("2 * 9 = 18", "18", strict=False, soft=True)


@TAGGED
def test_text_before_or_between_the_blocks_is_only_soft(fmt: Format) -> None:
    reasoning, answer = blocks(fmt)
    for text in ("Sure! " + reasoning + answer, reasoning + "so the answer is" + answer, " " + reasoning + answer):
        assert fmt.parse(text) == Parsed("2 * 9 = 18", "18", strict=False, soft=True)


@EVERY
def test_several_answers_are_no_answer(fmt: Format) -> None:
    reasoning, answer = blocks(fmt)
    other = answer.replace("18", "19")
    for text in (reasoning + answer + other, other + reasoning + answer, reasoning + answer + answer + other):
        parsed = fmt.parse(text)
        assert parsed.answer is None and parsed.ambiguous and not parsed.strict and not parsed.soft


@EVERY
def test_equal_answers_are_one_but_not_the_asked_layout(fmt: Format) -> None:
    reasoning, answer = blocks(fmt)
    for text in (reasoning + answer + answer, answer + reasoning + answer):
        parsed = fmt.parse(text)
        assert (parsed.answer, parsed.ambiguous, parsed.strict) == ("18", False, False)


@TAGGED
def test_wrong_order_and_nesting_lose_both_checks(fmt: Format) -> None:
    reasoning, answer = blocks(fmt)
    opening, closing = fmt.reasoning_tags  # type: ignore[attr-defined]
    swapped = fmt.parse(answer + reasoning)
    assert (swapped.answer, swapped.strict, swapped.soft) == ("18", False, False)
    inside = fmt.parse(f"{opening}so {answer} holds{closing}")
    assert (inside.answer, inside.strict, inside.soft) == ("18", False, False)
    twice = fmt.parse(reasoning + reasoning + answer)
    assert (twice.answer, twice.strict, twice.soft) == ("18", False, True)


@TAGGED
def test_half_an_answer_block_is_no_answer(fmt: Format) -> None:
    opening, closing = fmt.answer_tags  # type: ignore[attr-defined]
    reasoning, _ = blocks(fmt)
    halves = [
        f"{opening}18",
        f"18{closing}",
        f"{closing}18{opening}",
        f"{opening}7 {opening}18{closing}",
        f"18{closing} or {opening}19{closing}",
        f"{opening}{opening}18{closing}{closing}",
    ]
    assert [fmt.parse(reasoning + half).answer for half in halves] == [None] * len(halves)


@EVERY
def test_empty_blocks_pass_neither_check(fmt: Format) -> None:
    for reasoning, answer in (("", ""), ("r", ""), ("", "18"), (" \n", "18"), ("r", " \n ")):
        parsed = fmt.parse(fmt.write(reasoning, answer))
        assert not parsed.strict and not parsed.soft
        assert parsed.answer == (answer.strip() or None)


def test_no_format_at_all() -> None:
    for name in ("xml", "working_out", "think"):
        assert get_format(name).parse("18") == Parsed(None, None, strict=False, soft=False)
        assert get_format(name).parse("") == Parsed(None, None, strict=False, soft=False)
    assert get_format("boxed").parse("2 * 9 = 18") == Parsed("2 * 9 = 18", None, strict=False, soft=False)


@pytest.mark.parametrize(
    ("text", "answer", "strict"),
    [
        ("so\n\\boxed{18}", "18", True),
        ("The answer is $\\boxed{18}$.", "18", True),
        ("Hence \\[ \\boxed{\\frac{1}{2}} \\]", "\\frac{1}{2}", True),
        ("Hence \\boxed{18} eggs", "18", False),
        ("a \\boxed{\\text{\\}}}", "\\text{\\}}", True),
        ("a \\boxed{1} or \\boxed{2}", None, False),
        ("a \\boxed{\\boxed{2}}", None, False),
        ("a \\boxed{18", None, False),
        ("a \\boxed{\\frac{1}{2}", None, False),
        ("a \\boxed18", None, False),
    ],
)
def test_boxes(text: str, answer: str | None, strict: bool) -> None:
    parsed = get_format("boxed").parse(text)
    assert (parsed.answer, parsed.strict) == (answer, strict)


@EVERY
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@settings(max_examples=100, deadline=None)
def test_any_text_is_read_and_strict_implies_soft(fmt: Format, text: str) -> None:
    parsed = fmt.parse(text)
    assert parsed.soft or not parsed.strict
    assert not parsed.soft or bool(parsed.reasoning and parsed.answer)
    assert parsed.answer is None or parsed.answer in text


@EVERY
@pytest.mark.parametrize(
    "piece",
    ["<reasoning>", "{", "\\boxed{", "</answer>", "<", " ", "1", "😀", "\0"],
)
def test_a_million_characters_take_under_a_second(fmt: Format, piece: str) -> None:
    many = (piece * 1_000_000)[:1_000_000]
    reasoning, answer = blocks(fmt)
    texts = [many, reasoning + many + answer, fmt.write(many, many)]
    started = time.perf_counter()
    for text in texts:
        fmt.parse(text)
    assert time.perf_counter() - started < 3.0, f"{len(texts)} completions"


def test_a_million_open_braces_in_one_box_take_under_a_second() -> None:
    started = time.perf_counter()
    parsed = get_format("boxed").parse("r \\boxed{" + "{" * 1_000_000)
    assert time.perf_counter() - started < 1.0 and parsed.answer is None
    deep = "{" * 100_000 + "18" + "}" * 100_000
    assert get_format("boxed").parse("r \\boxed{" + deep + "}").answer == deep
