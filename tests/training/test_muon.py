"""PyTorch's Muon as the supervised training uses it, against the algorithm in float32 from its source.

Source: Jordan et al., https://kellerjordan.github.io/posts/muon/ (Newton-Schulz coefficients, Nesterov momentum).
torch.optim.Muon iterates in bfloat16, so a step is the reference's within bfloat16's rounding and no closer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fakes import tiny_model
from mathgrpo.config.sft_recipe import SftOptimizerSection
from mathgrpo.supervised.sft_steps import _optimizers

RATE = 0.02


def reference_step(weight: Tensor, gradient: Tensor, running: Tensor) -> None:
    """Take one step of Muon in float32, in place."""
    running.lerp_(gradient, 0.05)
    x = gradient.lerp(running, 0.95)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    weight -= RATE * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5 * (x.T if tall else x)


def muon_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    section = SftOptimizerSection(name="muon", matrix_learning_rate=RATE)
    [(_, _), (muon, rate)] = _optimizers(model, section)
    assert rate == RATE
    return muon


def test_it_moves_every_matrix_of_the_layers_as_the_algorithm_does() -> None:
    model = tiny_model()
    muon = muon_of(model)
    matrices: list[Tensor] = muon.param_groups[0]["params"]
    assert len(matrices) == sum(p.ndim == 2 and ".layers." in name for name, p in model.named_parameters())
    expected = [weight.detach().clone() for weight in matrices]
    running = [torch.zeros_like(weight) for weight in matrices]
    for step in range(3):
        noise = torch.Generator().manual_seed(step)
        before = [weight.detach().clone() for weight in matrices]
        for weight, copy, average in zip(matrices, expected, running, strict=True):
            weight.grad = torch.randn(weight.shape, generator=noise)
            reference_step(copy, weight.grad, average)
        muon.step()
        for weight, copy, old in zip(matrices, expected, before, strict=True):
            assert (weight - copy).norm() < 0.05 * (copy - old).norm()


def test_training_reaches_the_loss_that_the_float32_algorithm_reaches() -> None:
    ids = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(0))
    losses = []
    for use_reference in (False, True):
        torch.manual_seed(0)
        model = tiny_model()
        muon = muon_of(model)
        matrices: list[Tensor] = muon.param_groups[0]["params"]
        running = [torch.zeros_like(weight) for weight in matrices]
        for _ in range(30):
            model.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            if not use_reference:
                muon.step()
                continue
            with torch.no_grad():
                for weight, average in zip(matrices, running, strict=True):
                    assert weight.grad is not None
                    reference_step(weight, weight.grad, average)
        losses.append(loss.item())
    start = model.__class__(model.config)(input_ids=ids, labels=ids).loss.item()
    assert losses[0] < 0.9 * start and abs(losses[0] - losses[1]) < 0.02 * losses[1]
