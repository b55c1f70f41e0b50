"""Every reward that a recipe can name. To add one: write a function in TRL's signature and give it an entry here."""

from __future__ import annotations

from mathgrpo.rewards import why
from mathgrpo.rewards.catalogue_reference import REFERENCES
from mathgrpo.rewards.countdown import countdown
from mathgrpo.rewards.entry import Entry, Pay
from mathgrpo.rewards.language import fluency, language
from mathgrpo.rewards.length import cosine, repetition, soft_overlong
from mathgrpo.rewards.settings import (
    CosineSettings,
    LanguageSettings,
    OverlongSettings,
    RepetitionSettings,
    StepsSettings,
)
from mathgrpo.rewards.signature import RewardFunction
from mathgrpo.rewards.sound import correct, format_always, format_parts, format_when_right, integer, near_answer
from mathgrpo.rewards.steps import verified_steps


def _cosine_pay(settings: CosineSettings) -> Pay:
    right = min(settings.right_short, settings.right_long, settings.over)
    wrong = max(settings.wrong_short, settings.wrong_long, settings.over)
    every = (right, wrong, settings.right_short, settings.right_long, settings.wrong_short, settings.wrong_long)
    return Pay(min(every), max(every), wrong=max(wrong, 0.0), right=right)


def _steps_pay(settings: StepsSettings) -> Pay:
    return Pay(0.0, 1.0, wrong=settings.wrong_share)


CATALOGUE: dict[str, Entry] = {
    "correct": Entry(
        correct, "answer",
        "1 for a right answer in the format's one answer block, 0.25 for one marked in another way, else 0",
        Pay(0, 1, right=1),
        "guessing the gold; several answers, lists, other scripts' digits and unevaluated expressions earn 0",
        why.answer, source="accuracy reward of DeepSeek-R1, arXiv 2501.12948", pays_right=True,
    ),
    "format": Entry(
        format_when_right, "form",
        "on right answers only: 1 for exactly the asked layout, 0.5 for both blocks in order; else 0", Pay(0, 1),
        "a token word in the reasoning block satisfies it; an empty one does not",
        why.form_when_right, source="format reward of DeepSeek-R1, arXiv 2501.12948", pays_right=True,
    ),
    "format_always": Entry(
        format_always, "form", "what format pays, on every readable answer", Pay(0, 1, wrong=1),
        "any number in perfect form earns it; its weight is limited for that", why.form,
    ),
    "integer": Entry(
        integer, "answer", "1 for a right answer in plain ASCII digits, else 0; does not apply to other golds",
        Pay(0, 1), "none beyond guessing the gold", why.integer, pays_right=True,
    ),
    "near_answer": Entry(
        near_answer, "answer", "1 for a right answer, 1/2 within 10 % of the gold, 1/6 within 20 %, else 0",
        Pay(0, 1, wrong=0.5, right=1), "guessing the size of the answer; its weight is limited for that",
        why.answer, source="the graduated scores of reference system 2, read exactly", pays_right=True,
    ),
    "format_parts": Entry(
        format_parts, "form", "the share of the format's tags that stand once each and in order, whatever the answer",
        Pay(0, 1, wrong=1), "the tags alone earn it; its weight is limited for that", why.parts,
    ),
    "verified_steps": Entry(
        verified_steps, "steps",
        "true arithmetic lines that lead to the given answer, less false ones, as a share of max_lines; "
        "wrong_share of it where the answer is wrong",
        _steps_pay, "a detour on the way to a right answer, up to max_lines", why.steps,
        source="reference system 3, bounded", settings=StepsSettings,
    ),
    "countdown": Entry(
        countdown, "constraint",
        "1 where the answer is an expression that uses each of nums once and makes target, else 0; "
        "does not apply without nums", Pay(0, 1, right=1),
        "none known: powers, joined digits, repeated and missing numbers earn 0", why.countdown,
        source="the Countdown task of TinyZero, without eval", columns=("nums", "target"), pays_right=True,
    ),
    "cosine": Entry(
        cosine, "length",
        "from right_short to right_long along a cosine with the tokens of a right answer, likewise for wrong ones; "
        "over from max_length on", _cosine_pay,
        "with wrong_long above wrong_short, text that only adds length", why.cosine,
        source="the cosine reward of Demystifying Long Chain-of-Thought Reasoning in LLMs, arXiv 2502.03373",
        settings=CosineSettings, needs_tokens=True, pays_right=True,
    ),
    "soft_overlong": Entry(
        soft_overlong, "length",
        "0 up to max_length - cache tokens, from there a straight line to -1 at max_length, -1 beyond",
        Pay(-1, 0, right=-1), "none by itself; with too short a limit the model stops reasoning", why.overlong,
        source="DAPO, arXiv 2503.14476, equation 13", settings=OverlongSettings, needs_tokens=True,
    ),
    "repetition": Entry(
        repetition, "length", "minus the share of token n-grams that stood before", Pay(-1, 0, right=-1),
        "changing one token in n; honest calculations repeat tokens too", why.repetition,
        source="arXiv 2502.03373, appendix C.2", settings=RepetitionSettings, needs_tokens=True,
    ),
    "language": Entry(
        language, "language", "minus the share of letters in none of the settings' scripts", Pay(-1, 0, right=-1),
        "another language in the same script is not seen", why.language,
        source="language consistency reward of DeepSeek-R1, arXiv 2501.12948", settings=LanguageSettings,
    ),
    "fluency": Entry(
        fluency, "language",
        "minus the worst of three shares: repeated lines, long runs of a character, characters that are no text",
        Pay(-1, 0, right=-1), "rewording a repeated line, or changing a number in it", why.fluency,
    ),
    **REFERENCES,
}  # fmt: skip
"""Reward name -> what is known of it."""

REWARDS: dict[str, RewardFunction] = {name: entry.function for name, entry in CATALOGUE.items()}
"""Reward name -> function."""

SOUND = frozenset(name for name, entry in CATALOGUE.items() if entry.sound)
"""Rewards for which `build_suite` keeps a wrong answer in perfect form below a right one."""

SOUND_WEIGHTS = {"correct": 1.0, "format": 0.1}
"""The default suite: a wrong answer earns 0, a right one 1.0, in exactly the asked layout 1.1."""

STEP_WEIGHTS = {"correct": 0.4, "verified_steps": 0.6}
"""Reference system 3's suite, bounded: 0.4 for the answer, 0.2 a step for three steps; 0.09 at most when wrong."""

REFERENCE_WEIGHTS = {name: 1.0 for name in REWARDS if name.startswith("reference_")}
"""The notebook's suite: up to 2.0 + 0.5 + 0.5 + 0.5 + 0.5."""

MULTI_WEIGHTS = {name: 1.0 for name in REWARDS if name.startswith("multi_")}
"""The multi-reward notebook's suite: up to 3.0 + 2.0 + 3.0 + 1.5."""

GIST_WEIGHTS = {
    name: 1.0 for name in REWARDS if name.startswith("gist_") or name in ("reference_correctness", "reference_integer")
}
"""The one-shot notebook's suite, as the gist that it extends has it."""
