"""Groups: problems become rewarded completions, in order, with verdicts that belong to them."""

from __future__ import annotations

import torch

from fakes import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from mathgrpo.answers import grade_completion
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models import Policy, policy_from
from mathgrpo.rewards import build_suite
from mathgrpo.rollout import build_engine, completion_text, reward_groups, sample_groups
from mathgrpo.rollout.groups import reward_columns
from mathgrpo.types import Completion, Problem, RolloutGroup, Sampling

PROBLEMS = [
    Problem("What is 2 + 2?", "4", columns={"level": 1}),
    Problem("What is 3 + 4?", "7"),
]


def policy() -> Policy:
    return policy_from(tiny_model(), tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


def test_groups_are_drawn_decoded_and_rewarded() -> None:
    tiny, fmt = policy(), get_format("xml")
    engine = build_engine(tiny)
    suite = build_suite({"correct": 1.0, "format": 0.1}, fmt)
    sampling = Sampling(max_new_tokens=12, seed=4)
    groups = reward_groups(sample_groups(engine, tiny, PROBLEMS, fmt, 3, sampling), fmt, suite)
    assert [group.problem for group in groups] == PROBLEMS
    for group in groups:
        assert group.prompt == encode_prompt(tiny.tokenizer, group.problem, fmt)
        again = engine.generate([group.prompt], 3, sampling)[0]
        assert [completion.ids for completion in group.completions] == [completion.ids for completion in again]
        assert list(group.texts) == [completion_text(tiny, completion) for completion in group.completions]
        assert len(group.rewards) == len(group.grades) == 3 and group.advantages == ()
        assert set(group.reward_parts) == {"correct", "format"}
        assert group.grades == tuple(grade_completion(t, group.problem.answer, fmt) for t in group.texts)


def test_rewards_and_verdicts_stay_with_their_completion() -> None:
    fmt = get_format("xml")
    tiny = policy()

    def group(problem: Problem, *answers: str) -> RolloutGroup:
        texts = tuple(fmt.write("1 + 1 = 2", answer) for answer in answers)
        completions = tuple(Completion((9,), (-1.0,), "length") for _ in answers)
        return RolloutGroup(problem, encode_prompt(tiny.tokenizer, problem, fmt), completions, texts)

    groups = [group(PROBLEMS[0], "4", "7", "4"), group(PROBLEMS[1], "4", "7")]
    rewarded = reward_groups(groups, fmt, build_suite({"correct": 1.0}, fmt))
    assert [g.verdicts for g in rewarded] == [("correct", "wrong", "correct"), ("wrong", "correct")]
    assert [g.rewards for g in rewarded] == [(1.0, 0.0, 1.0), (0.0, 1.0)]
    assert [g.reward_parts["correct"] for g in rewarded] == [(1.0, 0.0, 1.0), (0.0, 1.0)]
    assert [g.texts for g in rewarded] == [g.texts for g in groups]
    columns = reward_columns(groups)
    assert columns["answer"] == ["4", "4", "4", "7", "7"]
    assert columns["level"] == [1, 1, 1, None, None]


def test_a_completion_is_rewarded_behind_what_its_prompt_has_opened() -> None:
    fmt, tiny = get_format("think"), policy()
    whole = fmt.write("2 + 2 = 4", "4")
    for opens in ("", "<think>\n"):
        tiny.tokenizer.chat_template = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|>" + opens)
        prompt = encode_prompt(tiny.tokenizer, PROBLEMS[0], fmt)
        texts = (whole, whole.removeprefix("<think>\n"))
        group = RolloutGroup(PROBLEMS[0], prompt, (Completion((9,), (-1.0,), "eos"),) * 2, texts)
        [rewarded] = reward_groups([group], fmt, build_suite({"correct": 1.0, "format": 0.1}, fmt))
        assert prompt.opened == opens
        assert rewarded.rewards == ((1.05, 1.1) if opens else (1.1, 1.0))


def test_the_end_token_is_no_text() -> None:
    tiny = policy()
    ids = tiny.tokenizer("ab")["input_ids"]
    end = tiny.eos_ids[0]
    assert completion_text(tiny, Completion((*ids, end), (0.0,) * 3, "eos")) == "ab"
    assert completion_text(tiny, Completion((*ids, 3, *ids), (0.0,) * 5, "length")) == "ab<|user|>ab"
    assert completion_text(tiny, Completion((end,), (0.0,), "eos")) == ""
