"""Importance weights: what a sampler with other numerics than the trainer's needs to be on-policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Importance:
    """How the policy loss is weighed for a sampler with other numerics: by v = p_trainer / p_sampler.

    Source: truncated importance sampling, Yao et al. 2025 (https://fengyao.notion.site/off-policy-rl); TRL 1.16, the
        four values of vllm_importance_sampling_mode. As there it multiplies the policy loss, not the KL term.

    Attributes:
        low, high: bounds of v; None: no bound.
        mask: what is outside gets weight 0; else it is moved to the nearest bound.
        whole: v is of all tokens of a completion together, and the same for each; else of each token.
    """

    low: float | None = None
    high: float | None = 3.0
    mask: bool = True
    whole: bool = True

    def weights(self, ratio_N: Tensor) -> Tensor:
        """Return the weight for every ratio.

        Example:
            >>> import torch
            >>> Importance(high=3.0).weights(torch.tensor([0.5, 4.0])).tolist()
            [0.5, 0.0]
        """
        if not self.mask:
            return ratio_N.clamp(min=self.low, max=self.high)
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return ratio_N.masked_fill((ratio_N < low) | (ratio_N > high), 0.0)

    def outside(self, ratio_N: Tensor) -> Tensor:
        """Return which ratios reach a bound."""
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return (ratio_N <= low) | (ratio_N >= high)
