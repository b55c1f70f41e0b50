from __future__ import annotations

import time
from pathlib import Path

import pytest

from mathgrpo.answers import gold_problem, grade
from mathgrpo.answers.latex import arithmetic_line_verdict, grader, refusal


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("2\\sqrt{3}", "\\sqrt{12}", "correct"),
        ("\\sqrt{11}", "\\sqrt{12}", "wrong"),
        ("x^2+2x+1", "(x+1)^2", "correct"),
        ("\\pi/2", "\\frac{\\pi}{2}", "correct"),
        ("(1, 2)", "(1,2)", "correct"),
        ("(2,1)", "(1,2)", "wrong"),
        ("1.7320508", "\\sqrt{3}", "wrong"),
        ("\\frac{1}{2^{98}}", "\\frac{1}{2^{99}}", "wrong"),
        ("10_3", "10_2", "wrong"),
        ("10_2", "10_2", "correct"),
        ("\\sqrt{2}\\text{ m}", "\\sqrt{2}\\text{ cm}", "wrong"),
        ("$\\boxed{\\sqrt{2}}$", "\\sqrt{2}", "correct"),
        ("", "\\sqrt{2}", "no_answer"),
        ("\\frac{", "\\sqrt{2}", "refused"),
        ("\\infty", "\\infty", "correct"),
        ("-\\infty", "\\infty", "wrong"),
        ("5", "\\infty", "wrong"),
        ("\\infty", "\\sqrt{2}", "wrong"),
        ("1/0", "\\infty", "wrong"),
    ],
)
def test_latex_verdicts(answer: str, gold: str, verdict: str) -> None:
    assert grade(answer, gold) == verdict


def test_latex_golds_are_told_from_broken_ones() -> None:
    assert [gold_problem(gold) for gold in ("\\sqrt{2}", "\\text{Monday}", "x+1", "1, -2")] == [None] * 4
    for broken in ("1/0", "0/0", "\\frac{0}{0}", "%", "5-"):
        assert "cannot be compared" in str(gold_problem(broken))
    assert gold_problem("5\n6") == gold_problem("5 6") == "is several numbers"
    assert gold_problem("\\infty") is None
    assert "exponent" in str(gold_problem("x^{1000000}"))


HOSTILE = (
    "9^{9^9}", "9^{(9^9)}", "9**9**9", "10^{1000000000}", "10^{\\left(10^{10}\\right)}", "10^{\\text{10}^{\\text{10}}}",
    "{10}^{{{10}^{10}}}", "10 ^ { 10 ^ { 10 } }", "10{}^{10{}^{10}}", "10^{1,000,000,000}", "10^{1e9}", "1e999999999",
    "10¹⁰⁰⁰⁰⁰⁰", "|10|^{10^{10}}", "\\lfloor 10^{9}+1\\rfloor^{1000000}", "10^{\\strange{10^{10}}}", "10^(10^10)",
    "10^{-10^{10}}", "\\frac{1}{10^{10^{10}}}", "10^{10^{10}/2}", "2^{\\sqrt{10^{20}}}", "2^{10^9 x}", "e^{10^9}",
    "\\exp(\\exp(100))", "(((2^{1000})^{1000})^{1000})", "x^2^2^2^2^2^2^2^2^2", "(1+x)^{1000000}", "(x+y+z)^{200}",
    "(2+\\sqrt{3})^{1000000}", "(a+b+c+d+e+f)^{20}", "\\begin{pmatrix}1&x\\\\y&1\\end{pmatrix}^{50}", "(10^7)!",
    "10000000!", "10^7!", "10!!", "(10000000)_{5000000}", "\\Gamma(10^7)", "\\\\Gamma(10^7)",
    "\\operatorname{Gamma}(10^7)", "\\binom{1000}{500}", "{10^{6} \\choose 500000}", "\\sqrt[10^9]{2}",
    "\\sum_{k=1}^{10^9} k", "\\prod_{k=1}^{9} k", "\\int_0^1 x dx", "(" * 300, "1 " * 50_000, "9" * 5000,
    "\\frac{1}{" * 20 + "1" + "}" * 20, "\\sqrt" * 30 + "2", '__import__("os").getpid()', "().__class__", "🎉",
    "\\input{x}", "2^{\\frac{123456789}{1000000000}}",
)  # fmt: skip


def test_hostile_answers_are_refused_by_size_before_any_process() -> None:
    asked, start = grader.asked, time.perf_counter()
    for text in HOSTILE:
        assert refusal(text) is not None, text
        assert grade(text, "\\sqrt{2}") == "refused"
    assert grade(HOSTILE[0], "\\sqrt{2}").why == "not tried: an exponent that makes a number of more than 6000 digits"
    assert "exponent" in str(gold_problem(HOSTILE[0]))
    assert all(arithmetic_line_verdict(line) == "refused" for line in ("so 9**9**9 = 9^9^9 is it", "1 = " + "1" * 1000))
    assert grader.asked == asked and time.perf_counter() - start < 1.0


@pytest.mark.parametrize("piece", ["|", "!", "_", "^", "1 ", "a+", "(a)", "{", "\\frac", "\\over ", "\\begin{a}", "}"])
def test_the_look_at_the_size_is_linear(piece: str) -> None:
    start = time.perf_counter()
    refusal(piece * (500 // len(piece)))
    assert time.perf_counter() - start < 0.1


def test_ordinary_final_answers_are_not_refused() -> None:
    for text in (
        "\\frac{-b \\pm \\sqrt{b^2-4ac}}{2a}", "(-\\infty, 3]", "e^{x^2}", "2^{100}", "2^{2004}-1", "5!",
        "\\frac12", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{10}",
        "x^{\\frac{2003}{2004}}", "(x+1)^{100}", "(x+1)(x+2)(x+3)(x+4)(x+5)(x+6)(x+7)(x+8)", "\\binom{10}{5}",
        "\\frac{n!}{k!(n-k)!}", "1,234,567", "\\{x | x>0\\}", "x^{y^{z}}", "i^{2023}", "(-1)^{10^{10}}",
        "\\frac{3+\\sqrt{5}}{2},\\frac{3-\\sqrt{5}}{2}", "(\\sqrt{2}+\\sqrt{3})^{20}",
        "1 + \\cfrac{1}{1 + \\cfrac{1}{1+\\cfrac{1}{2}}}", "6.02\\times 10^{23}", "1.6e-19",
        "\\frac{1-a^{2010}}{1-a}", "f'(x)", "2^{2^{3}}",
        "\\left\\{\\frac{\\pi}{6}+2k\\pi \\mid k\\in\\mathbb{Z}\\right\\}",
    ):  # fmt: skip
        assert refusal(text) is None, text


def test_code_is_never_executed(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    payloads = [
        f'__import__("pathlib").Path("{proof}").touch()',
        f"open('{proof}', 'w')",
        f"\\text{{open('{proof}','w')}}",
    ]
    for payload in payloads:
        grade(payload, "\\sqrt{2}")
        grader.ask(gold="\\sqrt{2}", answer=payload)  # past the refusal, straight to the parser
    assert not proof.exists()


SAME_READINGS = r"""
import math_verify.parser
from sympy import srepr
from mathgrpo.answers.expressions_equal import read
from mathgrpo.answers.two_stage_grammar import read_in_two_stages

atoms = r"x;2;\pi;\sqrt{3};\frac{1}{2};(a+b);|x|;[0,1);f(x);1,234;x_1".split(";")
texts = [a + between + b for a in atoms for b in atoms[2:5] for between in ("+", "^", ",")]

def readings():
    math_verify.parser.parse_latex_cached.cache_clear()
    return [None if (found := read(text)) is None or isinstance(found, str) else srepr(found) for text in texts]

full = readings()
assert read_in_two_stages() and readings() == full
assert sum(found is not None for found in full) > 60
"""


def test_reading_in_two_stages_reads_the_same() -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", SAME_READINGS], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_sympy_is_never_loaded_in_this_process() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from mathgrpo.answers import grade; assert grade('2', '\\\\sqrt{4}') == 'correct';"
        "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
