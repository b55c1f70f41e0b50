from __future__ import annotations

import math

import pytest
import torch

from mathgrpo.errors import UserError
from mathgrpo.grpo.importance import Importance
from mathgrpo.grpo.loss import Objective, Tokens, completion_weights, k3_kl
from mathgrpo.grpo.objectives import OBJECTIVES, SETTINGS, choose_objective, objective_errors

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
        weights = completion_weights(OBJECTIVES[loss].normaliser, LENGTHS, kept, 10)
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_weights_are_finite_without_tokens() -> None:
    for kind in OBJECTIVES.values():
        weights = completion_weights(kind.normaliser, torch.tensor([0, 0]), torch.tensor([False, True]), 10)
        assert torch.isfinite(weights).all()


RATIO, ADVANTAGE = [1.5, 1.5, 0.5, 0.5, 1.1], [2.0, -2.0, 2.0, -2.0, 2.0]


def objective(name: str, **settings: float) -> Objective:
    bounds = {"epsilon_high": 0.3} if "epsilon_high" in OBJECTIVES[name].settings else {}
    return choose_objective(name, bounds | settings)


def tokens(ratio: list[float], advantage: list[float], lengths: tuple[int, ...] = ()) -> Tokens:
    """Tokens of these ratios, with a gradient."""
    old, advantages = torch.full((len(ratio),), -1.0), torch.tensor(advantage)
    logprobs = (old + torch.tensor(ratio).log()).requires_grad_()
    return Tokens(logprobs, old, old, old, advantages, lengths)


def losses_and_slopes(
    name: str, given: Tokens, **settings: float
) -> tuple[list[float], list[float], dict[str, list[bool]]]:
    losses, named = objective(name, **settings).losses(given)
    (slopes,) = torch.autograd.grad(losses.sum(), given.logprobs_N)
    return losses.tolist(), slopes.tolist(), {key: value.tolist() for key, value in named.items()}


def test_the_clip_by_hand() -> None:
    """-min(1.5*2, 1.3*2) = -2.6; -min(-3, -2.6) = 3; -min(1, 1.6) = -1; -min(-1, -1.6) = 1.6; -2.2."""
    losses, slopes, flags = losses_and_slopes("dapo", tokens(RATIO, ADVANTAGE))
    assert losses == pytest.approx([-2.6, 3.0, -1.0, 1.6, -2.2])
    assert flags["clip_ratio/low"] == [False, False, False, True, False]
    assert flags["clip_ratio/high"] == [True, False, False, False, False]
    assert [slope == 0.0 for slope in slopes] == [True, False, False, True, False]


def test_delta_bounds_what_a_negative_advantage_adds() -> None:
    losses, slopes, _ = losses_and_slopes("grpo", tokens([9.0, 3.0, 9.0], [-1.0, -1.0, 1.0]), delta=4.0)
    assert losses == pytest.approx([4.0, 3.0, -1.3])
    assert slopes == pytest.approx([0.0, 3.0, 0.0])


def test_cispo_by_hand() -> None:
    """-min(r, 5) A log p, whose slope is -min(r, 5) A: no token is left without."""
    losses, slopes, flags = losses_and_slopes("cispo", tokens([2.0, 8.0, 8.0], [1.0, 1.0, -1.0]))
    assert slopes == pytest.approx([-2.0, -5.0, 5.0])
    assert losses == pytest.approx([-2.0 * (math.log(2) - 1), -5.0 * (math.log(8) - 1), 5.0 * (math.log(8) - 1)])
    assert flags["cispo_clip_ratio"] == [False, True, False]
    assert losses_and_slopes("cispo", tokens([2.0], [1.0]), epsilon_max=1.5)[1] == pytest.approx([-1.5])


def test_sapo_by_hand() -> None:
    """At ratio 1 the slope is -A, as everywhere; away from it -4 s (1 - s) r A with s = sigmoid(tau (r - 1))."""
    losses, slopes, _ = losses_and_slopes("sapo", tokens([1.0, 1.0, 3.0, 3.0], [1.0, -1.0, 1.0, -1.0]))
    gates = [1 / (1 + math.exp(-tau * 2.0)) for tau in (1.0, 1.05)]
    assert slopes[:2] == pytest.approx([-1.0, 1.0])
    assert slopes[2:] == pytest.approx([-12 * gates[0] * (1 - gates[0]), 12 * gates[1] * (1 - gates[1])], rel=1e-5)
    assert losses == pytest.approx([-2.0, 2.0 / 1.05, -4 * gates[0], 4 * gates[1] / 1.05], rel=1e-5)


def test_gspo_has_one_ratio_for_a_completion() -> None:
    """The geometric mean of 4 and 1 is 2; each of the two tokens has half the slope of the two losses of 2 A."""
    given = tokens([4.0, 1.0, 0.9], [-1.0, -1.0, 1.0], (2, 1))
    losses, slopes, flags = losses_and_slopes("gspo", given)
    assert losses == pytest.approx([2.0, 2.0, -0.9]) and slopes == pytest.approx([2.0, 2.0, -0.9])
    assert flags["clip_ratio/high"] == [False] * 3
    same, _, _ = losses_and_slopes("dapo", given, sequence_ratio=1.0)
    assert (
        same == losses and objective("gspo").needs_whole_completions and not objective("dapo").needs_whole_completions
    )
    assert objective("gspo", sequence_ratio=0.0).losses(given)[0].tolist() == pytest.approx([4.0, 1.0, -0.9])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_a_step_every_objective_is_the_plain_policy_gradient(name: str) -> None:
    """At ratio 1 the slope of every token's loss is -A, summed over a completion's tokens for whole ratios."""
    _, slopes, _ = losses_and_slopes(name, tokens([1.0] * 3, [2.0, 2.0, -1.0], (2, 1)))
    assert slopes == pytest.approx([-2.0, -2.0, 1.0])
    losses, _ = objective(name).losses(tokens([1.3] * 2, [0.0, 0.0], (2,)))
    assert losses.tolist() == [0.0, 0.0] and objective(name).zero_without_advantage


def test_an_objective_says_whether_a_zero_advantage_means_a_zero_gradient() -> None:
    assert not objective("dapo", entropy_coef=0.1).zero_without_advantage
    assert not choose_objective("dapo", {}, beta=0.1).zero_without_advantage


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("ppo", {}, 'grpo.loss="ppo": not one of the names'),
        ("cispo", {"delta": 4.0}, 'grpo.loss_settings.delta=4: grpo.loss="cispo" has no such setting'),
        ("dapo", {"detla": 4.0}, 'did you mean "delta"?'),
        ("dapo", {"delta": 0.0}, "grpo.loss_settings.delta=0: out of range; allowed: a number above 0"),
        ("sapo", {"epsilon_low": 0.1}, 'grpo.loss_settings.epsilon_low=0.1: grpo.loss="sapo" has no such setting'),
        ("cispo", {"epsilon_high": 0.1}, 'has no such setting; did you mean "epsilon_max"?'),
        ("gspo", {"epsilon_low": 0.0}, "grpo.loss_settings.epsilon_low=0: out of range; allowed: a number above 0"),
        ("dapo", {"epsilon_high": math.inf}, "grpo.loss_settings.epsilon_high=inf: out of range"),
        ("dapo", {"sequence_ratio": 0.5}, "allowed: 0 or 1"),
        ("dapo", {"entropy_coef": math.nan}, "allowed: a finite number"),
    ],
)
def test_unknown_names_and_settings_are_one_clear_line(name: str, settings: dict[str, float], line: str) -> None:
    (error,) = objective_errors(name, settings)
    assert line in error and "\n" not in error
    with pytest.raises(UserError, match=r"grpo\.loss"):
        choose_objective(name, settings)


def test_the_tables_of_names_are_whole() -> None:
    assert all(key in SETTINGS for kind in OBJECTIVES.values() for key in kind.settings)
    assert all(setting.fits(setting.default) or key == "delta" for key, setting in SETTINGS.items())


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
    """p_trainer / p_sampler = e^(old - sampling), cut at the cap from above only; then masked; then of whole ones."""
    ratio = torch.tensor([1.0, math.exp(0.5), math.exp(-2.0), math.exp(2.0)])
    cut = Importance(high=3.0, mask=False, whole=False)
    assert cut.weights(ratio).tolist() == pytest.approx([1.0, math.exp(0.5), math.exp(-2.0), 3.0])
    assert cut.outside(ratio).tolist() == [False, False, False, True]
    assert Importance(0.5, 3.0, whole=False).weights(ratio).tolist() == pytest.approx([1.0, math.exp(0.5), 0.0, 0.0])
    old, sampling = torch.zeros(3), torch.tensor([-0.5, -0.4, -2.0])
    whole = choose_objective("dapo", {}, importance=Importance())
    losses, named = whole.losses(Tokens(old, old, old, sampling, torch.ones(3), (2, 1)))
    assert losses.tolist() == pytest.approx([-math.exp(0.9), -math.exp(0.9), 0.0])
    assert named["importance/mean"].tolist() == pytest.approx([math.exp(0.9), math.exp(0.9), 0.0])
    assert whole.needs_whole_completions and whole.counts_completions("importance/mean")
