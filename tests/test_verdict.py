"""A verdict is its outcome, and knows how it came to it: through files, processes and copies."""

import copy
import json
import pickle
from collections import Counter

from mathgrpo.answers import grade
from mathgrpo.types import Verdict

WRONG = Verdict("wrong", read="1261", rule="number", why="another number than the gold")


def test_a_verdict_is_its_outcome() -> None:
    assert WRONG == "wrong" and {"wrong": 1}[WRONG] == 1 and Counter([WRONG, "wrong"]) == {"wrong": 2}
    assert json.dumps({"verdict": WRONG}) == '{"verdict": "wrong"}' and f"{WRONG}" == "wrong"
    assert type(WRONG.outcome) is str


def test_a_verdict_travels_whole() -> None:
    for other in (pickle.loads(pickle.dumps(WRONG)), copy.deepcopy([WRONG])[0], copy.copy(WRONG)):  # noqa: S301
        assert (other, other.read, other.rule, other.why) == (WRONG, "1261", "number", "another number than the gold")


def test_grade_says_what_was_read_by_which_rule_and_why() -> None:
    for answer, gold, outcome, rule in (
        ("1260", "1260", "correct", "number"),
        ("1261", "1260", "wrong", "number"),
        ("no idea", "1260", "refused", "number"),
        ("\\sqrt{2", "\\sqrt{2}", "refused", "latex"),
    ):
        verdict = grade(answer, gold)
        assert (verdict, verdict.read, verdict.rule) == (outcome, answer, rule) and verdict.why
    assert grade("", "1260").why and not grade("", "1260").read
