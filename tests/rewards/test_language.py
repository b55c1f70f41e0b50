"""One script, and text that reads like text."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.rewards import REWARDS
from mathgrpo.rewards.catalogue.language import LanguageSettings


def language(text: str, *scripts: str) -> float:
    own = LanguageSettings(scripts=scripts or ("latin",))
    return REWARDS["language"](prompts=["?"], completions=[text], settings=own)[0]


def fluency(text: str) -> float:
    return REWARDS["fluency"](prompts=["?"], completions=[text])[0]


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("She sold 48 / 2 = 24 clips.", 0.0),
        ("Déjà vu à Zürich", 0.0),
        ("2 + 2 = 4", 0.0),
        ("", 0.0),
        ("the set \u211d has more than \u2135 numbers", 0.0),
        ("\u200b\u202e\u200f", 0.0),
        ("the angle \u03b1 and \u03c0 r\u00b2, 5 \u00b5m, \U0001d465 + 1", 0.0),
        ("ab \u4f60\u597d", -0.5),
        ("\u0434\u0430", -1.0),
        # Greek words are a language, single letters are mathematics
        ("ab \u03b1\u03b2", -0.5),
        # letters that only look Latin
        ("a\u0430", -0.5),
        ("\uff41\uff42", -1.0),
    ],
)
def test_letters_of_other_scripts_cost_their_share(text: str, penalty: float) -> None:
    assert language(text) == penalty


def test_other_scripts_can_be_the_language() -> None:
    assert language("\u4f60\u597d", "cjk") == 0.0 and language("ok \u4f60\u597d", "cjk") == -0.5
    # a long vowel and a repeated ideograph are letters of the scripts that they stand in; narrow forms too
    assert language("\u30b3\u30fc\u30d2\u30fc \u4eba\u3005 \uff71", "katakana", "cjk") == 0.0
    assert language("\uff71\u3005", "latin") == -1.0
    assert language("abc", "cyrillic") == -1.0 and language("ab \u03b1\u03b2", "latin", "greek") == 0.0


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("She sold 48 / 2 = 24 clips.\nShe sold 24 + 48 = 72 in all.", 0.0),
        ("", 0.0),
        ("so it is\n" * 4, -0.75),
        # single words and blank lines may repeat
        ("<think>\n<think>\n\n\n", 0.0),
        ("x" * 20, -1.0),
        ("-" * 8, 0.0),
        ("aaaaaaaaab", -0.9),
        ("ab\ufffd\ufffd", -0.5),
        ("a\x00", -0.5),
        ("a\ue000", -0.5),
    ],
)
def test_fluency_is_the_worst_of_its_shares(text: str, penalty: float) -> None:
    assert fluency(text) == pytest.approx(penalty)


@settings(deadline=None)
@given(st.text())
def test_any_text_stays_in_range(text: str) -> None:
    assert -1 <= language(text) <= 0 and -1 <= fluency(text) <= 0


def test_long_texts_take_linear_time() -> None:
    start = time.perf_counter()
    for piece in ("a", "\u4f60", "\u03b1", "\n", "a b\n", "\x00", "ab"):
        language(piece * (200_000 // len(piece)))
        fluency(piece * (200_000 // len(piece)))
    assert time.perf_counter() - start < 5
