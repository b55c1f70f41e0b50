from __future__ import annotations

import math

import pytest
import torch

from mathgrpo.grpo.loss import clip_flags, clipped_policy_loss, completion_weights, importance_weights, k3_kl

LENGTHS = torch.tensor([2, 4, 2])
ALL = torch.tensor([True, True, True])
TWO = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    ("loss", "all_kept", "one_masked"),
    [
        # 1 / (3 * length); R stays 3 when one is masked.
        ("grpo", [1 / 6, 1 / 12, 1 / 6], [1 / 6, 0, 1 / 6]),
        # 8 tokens; 4 when the long one is masked.
        ("dapo", [1 / 8] * 3, [1 / 4, 0, 1 / 4]),
        ("bnpo", [1 / 8] * 3, [1 / 4, 0, 1 / 4]),
        # 3 completions of at most 10 tokens.
        ("dr_grpo", [1 / 30] * 3, [1 / 30, 0, 1 / 30]),
    ],
)
def test_weights_by_hand(loss: str, all_kept: list[float], one_masked: list[float]) -> None:
    for kept, expected in ((ALL, all_kept), (TWO, one_masked)):
        weights = completion_weights(loss, LENGTHS, kept, 10)  # type: ignore[arg-type]
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_weights_are_finite_without_tokens() -> None:
    for loss in ("grpo", "dapo", "bnpo", "dr_grpo"):
        weights = completion_weights(loss, torch.tensor([0, 0]), torch.tensor([False, True]), 10)  # type: ignore[arg-type]
        assert torch.isfinite(weights).all()


def test_clipped_policy_loss_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    # -min(1.5*2, 1.3*2) = -2.6; -min(-3, -2.6) = 3; -min(1, 1.6) = -1; -min(-1, -1.6) = 1.6; -2.2
    expected = torch.tensor([-2.6, 3.0, -1.0, 1.6, -2.2])
    torch.testing.assert_close(clipped_policy_loss(ratio, advantage, 0.2, 0.3), expected)


def test_gradient_vanishes_exactly_where_a_clip_flag_is_set() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    clipped_policy_loss(ratio, advantage, 0.2, 0.3).sum().backward()
    low, high = clip_flags(ratio.detach(), advantage, 0.2, 0.3)
    assert low.tolist() == [False, False, False, True, False]
    assert high.tolist() == [True, False, False, False, False]
    assert ratio.grad is not None
    assert ((ratio.grad == 0) == (low | high)).all()


def test_k3_by_hand_and_never_negative() -> None:
    # d = ref - policy = ln 2: 2 - ln 2 - 1.
    value = k3_kl(torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)]))
    assert value.item() == pytest.approx(1 - math.log(2), abs=1e-6)
    assert k3_kl(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0.0
    assert (k3_kl(torch.linspace(-5, 0, 50), torch.full((50,), -2.0)) >= 0).all()


def test_k3_times_ratio_has_the_gradient_of_the_reverse_kl() -> None:
    """In expectation over the policy, which a sum over the whole vocabulary makes exact."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], requires_grad=True)
    ref = torch.tensor([0.5, 0.5, -0.2, 0.0]).log_softmax(-1)
    logprobs = logits.log_softmax(-1)
    probs = logprobs.detach().exp()
    (exact,) = torch.autograd.grad((logprobs.exp() * (logprobs - ref)).sum(), logits, retain_graph=True)
    ratio = torch.exp(logprobs - logprobs.detach())
    (ours,) = torch.autograd.grad((probs * ratio * k3_kl(logprobs, ref)).sum(), logits, retain_graph=True)
    (without_ratio,) = torch.autograd.grad((probs * k3_kl(logprobs, ref)).sum(), logits)
    torch.testing.assert_close(ours, exact)
    assert (without_ratio - exact).abs().max() > 1e-2


def test_importance_weights_by_hand() -> None:
    """p_trainer / p_sampler = e^(old - sampling), cut at the cap from above only."""
    old, sampling = torch.tensor([-1.0, -1.0, -3.0, 0.0]), torch.tensor([-1.0, -1.5, -1.0, -2.0])
    expected = [1.0, math.exp(0.5), math.exp(-2.0), 3.0]
    assert importance_weights(old, sampling, 3.0).tolist() == pytest.approx(expected)
