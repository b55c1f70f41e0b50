"""Settings of rewards in a recipe, and the check that wrong answers stay below right ones."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.config import Recipe, load_recipe, recipe_to_toml
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.rewards import CATALOGUE, build_suite
from mathgrpo.rewards.catalogue.length import CosineSettings
from reward_suites import SOUND

XML = get_format("xml")
RECIPE = """
[rewards]
correct = 2.0
soft_overlong = 1.0
"{user}:shorter" = 0.5
[reward_settings.soft_overlong]
cache = 10
[reward_settings."{user}:shorter"]
limit = 4
"""


@pytest.fixture
def user(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(
        "def shorter(prompts, completions, limit=2, **columns):\n"
        "    return [float(len(turn[0]['content']) <= limit) for turn in completions]\n"
    )
    return str(path)


def test_settings_go_from_the_recipe_into_the_functions(user: str, tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text(RECIPE.format(user=user))
    recipe = load_recipe(
        str(file), ["reward_settings.soft_overlong.max_length=20", f'reward_settings."{user}:shorter".limit=3']
    )
    assert recipe.reward_settings == {
        "soft_overlong": {"cache": 10, "max_length": 20},
        f"{user}:shorter": {"limit": 3},
    }
    suite = build_suite(recipe.rewards, XML, recipe.reward_settings, recipe.rollout.max_new_tokens)
    columns = {"answer": ["18"] * 2, "question": ["?"] * 2}
    scores = suite.score(["?"] * 2, ["abc", "abcd"], columns, completion_ids=[[1] * 15, [1] * 20])
    assert scores.parts["soft_overlong"] == (-0.5, -1.0)
    assert scores.parts[f"{user}:shorter"] == (1.0, 0.0)
    # a run keeps its recipe as TOML
    file.write_text(recipe_to_toml(recipe))
    assert load_recipe(str(file)) == recipe


@pytest.mark.parametrize(
    ("weights", "tables", "words"),
    [
        ({"correct": 1}, {"cosine": {}}, "reward_settings.cosine: this reward is not in [rewards]"),
        ({"correct": 1}, {"correct": {"x": 1}}, "reward_settings.correct: this reward takes no settings"),
        ({"cosine": 1}, {"cosine": {"max_lenght": 9}}, 'max_lenght=9: no such field; did you mean "max_length"?'),
        ({"cosine": 1}, {"cosine": {"max_length": 9.5}}, "reward_settings.cosine.max_length=9.5: wrong type"),
        ({"cosine": 1}, {"cosine": {"max_length": -1}}, "reward_settings.cosine.max_length=-1: out of range"),
        ({"cosine": 1}, {"cosine": {"max_length": 9, "right_long": 0.0}}, "must be above wrong_short"),
        ({"cosine": 1}, {"cosine": {"max_length": 9, "over": float("inf")}}, "out of range"),
        ({"cosine": 1}, {}, "reward_settings.cosine.max_length=0: means rollout.max_new_tokens"),
        (
            {"correct": 9, "soft_overlong": 1},
            {"soft_overlong": {"max_length": 9, "cache": 10}},
            "cache=10: longer than",
        ),
        ({"correct": 9, "language": 1}, {"language": {"scripts": ("klingon",)}}, 'allowed: a list, each entry "latin"'),
        ({"correct": 9, "language": 1}, {"language": {"scripts": ()}}, "scripts must name at least one"),
        ({"correct": 9, "repetition": 1}, {"repetition": {"ngram": 0}}, "out of range"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(weights: dict, tables: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_suite(weights, XML, tables)
    assert words in str(caught.value) and "reward_settings." in str(caught.value) and "\n" not in str(caught.value)


def test_a_users_function_takes_only_parameters_that_it_has(user: str) -> None:
    with pytest.raises(UserError, match=r'".limt: the function has no such parameter; it has: limit'):
        build_suite({f"{user}:shorter": 1.0}, XML, {f"{user}:shorter": {"limt": 1}})


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"correct": 1.0, "format_parts": 0.25}, "rewards.format_parts=0.25: a wrong answer"),
        ({"correct": 1.0, "format_parts": 0.15, "format_always": 0.15}, "(together 0.3)"),
        ({"correct": 1.0, "near_answer": 0.5}, "rewards.near_answer=0.5"),
        ({"correct": 0.4, "verified_steps": 0.7}, "rewards.verified_steps=0.7"),
        ({"verified_steps": 1.0}, "nothing pays for being right"),
        ({"fluency": 1.0}, "nothing pays for being right"),
        ({"correct": 1.0, "soft_overlong": 1.0}, "penalties of up to 1 could make a right answer"),
        ({"correct": 1.0, "fluency": 0.5, "language": 0.5}, "rewards.fluency=0.5, rewards.language=0.5: penalties"),
        ({"countdown": 1.0, "format_parts": 1.0}, "rewards.format_parts=1.0"),
    ],
)
def test_a_suite_in_which_a_wrong_answer_could_win_is_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_suite(weights, XML, max_new_tokens=64)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_cosine_that_punishes_is_allowed_beside_a_larger_correct() -> None:
    own = {"right_short": 2.0, "right_long": 1.0, "wrong_short": -10.0, "wrong_long": 0.0, "over": -10.0}
    build_suite({"correct": 20.0, "cosine": 1.0}, XML, {"cosine": own}, 64)
    with pytest.raises(UserError, match="penalties of up to 10"):
        build_suite({"correct": 1.0, "cosine": 1.0}, XML, {"cosine": own}, 64)


QUESTION = "Tom has 9 bags of 2 apples. How many apples?"
NAMES = sorted(SOUND - {"countdown"})
SETTINGS = {"repetition": {"ngram": 1}, "cosine": {"over": 0.0, "right_long": 0.5}}


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 3), min_size=1),
    st.floats(0.5, 10),
    st.sampled_from(["9 * 2 = 18", "9 * 2 = 18\n18 + 1 = 19", "x", "так так так так", "x" * 40]),
    st.sampled_from(["19", "17.5", "-18", "1"]),
    st.integers(1, 64),
    st.integers(1, 63),
)
def test_no_suite_that_is_accepted_pays_a_wrong_answer_in_form_as_much_as_a_right_one_in_form(
    weights: dict[str, float], correct: float, reasoning: str, wrong: str, wrong_length: int, right_length: int
) -> None:
    weights = {**weights, "correct": correct}
    tables = {name: table for name, table in SETTINGS.items() if name in weights}
    try:
        suite = build_suite(weights, XML, tables, 64)
    except UserError:
        return
    texts = [XML.write(reasoning, wrong), XML.write("так " * 20 + "x" * 99, "18")]
    ids = [list(range(wrong_length)), [7] * right_length]
    columns = {"answer": ["18"] * 2, "question": [QUESTION] * 2}
    totals = suite.score(["?"] * 2, texts, columns, completion_ids=ids).totals
    assert totals[0] < totals[1]


PIECES = [
    "<reasoning>", "</reasoning>", "<answer>", "</answer>", "<think>", "</think>", "<SOLUTION>", "</SOLUTION>",
    "<start_working_out>", "<end_working_out>", "\\boxed{", "}", "\n", " ", "18", "9*2 = 18", "-", "да", "\0", "\ud800",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=12).map("".join),
    st.sampled_from(["18", "-5", "1,200", "1/2", "0"]),
    st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=80)),
    st.sampled_from(["xml", "working_out", "think", "boxed"]),
)
def test_every_reward_keeps_its_stated_range_on_any_text(
    text: str, gold: str, ids: list[int] | None, name: str
) -> None:
    suite = build_suite(dict.fromkeys(CATALOGUE, 1.0), get_format(name), max_new_tokens=64)
    columns = {"answer": [gold], "question": [QUESTION], "nums": [[9, 2]], "target": [18]}
    scores = suite.score(["?"], [text], columns, completion_ids=None if ids is None else [ids])
    for reward, (value,) in scores.parts.items():
        entry = CATALOGUE[reward]
        pay = entry.bounds
        assert value is None or pay.low <= value <= pay.high, reward
        if entry.needs_tokens and ids is None:
            assert value is None


def test_the_default_pays_of_the_cosine_follow_its_settings() -> None:
    pay = replace(
        CATALOGUE["cosine"], settings=CosineSettings(right_short=2.0, right_long=1.0, wrong_short=-10.0, over=-10.0)
    ).bounds
    assert (pay.low, pay.high, pay.wrong, pay.right) == (-10.0, 2.0, 0.0, -10.0)


def test_a_recipe_without_settings_has_an_empty_table() -> None:
    assert Recipe().reward_settings == {}
