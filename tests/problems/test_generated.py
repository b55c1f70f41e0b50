from collections.abc import Iterator
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import pytest

from mathgrpo.errors import UserError
from mathgrpo.problems import generated
from mathgrpo.problems.generated import MAX_WORDS, UNSEEN_TEMPLATES, generate_problem_sets, is_small_arithmetic
from mathgrpo.problems.sets import ProblemSets
from mathgrpo.problems.worked import worked_steps


@pytest.fixture(scope="module")
def sets(generator: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProblemSets]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATHGRPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield generate_problem_sets(400, 60, seed=17)


def template_number(template: str) -> int:
    return int(template.rsplit("/", 1)[1])


def test_the_three_sets_never_overlap(sets: ProblemSets) -> None:
    ids = [{p.id for p in part} for part in (sets.train, sets.heldout, sets.heldout_templates)]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    assert [len(i) for i in ids[1:]] == [60, 60] and 390 <= len(ids[0]) <= 400


def test_whole_templates_are_held_out(sets: ProblemSets) -> None:
    assert {template_number(p.template) for p in sets.heldout_templates} <= UNSEEN_TEMPLATES
    for part in (sets.train, sets.heldout):
        assert not {template_number(p.template) for p in part} & UNSEEN_TEMPLATES


def test_every_solution_is_true_and_ends_in_the_answer(sets: ProblemSets) -> None:
    for problem in (*sets.train, *sets.heldout, *sets.heldout_templates):
        steps = worked_steps(problem.solution or "", problem.answer)
        assert steps is not None and is_small_arithmetic(steps, 100)
        assert Fraction(problem.answer).denominator == 1 and len(problem.question.split()) <= MAX_WORDS
        assert "Do not include units" not in problem.question


def test_same_arguments_same_problems_other_seed_others(
    sets: ProblemSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path))
    again = generate_problem_sets(100, 60, seed=17)
    assert again.heldout == sets.heldout and again.train == sets.train[: len(again.train)]
    other = generate_problem_sets(100, 60, seed=18)
    assert not {p.id for p in other.heldout} & {p.id for p in sets.heldout}


@pytest.mark.usefixtures("generator")
def test_the_cache_gives_back_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path))
    first = generate_problem_sets(30, 10, seed=3)
    files = sorted(tmp_path.rglob("*.jsonl"))
    assert len(files) == 3
    assert generate_problem_sets(30, 10, seed=3) == first
    files[0].write_text("")  # an emptied cache file is drawn anew
    assert generate_problem_sets(30, 10, seed=3) == first


def test_without_its_generator_there_is_one_line_with_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "version", lambda name: metadata.version("no-such-package"))
    with pytest.raises(UserError, match=r"^problems.source=generated: reasoning-gym.* pip install .* problems.source="):
        generate_problem_sets(3, 2, seed=17)
