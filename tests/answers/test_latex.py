import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mathgrpo.answers import gold_problem, grade
from mathgrpo.answers.latex import LatexChild, refusal


@pytest.fixture(scope="module")
def child() -> Iterator[LatexChild]:
    process = LatexChild(memory_mib=700)
    yield process
    process.close()


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
    for broken in ("\\frac{", "1/0", "0/0", "\\frac{0}{0}", "%", "5-"):
        assert "cannot be compared" in str(gold_problem(broken))
    assert gold_problem("5\n6") == gold_problem("5 6") == "is several numbers"
    assert gold_problem("\\infty") is None
    assert "exponent" in str(gold_problem("x^{1000000}"))


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^9}",
        "9**9**9",
        "10^{1000000000}",
        "(1+x)^{1000000}",
        "(2+\\sqrt{3})^{1000000}",
        "10000000!",
        "\\sum_{k=1}^{10^9} k",
        "\\binom{1000}{500}",
        "(" * 3000,
        "1 " * 50_000,
        "\\frac{1}{" * 20 + "1" + "}" * 20,
        "9" * 5000,
        "x^2^2^2^2^2^2^2^2^2",
        '__import__("os").getpid()',
        "().__class__",
        "🎉",
    ],
)
def test_hostile_answers_are_refused_by_size_before_any_process(text: str) -> None:
    start = time.perf_counter()
    assert refusal(text) is not None
    assert grade(text, "\\sqrt{2}") == "refused"
    assert time.perf_counter() - start < 2.0


def test_ordinary_final_answers_are_not_refused() -> None:
    for text in (
        "\\frac{-b \\pm \\sqrt{b^2-4ac}}{2a}",
        "(-\\infty, 3]",
        "e^{x^2}",
        "2^{100}",
        "5!",
        "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    ):
        assert refusal(text) is None, text


def test_a_computation_without_end_is_killed_and_the_next_question_is_answered(child: LatexChild) -> None:
    assert child.ask("\\sqrt{12}", "2\\sqrt{3}") == "correct"
    starts = child.starts
    start = time.perf_counter()
    assert child.ask("\\sqrt{2}", "9^{9^{9^9}}", wall_s=0.4) == "timeout"
    assert time.perf_counter() - start < 10.0
    assert child.ask("\\sqrt{12}", "2\\sqrt{3}") == "correct"
    assert child.starts == starts + 1


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads the limits of a process from /proc")
def test_memory_is_capped(child: LatexChild) -> None:
    assert child.ask("\\sqrt{12}", "2\\sqrt{3}") == "correct"
    assert child._process is not None
    limits = Path(f"/proc/{child._process.pid}/limits").read_text().splitlines()
    assert next(line.split()[3:5] for line in limits if line.startswith("Max address space")) == [str(700 << 20)] * 2


def test_code_is_never_executed(child: LatexChild, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    payloads = [
        f'__import__("pathlib").Path("{proof}").touch()',
        f"open('{proof}', 'w')",
        f"\\text{{open('{proof}','w')}}",
    ]
    for payload in payloads:
        grade(payload, "\\sqrt{2}")
        child.ask("\\sqrt{2}", payload)  # past the refusal, straight to the parser
    assert not proof.exists()


def test_grading_works_off_the_main_thread_and_leaves_the_main_thread_running(child: LatexChild) -> None:
    verdicts: list[str] = []
    thread = threading.Thread(target=lambda: verdicts.append(child.ask("\\sqrt{2}", "9^{9^{9^9}}", wall_s=0.4)))
    thread.start()
    ticks = 0
    while thread.is_alive():
        ticks += 1
        time.sleep(0.01)
    assert verdicts == ["timeout"] and ticks > 10


def test_the_callers_alarm_still_rings(child: LatexChild) -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        child.ask("\\sqrt{12}", "2\\sqrt{3}")
        time.sleep(0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]


def test_a_child_that_died_is_replaced(child: LatexChild) -> None:
    child.ask("\\sqrt{12}", "2\\sqrt{3}")
    assert child._process is not None
    child._process.kill()
    child._process.wait()
    assert child.ask("\\sqrt{12}", "2\\sqrt{3}") == "correct"


def test_sympy_is_never_loaded_in_this_process() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from mathgrpo.answers import grade; assert grade('2', '\\\\sqrt{4}') == 'correct';"
        "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
