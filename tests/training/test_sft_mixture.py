from random import Random

from mathgrpo.answers import grade_completion
from mathgrpo.config.sft_recipe import StageSection
from mathgrpo.formats import get_format
from mathgrpo.supervised.sft_steps import drill, drill_pool, examples, guess_share, guessed, worked
from mathgrpo.types import Problem

XML = get_format("xml")
SHORT = Problem("Tom has 3 pens and buys 4. How many?", "7", "3+4=7")
LONG = Problem("word " * 60 + "5 times 2?", "10", "5*2=10")


def take(stage: StageSection, count: int, seed: int = 0) -> list[str]:
    source = examples([SHORT, LONG], XML, stage, seed)
    return [next(source).completion for _ in range(count)]


def test_worked_and_guessed_examples_are_strict_and_correct() -> None:
    for example, works in ((worked(SHORT, XML), True), (guessed(SHORT, XML), False)):
        graded = grade_completion(example.completion, SHORT.answer, XML)
        assert graded.verdict == "correct" and graded.format_strict and graded.worked is works


def test_guess_share_depends_on_length() -> None:
    stage = StageSection(guesses_short=0.8, guesses_long=0.1, short_words=35)
    assert (guess_share(SHORT, stage), guess_share(LONG, stage)) == (0.8, 0.1)


def test_shares_are_met() -> None:
    completions = take(StageSection(guesses_short=1.0, guesses_long=0.0), 200)
    assert sum("quick guess" in c for c in completions) == 100
    assert all("quick guess" in c for c in completions if "\n7\n" in c)


def test_drills_come_at_their_share_and_are_true() -> None:
    pool = drill_pool([SHORT, LONG])
    assert pool == ("3+4=7", "5*2=10")
    made = drill(pool, Random(1))
    assert made.question.startswith("Calculate ") and made.solution is not None
    assert made.answer == made.solution.splitlines()[-1].split("=")[1]
    source = examples([SHORT, LONG], XML, StageSection(drills=0.5), 0)
    count = sum(next(source).question.startswith("Calculate") for _ in range(2000))
    assert 900 < count < 1100


def test_the_same_seed_gives_the_same_examples() -> None:
    stage = StageSection(drills=0.3, guesses_short=0.5)
    assert take(stage, 50) == take(stage, 50) != take(stage, 50, seed=1)
