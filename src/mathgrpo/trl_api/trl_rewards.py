"""The reward functions of trl.rewards under their names, on this package's grader.

A script that says `from trl.rewards import accuracy_reward` says `from mathgrpo import accuracy_reward` here. What they
pay is documented with TRL; answers are graded by `mathgrpo.answers` (numbers exactly, LaTeX in a child process with
limits), so a hostile completion cannot hang or crash the run.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from mathgrpo.answers import gold_problem, grade
from mathgrpo.errors import UserError
from mathgrpo.formats.layouts import box_contents
from mathgrpo.rewards.catalogue.length import along_cosine, overlong_penalty, repeated_share
from mathgrpo.rewards.checked_calls import Completions, completion_texts

Reward = Callable[..., list[Any]]

_FORMULA = re.compile(r"\${1,2}([^$]+)\${1,2}")
_ANSWER = re.compile(r"answer\b[^$\n]{0,40}\$([^$\n]+)\$", re.IGNORECASE)
_THINKING = re.compile(r"<think>(?!.*<think>).*?</think>", re.DOTALL)


def accuracy_reward(
    completions: Completions,
    solution: Sequence[str],
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **_: Any,
) -> list[float | None]:
    r"""Pay 1.0 for the right answer, 0.0 for a wrong one, None where the solution cannot be read.

    The answer of a completion is what its \boxed{} holds, else the formula of "the answer is $...$". Boxes with
    different contents are no answer (TRL takes the first). The gold is a solution's box, its formula, or all of it.

    Example:
        >>> accuracy_reward([[{"role": "assistant", "content": r"so \boxed{\frac{1}{2}}"}]], [r"\frac{1}{2}"])
        [1.0]
    """
    answers = [final_answer(text) for text in completion_texts(completions)]
    golds = [_gold(text) for text in solution]
    rewards = [_graded(answer, gold) for answer, gold in zip(answers, golds, strict=True)]
    if log_extra is not None:
        log_extra("solution", list(solution))
        log_extra("gold_parsed", [gold if _readable(gold) else "[unparseable]" for gold in golds])
        log_extra("answer_parsed", [answer or "[unparseable]" for answer in answers])
    return rewards


def reasoning_accuracy_reward(
    completions: Completions, solution: Sequence[str], reasoning_delimiters: Sequence[str] | None = None, **columns: Any
) -> list[float | None]:
    """Pay `accuracy_reward` for what follows the reasoning, 0.0 where the reasoning does not end.

    reasoning_delimiters: texts that end the reasoning; None means </think>.
    """
    ends = reasoning_delimiters or ["</think>"]
    texts = completion_texts(completions)
    tails = [next((text.rsplit(end, 1)[1] for end in ends if end in text), None) for text in texts]
    paid = accuracy_reward([tail or "" for tail in tails], solution, columns.get("log_extra"))
    return [0.0 if tail is None else value for tail, value in zip(tails, paid, strict=True)]


def think_format_reward(completions: Completions, opened: Sequence[str] | None = None, **_: Any) -> list[float]:
    """Pay 1.0 for a completion that begins with one <think>...</think>, else 0.0.

    opened: what each prompt has of its completion already: a chat template may have opened the <think> (TRL then pays
        0.0 for ever).
    """
    texts = completion_texts(completions)
    whole = [before + text for before, text in zip(opened or [""] * len(texts), texts, strict=True)]
    return [1.0 if _THINKING.match(text) else 0.0 for text in whole]


def get_soft_overlong_punishment(max_completion_len: int, soft_punish_cache: int) -> Reward:
    """Return a reward of 0 up to max_completion_len - soft_punish_cache tokens, then falling to -1 at the maximum.

    Source: DAPO (arXiv 2503.14476) eq. 13.
    """

    def soft_overlong_punishment_reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        begin = max_completion_len - soft_punish_cache
        return [overlong_penalty(len(ids), begin, max_completion_len) for ids in completion_ids]

    return soft_overlong_punishment_reward


def get_repetition_penalty_reward(ngram_size: int = 3, max_penalty: float = -1.0) -> Reward:
    """Return a reward of max_penalty times the share of token n-grams that repeat an earlier one.

    Source: arXiv 2502.03373, appendix C.2.
    Raises: UserError for a positive max_penalty.
    """
    if max_penalty > 0:
        raise UserError(f"max_penalty={max_penalty}: must not be above 0; a penalty is negative")

    def repetition_penalty_reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [repeated_share(list(ids), ngram_size) * max_penalty or 0.0 for ids in completion_ids]

    return repetition_penalty_reward


def get_cosine_scaled_reward(
    max_len: int, min_value_wrong: float = -1.0, max_value_wrong: float = -0.5, min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
) -> Reward:  # fmt: skip
    """Return a reward that goes along half a cosine from its value at length 0 to that at max_len tokens.

    Right answers fall from max_value_correct to min_value_correct, wrong ones rise from min_value_wrong to
    max_value_wrong.
    Source: arXiv 2502.03373, appendix C.1.
    """

    def cosine_scaled_reward(
        completions: Completions, solution: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float | None]:
        rewards: list[float | None] = []
        for right, ids in zip(accuracy_reward(completions, solution), completion_ids, strict=True):
            long, short = (min_value_correct, max_value_correct) if right else (max_value_wrong, min_value_wrong)
            value = along_cosine(short, long, min(len(ids) / max_len, 1.0) * math.pi)
            rewards.append(None if right is None else value)
        return rewards

    return cosine_scaled_reward


def final_answer(text: str) -> str | None:
    r"""Return what the \boxed{} of a text holds, else the formula after the word "answer", else None.

    Example:
        >>> final_answer(r"$x$ is \boxed{\frac{1}{2}}."), final_answer("the answer is $3$."), final_answer("$3$")
        ('\\frac{1}{2}', '3', None)
    """
    boxes = set(box_contents(text))
    if boxes:
        return (boxes.pop() or None) if len(boxes) == 1 else None
    formulas = _ANSWER.findall(text)
    return str(formulas[-1]).strip() if formulas else None


def _gold(solution: str) -> str:
    formula = _FORMULA.fullmatch(solution.strip())
    return final_answer(solution) or (formula.group(1) if formula else solution).strip()


def _graded(answer: str | None, gold: str) -> float | None:
    if not _readable(gold):
        return None
    return float(grade(answer, gold) == "correct")


@functools.lru_cache(maxsize=4096)
def _readable(gold: str) -> bool:
    return gold_problem(gold) is None
