"""Recipes by name and path, overrides, and what a user reads when one is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mathgrpo.config import Recipe, load_model, load_recipe, recipe_to_toml
from mathgrpo.config.load_recipe import recipe_from_toml, recipe_names, require_possible, validated
from mathgrpo.config.sft_recipe import SftRecipe
from mathgrpo.errors import UserError


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def complaint(path: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


def test_recipe_by_path_keeps_what_it_says_and_defaults_for_the_rest(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, "[training]\nsteps = 7\n[optimizer]\nlearning_rate = 1\n".replace("= 1\n", "= 0.5\n"))
    )
    assert recipe.training.steps == 7
    assert recipe.optimizer.learning_rate == 0.5
    assert recipe.rollout == Recipe().rollout


def test_bare_name_is_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quick.toml").write_text("[training]\nsteps = 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quick").training.steps == 3
    assert "quick" in recipe_names()
    [line] = complaint("quik")
    assert line.startswith('recipe=quik: no such recipe; did you mean "quick"?')


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    model = SftRecipe if "stages" in tomllib.loads(path.read_text()) else Recipe
    loaded = load_model(model, str(path))
    if isinstance(loaded, Recipe):
        require_possible(loaded)


def test_missing_empty_and_broken_files_are_one_line(tmp_path: Path) -> None:
    assert "no such file" in complaint(str(tmp_path / "none.toml"))[0]
    assert "the file is empty" in complaint(write(tmp_path, " \n"))[0]
    [line] = complaint(write(tmp_path, "[training]\nsteps = fast\n"))
    assert "not TOML" in line and "line 2" in line
    (tmp_path / "folder.toml").mkdir()
    assert "no such file" in complaint(str(tmp_path / "folder.toml"))[0]
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in complaint(str(tmp_path / "mine.toml"))[0]


def test_overrides_apply_from_left_to_right(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nsteps = 7\n")
    recipe = load_recipe(
        path, ["training.steps=8", "training.steps = 9", "optimizer.schedule=cosine", "rollout.sampling.top_p=0.9"]
    )
    assert (recipe.training.steps, recipe.optimizer.schedule, recipe.rollout.sampling) == (9, "cosine", {"top_p": 0.9})


def test_text_fields_take_bare_words_whatever_they_look_like(tmp_path: Path) -> None:
    path = write(tmp_path, "[run]\nseed = 1\n")
    for text, expected in [
        ("7", "7"),
        ("true", "true"),
        ("2026-01-01", "2026-01-01"),
        ('"a b"', "a b"),
        ("a=b", "a=b"),
        ("", ""),
    ]:
        assert load_recipe(path, [f"run.name={text}"]).run.name == expected


def test_a_reward_override_is_laid_over_the_default_rewards(tmp_path: Path) -> None:
    bare = write(tmp_path, "[run]\nseed = 1\n")
    assert load_recipe(bare, ["rewards.correct=2.0"]).rewards == Recipe().rewards | {"correct": 2.0}
    assert load_recipe(bare, ["rewards.format=0"]).rewards["format"] == 0
    own = write(tmp_path, "[rewards]\ncorrect = 1.0\n")
    assert load_recipe(own, ["rewards.my/file.py:bonus=0.3"]).rewards == {"correct": 1.0, "my/file.py:bonus": 0.3}


def test_an_adapter_can_be_switched_on_and_off(tmp_path: Path) -> None:
    path = write(tmp_path, "[model.lora]\nr = 4\n")
    assert load_recipe(path).model.lora is not None
    assert load_recipe(path, ["model.lora=none"]).model.lora is None
    lora = load_recipe(path, ["model.lora.r=8", 'model.lora.target_modules=["q_proj"]']).model.lora
    assert lora is not None and (lora.r, lora.target_modules) == (8, ("q_proj",))


def test_a_stage_of_an_sft_recipe_is_reached_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, "[[stages]]\ntokens = 5\n[[stages]]\ntokens = 6\n")
    assert [s.tokens for s in load_model(SftRecipe, path, ["stages.1.tokens=9"]).stages] == [5, 9]
    with pytest.raises(UserError, match="entries 0 to 1, not 2"):
        load_model(SftRecipe, path, ["stages.2.tokens=9"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("rollout.group_size=1", "rollout.group_size=1: every advantage would be 0; use 2 or more"),
        ("rollout.group_size=4.0", "rollout.group_size=4.0: wrong type; allowed: a whole number at least 2"),
        (
            "optimizer.learning_rate=fast",
            'optimizer.learning_rate="fast": wrong type; allowed: a number above 0 and below 1',
        ),
        (
            "optimizer.learning_rate=inf",
            "optimizer.learning_rate=Infinity: out of range; allowed: a number above 0 and below 1",
        ),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay=NaN: out of range; allowed: a number at least 0"),
        ("grpo.mask_truncated=1", "grpo.mask_truncated=1: wrong type; allowed: true or false"),
        ("training.steps=true", "training.steps=true: wrong type; allowed: a whole number at least 1"),
        (
            "grpo.loss=ppo",
            'grpo.loss="ppo": not one of the names; allowed: "grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", '
            '"sapo"',
        ),
        (
            "grpo.loss_settings.detla=4",
            'grpo.loss_settings.detla=4: grpo.loss="dapo" has no such setting; did you mean "delta"? leave it out, or '
            "use epsilon_low (lower bound of the clip, 1 - this; from 1 on it holds nothing back); epsilon_high (upper "
            "bound of the clip, 1 + this; DAPO takes 0.28); delta (two-sided clip: "
            "largest ratio of a negative advantage too, more than 1 + epsilon_high); "
            "entropy_coef (weight of the policy's mean entropy, a bonus); sequence_ratio (1: a completion has one "
            "ratio, as in gspo)",
        ),
        ("rewards.correct=much", 'rewards.correct="much": wrong type; allowed: a number'),
        ("rewards.correct=inf", "rewards.correct=Infinity: out of range; allowed: a number"),
        (
            "model.lora.target_modules=q_proj",
            'model.lora.target_modules="q_proj": wrong type; allowed: a list, each entry text; write ["q_proj"]',
        ),
        ("training=3", "training=3: wrong type; allowed: a table"),
        (
            "rollout.sampling.top_p=2.0",
            "rollout.sampling.top_p=2.0: out of range; allowed: a number above 0 and at most 1",
        ),
        ("rollout.sampling.top_k=1.5", "rollout.sampling.top_k=1.5: out of range; allowed: a whole number at least 0"),
        ("rollout.sampling.top_p=all", 'rollout.sampling.top_p="all": wrong type; allowed: a number'),
        (
            "rollout.sampling.topk=4",
            'rollout.sampling.topk=4.0: no such field; did you mean "top_k"? allowed: top_p, top_k, min_p',
        ),
        (
            "problems.columns.questions=q",
            'problems.columns.questions: no such column; did you mean "question"? allowed: question, answer, solution, '
            "a reward's column",
        ),
        (
            "problems.source=generated:x",
            'problems.source="generated:x": no such draw; use a whole number, as in "generated:18"',
        ),
        (
            "optimizer.betas=[0.9, 1.0]",
            "optimizer.betas.1=1.0: out of range; allowed: a list, each entry a number at least 0 and below 1",
        ),
        (
            "problems.train_size=2",
            "problems.train_size=2: fewer than rollout.prompts_per_step=16; a step never takes a problem "
            "twice, so raise the one or lower the other",
        ),
        ("problems.source=", 'problems.source="": nothing given; use "generated", a file, a folder or a hub id'),
        ("run.name=a/b", 'run.name="a/b": must be one folder name; say where it goes with run.output_dir'),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, override: str, line: str) -> None:
    assert complaint(write(tmp_path, "[run]\nseed = 1\n"), override) == [line]


def test_an_unknown_key_gets_the_nearest_name_and_all_names(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nstepz = 3\n")
    [line] = complaint(path)
    assert line.startswith('training.stepz=3: no such field; did you mean "steps"? allowed: steps, evaluate_every')
    [line] = complaint(write(tmp_path, "[optimiser]\nlearning_rate = 0.1\n"))
    assert line.startswith('optimiser: no such section; did you mean "optimizer"? allowed: run, model, problems')
    [line] = complaint(write(tmp_path, "[model.lora]\nrank = 4\n"))
    assert line.startswith("model.lora.rank=4: no such field") and "alpha" in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps=5", 'steps=5: no such field; did you mean "training.steps"? allowed: run, model'),
        ("training.learning_rate=1e-5", 'no such field; did you mean "optimizer.learning_rate"? allowed: steps'),
        ("rollout.num_generations=8", 'no such field; did you mean "rollout.group_size"? allowed: prompts_per_step'),
        ("grpo.temperature=0.9", 'did you mean "rollout.temperature"?'),
        ("lora.r=4", 'lora: no such section; did you mean "model.lora"?'),
        ("reward_settings.cosine=3", "reward_settings.cosine=3: wrong type; allowed: a table"),
    ],
)
def test_a_key_of_another_section_or_of_trl_is_found(tmp_path: Path, override: str, words: str) -> None:
    [line] = complaint(write(tmp_path, "[run]\nseed = 1\n"), override)
    assert words in line


def test_a_recipe_of_the_other_kind_is_recognised(tmp_path: Path) -> None:
    [line] = complaint(write(tmp_path, "[[stages]]\ntokens = 5\n"))
    assert "mathgrpo sft" in line


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    lines = complaint(write(tmp_path, "[rollout]\ngroup_size = 1\ntemprature = 2.0\n[training]\nsteps = 0\n"))
    assert len(lines) == 3
    assert {line.partition("=")[0] for line in lines} == {"rollout.group_size", "rollout.temprature", "training.steps"}


@pytest.mark.parametrize("override", ["steps", "=3", "training.=3", ".steps=3", "run.seed.x=3"])
def test_a_malformed_override_is_one_line(tmp_path: Path, override: str) -> None:
    [line] = complaint(write(tmp_path, "[run]\nseed = 1\n"), override)
    assert line.startswith(f"--set {override}: ")


def test_rewards_that_all_weigh_nothing_are_refused(tmp_path: Path) -> None:
    [line] = complaint(write(tmp_path, "[rewards]\ncorrect = 0.0\n"))
    assert "every advantage would be 0" in line


def test_a_resolved_recipe_loads_back_equal(tmp_path: Path) -> None:
    awkward = 'quote " slash \\ tab \t newline \n bell \x07 del \x7f emoji 🙂'
    recipe = validated(
        Recipe,
        {
            "run": {"output_dir": awkward, "seed": 3},
            "model": {"lora": {"r": 4, "target_modules": ["q_proj", "c_attn"]}},
            "rewards": {"correct": 2, "dir/my.py:bonus": -0.25},
            "optimizer": {"learning_rate": 1e-7},
        },
    )
    path = tmp_path / "config.toml"
    path.write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert recipe_from_toml(Recipe, path) == recipe
    assert recipe_from_toml(Recipe, path).run.output_dir == awkward


def test_a_resolved_sft_recipe_loads_back_equal(tmp_path: Path) -> None:
    recipe = validated(SftRecipe, {"stages": [{"tokens": 5, "drills": 0.5}, {"tokens": 6}]})
    path = tmp_path / "config.toml"
    path.write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert recipe_from_toml(SftRecipe, path) == recipe
