"""GSM8K's answer column, by hand and on the official files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.problems.origin import load_heldout, load_problem_sets
from mathgrpo.problems.worked import clean_solution, split_answer


def test_gold_keeps_its_comma_and_the_solution_loses_annotations() -> None:
    text = "Weng earns 12/60 = $<<12/60=0.2>>0.2 a minute. \nSo 0.2 x 6000 = $<<0.2*6000=1200>>1200.\n#### 1,200"
    assert split_answer(text) == ("1,200", "Weng earns 12/60 = $0.2 a minute.\nSo 0.2 x 6000 = $1200.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n#### -10", ("-10", "a")),
        ("####18", ("18", None)),
        ("a #### 7\nb #### 18", ("18", "a #### 7\nb")),
        ("18", None),
        ("a ####", None),
        ("#### Step 1\nadd\nthe sum is 4", None),
        ("", None),
    ],
)
def test_what_is_gsm8k_shaped(text: str, expected: tuple[str, str | None] | None) -> None:
    assert split_answer(text) == expected


def test_annotations_are_removed_and_comparisons_stay() -> None:
    assert clean_solution("if 3 < 4 and 5 > 2: 1+1=<<1+1=2>>2 << 8") == "if 3 < 4 and 5 > 2: 1+1=2 << 8"
    assert clean_solution("<<" * 200_000) == "<<" * 200_000


@pytest.mark.shared
def test_all_official_golds_are_numbers_and_no_question_is_on_both_sides(gsm8k_folder: Path) -> None:
    sets = load_problem_sets(ProblemsSection(source=str(gsm8k_folder), train_size=10_000, heldout_size=10_000))
    assert (len(sets.train), len(sets.heldout), sets.notes) == (7473, 1319, ())
    golds = [problem.answer for problem in (*sets.train, *sets.heldout)]
    values = [Fraction(gold.replace(",", "")) for gold in golds]
    assert all(value.denominator == 1 or "." in gold for value, gold in zip(values, golds, strict=True))
    assert (sum("," in gold for gold in golds), sum(value < 0 for value in values)) == (93, 5)
    assert all(p.solution and "<<" not in p.solution and "####" not in p.solution for p in (*sets.train, *sets.heldout))


@pytest.mark.shared
def test_the_test_file_alone_is_evaluated_whole_or_a_part_of_it(gsm8k_folder: Path) -> None:
    section = ProblemsSection(source=str(gsm8k_folder / "test.jsonl"), heldout_size=1319)
    assert (len(load_heldout(section).heldout), load_heldout(section).train) == (1319, ())
    part = load_heldout(section.model_copy(update={"heldout_size": 100}))
    assert len(part.heldout) == 100 and part.notes == ("held-out: 100 of 1319 problems, chosen by question hash",)
