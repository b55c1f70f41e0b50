"""Which parameters train and decay, and that the optimizer's state survives a round trip."""

from __future__ import annotations

import torch

from fakes import tiny_model
from mathgrpo.config.recipe import OptimizerSection
from mathgrpo.optim.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from mathgrpo.training.loop import set_learning_rate


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_only_matrices_decay() -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerSection(learning_rate=0.5, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        # AdamW with gradient 0: w - lr * decay * w = 0.75 w
        expected = before[name] if parameter.ndim == 1 else 0.75 * before[name]
        assert torch.allclose(parameter, expected), name


def test_frozen_parameters_are_not_in_it_and_tied_ones_once() -> None:
    model = tiny_model()
    model.model.layers[0].requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerSection())
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len({id(p) for p in owned}) == len(owned)
    assert {id(p) for p in owned} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_restored_optimizer_takes_the_same_step_bit_for_bit() -> None:
    section = OptimizerSection(learning_rate=0.01)
    one, two = tiny_model(), tiny_model()
    first, second = build_optimizer(one, section), build_optimizer(two, section)
    step(one, first, 1)
    step(one, first, 2)
    two.load_state_dict(one.state_dict())
    load_optimizer_tensors(two, second, {name: t.clone() for name, t in optimizer_tensors(one, first).items()})
    for optimizer in (first, second):
        set_learning_rate(optimizer, 0.003)
    step(one, first, 3)
    step(two, second, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
