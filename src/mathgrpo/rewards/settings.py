"""What rewards with parameters take in a recipe's [reward_settings.NAME] tables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mathgrpo.config.recipe import Section

Script = Literal[
    "latin", "cyrillic", "greek", "cjk", "hiragana", "katakana", "hangul", "arabic", "hebrew", "devanagari", "bengali",
    "tamil", "telugu", "thai", "georgian", "armenian",
]  # fmt: skip


class StepsSettings(Section):
    max_lines: int = Field(3, ge=1, le=50)
    """Steps that are paid at most; each pays 1 / max_lines."""
    wrong_share: float = Field(0.15, ge=0.0, le=1.0)
    """What steps pay where the answer is wrong, as a share of what they pay where it is right."""


class CosineSettings(Section):
    max_length: int = Field(0, ge=0)
    """Tokens at which the curve ends; 0: rollout.max_new_tokens."""
    right_short: float = 1.0
    """For a right answer of no length."""
    right_long: float = 0.5
    """For a right answer just below max_length."""
    wrong_short: float = 0.0
    """For a wrong answer of no length."""
    wrong_long: float = 0.0
    """For a wrong answer just below max_length."""
    over: float = 0.0
    """For any completion of max_length tokens or more."""

    @model_validator(mode="after")
    def _right_beats_wrong(self) -> CosineSettings:
        if min(self.right_short, self.right_long) <= max(self.wrong_short, self.wrong_long):
            raise ValueError("right_short and right_long must be above wrong_short and wrong_long")
        return self


class OverlongSettings(Section):
    max_length: int = Field(0, ge=0)
    """Tokens from which on the penalty is whole; 0: rollout.max_new_tokens."""
    cache: int = Field(0, ge=0)
    """Tokens before max_length over which it grows; 0: a fifth of max_length."""


class RepetitionSettings(Section):
    ngram: int = Field(3, ge=1, le=50)
    """Tokens in the sequences that are compared."""


class LanguageSettings(Section):
    scripts: tuple[Script, ...] = ("latin",)
    """Scripts that the completion may use. Single Greek letters are mathematics and always allowed."""

    @model_validator(mode="after")
    def _some(self) -> LanguageSettings:
        if not self.scripts:
            raise ValueError("scripts must name at least one")
        return self
