"""Objectives by name: which term of the loss goes with which normaliser, and what settings they take.

A new objective is a function here, a line in OBJECTIVES, and a line in SETTINGS for each setting of its own. The term
of most, `clipped`, stands with the loss.

Tensors are used by their methods: recipes are checked against these tables in processes that never load torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.grpo.importance import Importance
from mathgrpo.grpo.loss import Named, Normaliser, Objective, Settings, Term, Tokens, clipped

if TYPE_CHECKING:
    from torch import Tensor

# Shape legend: N completion tokens.


def cispo(tokens: Tokens, ratio_N: Tensor, settings: Settings) -> tuple[Tensor, Named]:
    """Return -min(r, epsilon_max) A log p, the ratio a constant: every token keeps a gradient, however far it moved.

    Flags: tokens of positive advantage whose ratio is cut.
    Source: MiniMax-M1, arXiv 2506.13585 eq. 4; epsilon_max ScaleRL, arXiv 2510.13786; TRL 1.16 (loss_type="cispo").
    """
    weight_N = ratio_N.clamp(max=settings["epsilon_max"]).detach()
    flags = {"cispo_clip_ratio": (ratio_N > settings["epsilon_max"]) & (tokens.advantages_N > 0)}
    return -weight_N * tokens.advantages_N * tokens.logprobs_N, flags


def sapo(tokens: Tokens, ratio_N: Tensor, settings: Settings) -> tuple[Tensor, Named]:
    """Return -(4 / tau) sigmoid(tau (r - 1)) A: a gate that closes smoothly as the ratio leaves 1, in place of a clip.

    tau is sapo_temperature_pos where A > 0, else sapo_temperature_neg.
    Source: SAPO, arXiv 2511.20347; TRL 1.16 (loss_type="sapo").
    """
    positive_N = (tokens.advantages_N > 0).to(ratio_N.dtype)
    tau_N = positive_N * settings["sapo_temperature_pos"] + (1.0 - positive_N) * settings["sapo_temperature_neg"]
    return -(tau_N * (ratio_N - 1.0)).sigmoid() * 4.0 / tau_N * tokens.advantages_N, {}


@dataclass(frozen=True, slots=True)
class Kind:
    """What stands behind the name of an objective: its term, and where its token losses are averaged.

    Attributes:
        settings: names in SETTINGS that its term takes; those in COMMON it takes anyway.
        flags: names of its term's flags.
        sequence_ratio: one ratio for each completion, unless the setting of this name says otherwise.
    """

    term: Term
    normaliser: Normaliser
    settings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    sequence_ratio: bool = False


_CLIP = ("clip_ratio/low", "clip_ratio/high")
_BOUNDS = ("epsilon_low", "epsilon_high", "delta")
_SAPO = ("sapo_temperature_pos", "sapo_temperature_neg")

OBJECTIVES: dict[str, Kind] = {
    "grpo": Kind(clipped, "completions", _BOUNDS, _CLIP),
    "dr_grpo": Kind(clipped, "constant", _BOUNDS, _CLIP),
    "dapo": Kind(clipped, "tokens", _BOUNDS, _CLIP),
    # TRL's bnpo averages over the tokens of each micro-batch. Here the step is one batch, which makes it dapo.
    "bnpo": Kind(clipped, "tokens", _BOUNDS, _CLIP),
    # arXiv 2507.18071 eq. 5. TRL: loss_type="grpo", importance_sampling_level="sequence", as its paper index has it.
    "gspo": Kind(clipped, "completions", _BOUNDS, _CLIP, sequence_ratio=True),
    "cispo": Kind(cispo, "tokens", ("epsilon_max",), ("cispo_clip_ratio",)),
    "sapo": Kind(sapo, "completions", _SAPO),
}
"""Name (grpo.loss in a recipe, loss_type in a script) -> what it is."""


def _above_zero(value: float) -> bool:
    return 0.0 < value < math.inf


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of an objective (grpo.loss_settings in a recipe): its default, its meaning, and what it may be."""

    default: float
    meaning: str
    allowed: str = "a number above 0"
    fits: Callable[[float], bool] = _above_zero


SETTINGS: dict[str, Setting] = {
    "epsilon_low": Setting(0.2, "lower bound of the clip, 1 - this; from 1 on it holds nothing back"),
    "epsilon_high": Setting(0.2, "upper bound of the clip, 1 + this; DAPO takes 0.28"),
    "delta": Setting(math.inf, "two-sided clip: largest ratio of a negative advantage too, more than 1 + epsilon_high"),
    "epsilon_max": Setting(5.0, "largest ratio as a weight, 5 in ScaleRL"),
    "sapo_temperature_pos": Setting(1.0, "steepness of the gate, advantage above 0"),
    "sapo_temperature_neg": Setting(1.05, "the same, advantage of 0 and below"),
    "entropy_coef": Setting(0.0, "weight of the policy's mean entropy, a bonus", "a finite number", math.isfinite),
    "sequence_ratio": Setting(0.0, "1: a completion has one ratio, as in gspo", "0 or 1", (0.0, 1.0).__contains__),
}
COMMON = ("entropy_coef", "sequence_ratio")
"""Settings that every objective takes."""


def choose_objective(
    name: str, settings: Settings, *, beta: float = 0.0, importance: Importance | None = None
) -> Objective:
    """Return the objective of a name, with defaults for what `settings` leaves out.

    Raises: UserError with one line for a name or a setting that does not exist, or a value out of range.
    """
    lines = objective_errors(name, settings)
    if lines:
        raise UserError("\n".join(lines))
    kind = OBJECTIVES[name]
    defaults = {key: SETTINGS[key].default for key in (*kind.settings, *COMMON)}
    defaults |= {"sequence_ratio": float(kind.sequence_ratio)}
    return Objective(kind.term, kind.normaliser, kind.flags, defaults | dict(settings), beta, importance)


@cache
def known_objective(
    name: str, settings: tuple[tuple[str, float], ...], beta: float, importance: Importance | None
) -> Objective:
    """Return `choose_objective` of the settings' items, made once for a run."""
    return choose_objective(name, dict(settings), beta=beta, importance=importance)


def objective_errors(name: str, settings: Settings) -> list[str]:
    """Return one line for each thing that is wrong with the name and the settings of an objective."""
    if name not in OBJECTIVES:
        hint = did_you_mean(name, list(OBJECTIVES)) or ";"
        return [f'grpo.loss="{name}": not one of the names{hint} allowed: {", ".join(OBJECTIVES)}']
    takes = (*OBJECTIVES[name].settings, *COMMON)
    meanings = "; ".join(f"{key} ({SETTINGS[key].meaning})" for key in takes)
    lines = []
    for key, value in settings.items():
        field_name = f"grpo.loss_settings.{key}={value:g}"
        if key not in takes:
            hint = did_you_mean(key, list(takes)) or ";"
            lines.append(f'{field_name}: grpo.loss="{name}" has no such setting{hint} leave it out, or use {meanings}')
        elif not SETTINGS[key].fits(value):
            lines.append(f"{field_name}: out of range; allowed: {SETTINGS[key].allowed} ({SETTINGS[key].meaning})")
    return lines
