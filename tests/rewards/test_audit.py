"""The audit: sound suites pass, and each way in which a loose reward can be fooled is found and named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.answers import grade
from mathgrpo.answers.near_misses import near_misses
from mathgrpo.formats import FORMATS, get_format
from mathgrpo.rewards import RewardSuite, build_suite
from mathgrpo.rewards.audit import OWN_RIGHT, OWN_WRONG, audit
from mathgrpo.rewards.pre_run_check import checked_rewards
from mathgrpo.rewards.probes import IN_FORM, solved
from mathgrpo.types import Problem

PROBLEMS = [
    Problem("Nine eggs at 2 dollars each: how much?", "18", solution="9 * 2 = 18"),
    Problem("What is 5 - 17?", "-12", solution="5 - 17 = -12"),
    Problem("A half and a quarter?", "3/4", solution="1/2 + 1/4 = 3/4"),
    Problem("What is 2.5 + 1?", "3.5", solution="2.5 + 1 = 3.5"),
]
GOLDS = [*(problem.answer for problem in PROBLEMS), "1,200", "0", "7%", "5 cm", "(1,2)", r"\frac{1}{3}", r"\text{(B)}",
         r"\sqrt{51}", "x^2+3x", r"\{1,3\}"]  # fmt: skip


@pytest.mark.parametrize("gold", GOLDS)
def test_no_near_miss_is_the_gold(gold: str) -> None:
    made = near_misses(gold)
    assert made, gold
    assert {kind: text for kind, text in made.items() if grade(text, gold) == "correct"} == {}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_default_rewards_stand(name: str) -> None:
    found = audit(build_suite({"correct": 1.0, "format": 0.1}, get_format(name)), PROBLEMS)
    assert found.sound and not found.unpaid, found.line()
    right = [each.total for each in found.earned if each.probe.kind == IN_FORM]
    wrong = [each.total for each in found.earned if each.probe.right is False]
    assert right == [pytest.approx(1.1)] * 4 and len(wrong) > 80 and max(wrong) < 1.1
    assert found.line().startswith("rewards audited: right answers in the format earn 1.1 at least, ")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("xml", {"correct": 1.0, "format": 0.1, "format_parts": 0.2}),
        ("think", {"correct": 0.4, "verified_steps": 0.6}),
        ("working_out", {"correct": 3.0, "format": 3.0, "near_answer": 1.0, "format_parts": 0.2}),
        ("boxed", {"correct": 2.0, "soft_overlong": 1.0}),
        ("think", {"correct": 1.0, "format": 0.5, "language": 0.5}),
    ],
)
def test_the_suites_that_the_docs_propose_stand(name: str, weights: dict[str, float]) -> None:
    suite = build_suite(weights, get_format(name), max_new_tokens=4000)
    found = audit(suite, PROBLEMS, lambda text: list(range(len(text))))
    assert found.sound and not found.unpaid, found.line()


@pytest.mark.parametrize(
    ("name", "reward"),
    [("think", "step_verified_reference"), ("working_out", "multi_numbers_extraction"), ("xml", "reference_integer")],
)
def test_the_faults_of_the_reference_systems_are_found(name: str, reward: str) -> None:
    assert not audit(build_suite({reward: 1.0}, get_format(name)), PROBLEMS).sound


LOOSE: dict[str, tuple[str, str]] = {
    "gold anywhere": ("[float(a in t) for t, a in zip(texts, answer)]", "wrong, the gold in the reasoning"),
    "one of its digits": ("[float(a[:1] in t) for t, a in zip(texts, answer)]", "wrong: a digit behind"),
    "any digit": ("[float(any(d in t for d in '0123456789')) for t in texts]", "the ten digits"),
    "length": ("[min(len(t), 500) / 100 for t in texts]", "wrong, very long"),
    "marks": ("[float('<answer>' in t) for t in texts]", "wrong: one more"),
    "last number": ("[float((re.findall(r'-?[0-9./]+', t.replace('</', '')) or [''])[-1].strip('/.') == a)"
                    " for t, a in zip(texts, answer)]", "two answers, the gold last"),
    "words": ("[float('first' in t.lower()) + 1e-6 * len(t) for t in texts]", "wrong, with words of reasoning"),
    "never read": ("[0.0 for _ in texts]", "nothing"),
}  # fmt: skip


def own_suite(tmp_path: Path, body: str) -> RewardSuite:
    file = tmp_path / "mine.py"
    file.write_text(
        "import re\ndef mine(completions, answer, **columns):\n"
        f"    texts = [c[0]['content'] for c in completions]\n    return {body}\n"
    )
    return build_suite({f"{file}:mine": 1.0}, get_format("xml"))


@pytest.mark.parametrize("name", LOOSE)
def test_what_fools_a_users_reward_is_found(name: str, tmp_path: Path) -> None:
    body, kind = LOOSE[name]
    found = audit(own_suite(tmp_path, body), PROBLEMS)
    assert not found.sound and kind in {exploit.wrong.probe.kind for exploit in found.exploits}
    assert found.line().startswith("rewards NOT SOUND: ")


def test_a_users_sound_reward_stands(tmp_path: Path) -> None:
    body = "[float(re.findall(r'<answer>\\n(.*)\\n</answer>', t) == [a]) for t, a in zip(texts, answer)]"
    found = audit(own_suite(tmp_path, body), PROBLEMS)
    assert {exploit.wrong.probe.kind for exploit in found.exploits} <= {"the gold, taken back"}


def test_a_gold_that_a_reward_cannot_read_is_named(tmp_path: Path) -> None:
    body = "[float(a.isdigit() and f'\\n{a}\\n' in t) for t, a in zip(texts, answer)]"
    found = audit(own_suite(tmp_path, body), PROBLEMS)
    assert {each.problem.answer for each in found.unpaid} == {"-12", "3/4", "3.5"}


def test_a_countdown_problem_is_solved_to_have_a_right_answer() -> None:
    problem = Problem("Make 98 of 44, 19, 35.", "98", columns={"nums": [44, 19, 35], "target": 98})
    found = audit(build_suite({"countdown": 1.0}, get_format("boxed")), [problem])
    (right,) = [each for each in found.earned if each.probe.kind == IN_FORM]
    assert right.total == 1.0 and "44" in right.probe.text
    assert {exploit.wrong.probe.kind for exploit in found.exploits} <= {"the gold, taken back"}
    assert solved([2, 3], 100) is None and solved([8, 3, 5, 1], 4) is not None and solved("x", 1) is None


def test_where_a_reward_says_what_is_correct_an_unknown_right_answer_is_not_made_up(tmp_path: Path) -> None:
    problem = Problem("Make 98 of five numbers.", "98", columns={"nums": [44, 19, 35, 2, 2], "target": 98})
    found = audit(build_suite({"countdown": 1.0}, get_format("xml")), [problem])
    assert (
        found.sound and found.line() == "rewards not audited: what a right answer to these problems earns is not known"
    )


def test_a_prompt_that_opens_the_thinking_is_gone_on_from() -> None:
    suite = build_suite({"correct": 1.0, "format": 0.1}, get_format("think"))
    found = audit(suite, PROBLEMS, opened="<think>\n")
    right = [each.total for each in found.earned if each.probe.kind == IN_FORM]
    assert found.sound and right == [pytest.approx(1.1)] * 4


def test_the_models_own_completions_are_judged_too() -> None:
    suite, fmt = build_suite({"correct": 1.0, "format": 0.1}, get_format("xml")), get_format("xml")
    own = [(PROBLEMS[0], fmt.write("9 * 2 = 18", "18")), (PROBLEMS[0], fmt.write("9 + 2 = 11", "11"))]
    found = audit(suite, PROBLEMS[:1], own=own)
    assert [[e.total for e in found.by_kind()[kind]] for kind in (OWN_RIGHT, OWN_WRONG)] == [[pytest.approx(1.1)], [0]]


def test_a_run_is_told_in_a_line(tmp_path: Path) -> None:
    assert "NOT SOUND" in checked_rewards(own_suite(tmp_path, LOOSE["length"][0]), PROBLEMS)
    raises = own_suite(tmp_path, "[1.0 if t == '' or a in t else 1 / 0 for t, a in zip(texts, answer)]")
    assert checked_rewards(raises, PROBLEMS).startswith("rewards not audited: ")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `mathgrpo audit` in this process; returns (exit code, output, errors)."""
    from mathgrpo.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mathgrpo", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_the_command_says_what_was_tried_and_ends_by_it(command: Any, tmp_path: Path) -> None:
    code, out, err = command("demo", "--problems", 3, "--samples", 1)
    assert (code, err) == (0, "") and "1 of each problem, drawn now" in out and IN_FORM in out
    lines = tmp_path / "rollouts.jsonl"
    lines.write_text(json.dumps({"answer": "4", "question": "2 + 2?", "completions": ["so 5", "<answer>5</answer>"]}))
    (tmp_path / "style.py").write_text("def style(completions, **columns):\n    return [1.0] * len(completions)\n")
    code, out, err = command("demo", lines, "--set", f'rewards={{"{tmp_path}/style.py:style"=1.0}}', "--json")
    record = json.loads(out)
    assert (code, err, record["sound"]) == (1, "", False)
    assert {kind["kind"]: kind["tried"] for kind in record["kinds"]}[OWN_WRONG] == 2 and record["problems"] == 1
    assert record["exploits"][0]["earns"] == record["exploits"][0]["right_earns"] == 1.0


def test_the_command_refuses_what_makes_no_sense(command: Any, tmp_path: Path) -> None:
    assert command("demo", tmp_path / "none.jsonl")[::2][0] == 2
    assert command("no-such-recipe")[0] == 2
    assert command("demo", "--problems", 0)[0] == 2
