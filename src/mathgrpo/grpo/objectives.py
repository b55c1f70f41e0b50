"""Objectives: what an optimizer step minimises, by name.

The loss of an optimizer step is a sum over its completion tokens,

    loss = sum_t  w_t * ( v_t * policy_t + beta * r_t * k3_t )  -  entropy_coef * mean_t H_t,

with r_t = p_now / p_old of a token, or of its whole completion. policy_t is an objective's own term, a function below;
w_t the normaliser (`grpo.normalisers`); v_t the importance weight for a sampler with other numerics, 1 without one; H_t
the entropy of the policy at the token, its mean over the step (in TRL 1.16 over each micro-batch). OBJECTIVES says
which term goes with which normaliser, SETTINGS what they take. A new objective is a function here, a line in
OBJECTIVES, and a line in SETTINGS for each setting of its own.

Tensors are used by their methods: recipes are checked against these tables in processes that never load torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.grpo.importance import Importance
from mathgrpo.grpo.normalisers import Normaliser

if TYPE_CHECKING:
    from torch import Tensor

# Shape legend: N completion tokens, R completions.

Settings = Mapping[str, float]
Named = dict[str, "Tensor"]
"""Name of a metric -> its value at every token, or what became of those: a sum, the largest or the smallest."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Completion tokens as an objective sees them, one value a token: float32 [N] each.

    Attributes:
        logprobs_N: log-probabilities under the policy as it is now; the gradient goes through them.
        old_N, ref_N, sampling_N: those of the policy that sampled, by the trainer; of the reference, only looked at
            with beta > 0; and those that the sampler drew with.
        advantages_N: how much better the completion is than its group.
        lengths: tokens of each completion, one completion after another; () where completions are cut into chunks,
            which no objective sees that needs whole completions.
    """

    logprobs_N: Tensor
    old_N: Tensor
    ref_N: Tensor
    sampling_N: Tensor
    advantages_N: Tensor
    lengths: tuple[int, ...] = ()


Term = Callable[[Tokens, "Tensor", Settings], tuple["Tensor", Named]]
"""(tokens, ratio_N, settings) -> (policy loss at every token, flags at every token whose shares are metrics)."""


def clipped(tokens: Tokens, ratio_N: Tensor, settings: Settings) -> tuple[Tensor, Named]:
    """Return -min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A); with delta, min(r, delta) for the first r.

    Flags: where the lower bound (negative advantages) and the upper one (positive) hold a token back, so that it adds
    no gradient.
    Source: PPO, arXiv 1707.06347 eq. 7; the upper bound of its own DAPO, arXiv 2503.14476; delta INTELLECT-2, arXiv
        2505.07291, which bounds what a token of negative advantage can add; TRL 1.16.

    Example:
        >>> import torch
        >>> settings = {"epsilon_low": 0.2, "epsilon_high": 0.2, "delta": 4.0}
        >>> ratio_N, advantages_N = torch.tensor([1.5, 0.5, 9.0]), torch.tensor([1.0, 1.0, -1.0])
        >>> clipped(Tokens(*[advantages_N] * 5), ratio_N, settings)[0].tolist()
        [-1.2000000476837158, -0.5, 4.0]
    """
    low, high, advantages_N = 1.0 - settings["epsilon_low"], 1.0 + settings["epsilon_high"], tokens.advantages_N
    bounded_N = ratio_N.clamp(low, high)
    if settings["delta"] < math.inf:
        ratio_N = ratio_N.clamp(max=settings["delta"])
    flags = {
        "clip_ratio/low": (ratio_N < low) & (advantages_N < 0),
        "clip_ratio/high": (ratio_N > high) & (advantages_N > 0),
    }
    return -(ratio_N * advantages_N).minimum(bounded_N * advantages_N), flags


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


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of an objective (grpo.loss_settings in a recipe): its default, what it may be, and its meaning."""

    default: float
    allowed: str
    fits: Callable[[float], bool]
    meaning: str


def _above_zero(value: float) -> bool:
    return 0.0 < value < math.inf


SETTINGS: dict[str, Setting] = {
    "epsilon_low": Setting(
        0.2, "a number above 0", _above_zero, "lower bound of the clip, 1 - this; from 1 on it holds nothing back",
    ),
    "epsilon_high": Setting(0.2, "a number above 0", _above_zero, "upper bound of the clip, 1 + this; DAPO takes 0.28"),
    "delta": Setting(
        math.inf, "a number above 0", _above_zero,
        "two-sided clip: largest ratio of a negative advantage too, more than 1 + epsilon_high",
    ),
    "epsilon_max": Setting(5.0, "a number above 0", _above_zero, "largest ratio as a weight, 5 in ScaleRL"),
    "sapo_temperature_pos": Setting(1.0, "a number above 0", _above_zero, "steepness of the gate, advantage above 0"),
    "sapo_temperature_neg": Setting(1.05, "a number above 0", _above_zero, "the same, advantage of 0 and below"),
    "entropy_coef": Setting(0.0, "a finite number", math.isfinite, "weight of the policy's mean entropy, a bonus"),
    "sequence_ratio": Setting(0.0, "0 or 1", (0.0, 1.0).__contains__, "1: a completion has one ratio, as in gspo"),
}  # fmt: skip
COMMON = ("entropy_coef", "sequence_ratio")
"""Settings that every objective takes."""


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective with all its settings, as `choose_objective` makes it."""

    kind: Kind
    settings: Settings
    beta: float = 0.0
    importance: Importance | None = None

    @property
    def sequence_ratio(self) -> bool:
        """Whether a completion has one ratio."""
        return self.settings["sequence_ratio"] == 1.0

    @property
    def needs_whole_completions(self) -> bool:
        """Whether a token's loss depends on the other tokens of its completion."""
        return self.sequence_ratio or (self.importance is not None and self.importance.whole)

    @property
    def zero_without_advantage(self) -> bool:
        """Whether a completion of advantage 0 has gradient 0, whatever the policy: every term is a multiple of it."""
        return self.beta == 0.0 and self.settings["entropy_coef"] == 0.0

    def counts_completions(self, metric: str) -> bool:
        """Whether a metric of `losses` has one value for all tokens of a completion, which then counts once."""
        if metric.startswith("importance/"):
            return self.importance is not None and self.importance.whole
        return self.sequence_ratio and metric in self.kind.flags

    def losses(self, tokens: Tokens) -> tuple[Tensor, Named]:
        """Return every token's loss, without normaliser and entropy bonus, and the metrics' values at every token.

        Shapes: [N], float32.
        """
        log_ratio_N = tokens.logprobs_N - tokens.old_N
        if self.sequence_ratio:
            log_ratio_N = completion_means(log_ratio_N, tokens.lengths)
        ratio_N = log_ratio_N.exp()
        losses_N, named = self.kind.term(tokens, ratio_N, self.settings)
        if self.importance is not None:
            difference_N = tokens.old_N - tokens.sampling_N
            if self.importance.whole:
                difference_N = completion_means(difference_N, tokens.lengths, total=True)
            correction_N = difference_N.exp()
            weight_N = self.importance.weights(correction_N)
            losses_N = losses_N * weight_N
            named |= {f"importance/{what}": weight_N for what in ("mean", "min", "max")}
            named["importance/capped"] = self.importance.outside(correction_N)
        if self.beta > 0.0:
            named["kl"] = ratio_N * k3_kl(tokens.logprobs_N, tokens.ref_N)
            losses_N = losses_N + self.beta * named["kl"]
        return losses_N, named


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
    return Objective(kind, defaults | dict(settings), beta, importance)


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


def k3_kl(token_logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference) per token, exp(d) - d - 1 with d = ref - policy.

    The loss takes it times the ratio r, which at r = 1 changes the gradient alone: that of k3, 1 - exp(d), is the
    forward KL's in expectation; with the ratio it is that of KL(policy || reference), at every r.

    Source: DeepSeekMath eq. 4; http://joschu.net/blog/kl-approx.html; the ratio from DeepSeek-V3.2 (arXiv 2512.02556),
        TRL 1.16's default (use_bias_correction_kl).

    Example:
        >>> import torch
        >>> round(k3_kl(torch.tensor([0.0]), torch.tensor([1.0])).item(), 4)
        0.7183
    """
    difference = ref_logprobs_N - token_logprobs_N
    return difference.exp() - difference - 1.0


def completion_means(values_N: Tensor, lengths: Sequence[int], *, total: bool = False) -> Tensor:
    """Return at every token the mean over its completion, or the total.

    lengths: tokens of each completion, one after another.

    Example:
        >>> import torch
        >>> completion_means(torch.tensor([1.0, 3.0, 5.0]), (2, 1)).tolist()
        [2.0, 2.0, 5.0]
    """
    import torch

    parts = values_N.split(list(lengths))
    return torch.cat([(part.sum() if total else part.mean()).expand(len(part)) for part in parts])
