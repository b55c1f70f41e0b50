"""Loss, gradient and advantages against the real GRPOTrainer of TRL, on identical rollouts."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.grpo import with_advantages
from mathgrpo.grpo.objectives import OBJECTIVES
from mathgrpo.update import build_reference
from update.grpo_cases import MAX_NEW_TOKENS, TinyPolicy, largest_difference, make_groups, update

LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo"]
NUM_GROUPS, GROUP_SIZE, BETA = 3, 4, 0.3


class Oracle:
    """A GRPOTrainer whose rollouts and rewards are ours; everything after them is TRL's."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.start = {k: v.clone() for k, v in trainer.model.state_dict().items()}

    def inputs(self, groups: list[Any], *, beta: float, scale: str, mask_truncated: bool) -> dict[str, Any]:
        """Return TRL's own batch: its advantages, masks, reference log-probabilities and token count."""
        trainer = self.trainer
        trainer.model.load_state_dict(self.start)
        trainer.model.train()
        trainer.beta, trainer.scale_rewards, trainer.mask_truncated_completions = beta, scale, mask_truncated
        rows = [(group, g) for group in groups for g in range(len(group.completions))]
        trainer.rollout = {
            "prompt_ids": [list(group.prompt.ids) for group, _ in rows],
            "completion_ids": [list(group.completions[g].ids) for group, g in rows],
            "logprobs": [list(group.completions[g].logprobs) for group, g in rows],
        }
        examples = [{"prompt": "x", "reward": group.rewards[g]} for group, g in rows]
        batch: dict[str, Any] = trainer._generate_and_score_completions(examples)
        return batch

    def gradient(
        self, batch: dict[str, Any], loss_type: str, *, level: str = "token", high: float = 0.28, **args: float
    ) -> tuple[float, dict[str, torch.Tensor]]:
        """Return loss and gradient by TRL. args: fields of its GRPOConfig, put back afterwards."""
        trainer = self.trainer
        trainer.loss_type, trainer.importance_sampling_level, trainer.epsilon_high = loss_type, level, high
        trainer.entropy_coef = args.pop("entropy_coef", 0.0)
        trainer._entropy_bonus_enabled = trainer.entropy_coef != 0.0
        before = {name: getattr(trainer.args, name) for name in args}
        vars(trainer.args).update(args)
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        vars(trainer.args).update(before)
        return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}

    def two_steps(
        self, batch: dict[str, Any], loss_type: str, lr: float, **settings: Any
    ) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
        """Return the losses and gradients of two steps of plain SGD on one rollout, the ratios to the first policy."""
        trainer = self.trainer
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with torch.no_grad():
            length = batch["completion_ids"].shape[1]
            old, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length)
        batch = batch | {"old_per_token_logps": old}
        losses, gradients = [], []
        for _ in range(2):
            value, gradient = self.gradient(batch, loss_type, **settings)
            with torch.no_grad():
                for name, parameter in trainer.model.named_parameters():
                    parameter -= lr * gradient[name]
            losses.append(value)
            gradients.append(gradient)
        return losses, gradients


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    path = tmp_path_factory.mktemp("trl")
    tiny_model(seed=0).save_pretrained(path / "model")
    tokenizer = tiny_tokenizer()
    config = trl.GRPOConfig(
        output_dir=str(path / "out"), use_cpu=True, bf16=False, report_to=[], beta=BETA, temperature=0.8,
        per_device_train_batch_size=NUM_GROUPS * GROUP_SIZE, num_generations=GROUP_SIZE,
        max_completion_length=MAX_NEW_TOKENS, epsilon=0.2, epsilon_high=0.28, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=str(path / "model"), args=config, processing_class=tokenizer,
        reward_funcs=lambda prompts, completions, reward, **_: reward,
        train_dataset=Dataset.from_list([{"prompt": "x", "reward": 0.0}] * 12),
        rollout_func=lambda prompts, trainer: trainer.rollout,
    )  # fmt: skip
    # A reference that differs from the policy, so that the KL term has a value and a gradient.
    trainer.ref_model.load_state_dict(tiny_model(seed=1).state_dict())
    trainer.current_gradient_accumulation_steps = 1
    return Oracle(trainer)


@pytest.mark.parametrize("scale", ["group", "none", "batch"])
def test_advantages_equal_trl(oracle: Oracle, scale: str) -> None:
    groups = with_advantages(make_groups(same_rewards=(1,)), scale)  # type: ignore[arg-type]
    batch = oracle.inputs(groups, beta=0.0, scale=scale, mask_truncated=False)
    ours = torch.tensor([value for group in groups for value in group.advantages])
    torch.testing.assert_close(ours, batch["advantages"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_equal_trl(oracle: Oracle, loss: str, beta: float, mask_truncated: bool) -> None:
    groups = make_groups(same_rewards=(1,))
    batch = oracle.inputs(groups, beta=beta, scale="group", mask_truncated=mask_truncated)
    expected_loss, expected = oracle.gradient(batch, loss)
    reference = build_reference(TinyPolicy(tiny_model(seed=1)), beta)
    stats, (gradient,) = update(
        tiny_model(seed=0), groups, loss=loss, beta=beta, mask_truncated=mask_truncated,
        loss_settings={"epsilon_high": 0.28}, temperature=0.8, reference=reference, token_budget=24,
    )  # fmt: skip
    assert stats.micro_batches > 1
    assert stats.metrics["loss"] == pytest.approx(expected_loss, abs=1e-5)
    assert largest_difference(gradient, expected) < 1e-5
    if beta:
        assert stats.metrics["kl"] == pytest.approx(oracle.trainer._metrics["train"]["kl"][-1], rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("loss", LOSSES)
def test_second_update_on_the_same_rollouts_equals_trl(oracle: Oracle, loss: str, beta: float) -> None:
    """The learning rate is so large that the second update meets both clip bounds."""
    groups, lr = make_groups(seed=3), 0.05
    batch = oracle.inputs(groups, beta=beta, scale="group", mask_truncated=False)
    losses, expected = oracle.two_steps(batch, loss, lr)
    low, high = (oracle.trainer._metrics["train"][f"clip_ratio/{side}_mean"][-1] for side in ("low", "high"))
    assert low > 0 and high > 0, "the case must reach both bounds"
    reference = build_reference(TinyPolicy(tiny_model(seed=1)), beta)
    stats, gradients = update(
        tiny_model(seed=0), groups, lr=lr, loss=loss, beta=beta, loss_settings={"epsilon_high": 0.28},
        temperature=0.8, reference=reference, updates_per_rollout=2, token_budget=40,
    )  # fmt: skip
    assert stats.metrics["loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)
    # The first update clips nothing, so the mean over both is half the second's.
    assert stats.metrics["clip_ratio/low"] == pytest.approx(low / 2, abs=1e-6)
    assert stats.metrics["clip_ratio/high"] == pytest.approx(high / 2, abs=1e-6)
    assert largest_difference(gradients[0], expected[0]) < 1e-5
    assert largest_difference(gradients[1], expected[1]) < 1e-4


# name in a recipe, its settings, how TRL is told the same
OTHERS: list[tuple[str, dict[str, float], dict[str, Any]]] = [
    ("gspo", {}, {"loss_type": "grpo", "level": "sequence"}),
    ("dapo", {"sequence_ratio": 1.0}, {"loss_type": "dapo", "level": "sequence"}),
    ("dr_grpo", {"sequence_ratio": 1.0}, {"loss_type": "dr_grpo", "level": "sequence"}),
    ("cispo", {"epsilon_max": 1.3}, {"loss_type": "cispo", "high": 1.3}),
    ("cispo", {"sequence_ratio": 1.0}, {"loss_type": "cispo", "high": 5.0, "level": "sequence"}),
    ("sapo", {}, {"loss_type": "sapo"}),
    ("sapo", {"sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0, "sequence_ratio": 1.0},
     {"loss_type": "sapo", "level": "sequence", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0}),
    ("dapo", {"delta": 1.1}, {"loss_type": "dapo", "delta": 1.1}),
    ("grpo", {"delta": 1.1}, {"loss_type": "grpo", "delta": 1.1}),
    ("dapo", {"entropy_coef": 0.3}, {"loss_type": "dapo", "entropy_coef": 0.3}),
    ("grpo", {"entropy_coef": -0.2}, {"loss_type": "grpo", "entropy_coef": -0.2}),
    ("gspo", {"entropy_coef": 0.3}, {"loss_type": "grpo", "level": "sequence", "entropy_coef": 0.3}),
]  # fmt: skip


@pytest.mark.parametrize(("beta", "masked"), [(0.0, False), (BETA, True)])
@pytest.mark.parametrize(("name", "settings", "told"), OTHERS, ids=lambda value: str(value))
def test_every_other_objective_equals_trl_in_both_steps(
    oracle: Oracle, name: str, settings: dict[str, float], told: dict[str, Any], beta: float, masked: bool
) -> None:
    """The second step of one rollout, with ratios well away from 1; a sequence's ratio has a gradient in the first."""
    groups, lr, told = make_groups(seed=3, same_rewards=(1,)), 0.05, dict(told)
    bounds = {"epsilon_high": 0.28} if "epsilon_high" in OBJECTIVES[name].settings else {}
    batch = oracle.inputs(groups, beta=beta, scale="group", mask_truncated=masked)
    losses, expected = oracle.two_steps(batch, told.pop("loss_type"), lr, **told)
    reference = build_reference(TinyPolicy(tiny_model(seed=1)), beta)
    stats, gradients = update(
        tiny_model(seed=0), groups, lr=lr, loss=name, loss_settings=bounds | settings, beta=beta, mask_truncated=masked,
        temperature=0.8, reference=reference, updates_per_rollout=2, token_budget=20,
    )  # fmt: skip
    assert stats.micro_batches > 1
    assert stats.metrics["loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert largest_difference(gradients[0], expected[0]) < 1e-5
    assert largest_difference(gradients[1], expected[1]) < 1e-4
    metrics = oracle.trainer._metrics["train"]
    ours = {"cispo": "cispo_clip_ratio", "sapo": "sapo"}.get(name, "clip_ratio/high")
    assert (ours in stats.metrics) == (name != "sapo")
    if name != "sapo" and not masked:  # the first step holds nothing back
        theirs = metrics[ours.replace("/high", "/high_mean")][-1]
        assert stats.metrics[ours] == pytest.approx(theirs / 2, abs=1e-6)


def test_parity_would_notice_a_wrong_sign_mask_or_normaliser(oracle: Oracle) -> None:
    groups = make_groups()
    batch = oracle.inputs(groups, beta=0.0, scale="group", mask_truncated=False)
    _, (ours,) = update(tiny_model(seed=0), groups, loss="dapo", temperature=0.8)
    assert largest_difference(ours, oracle.gradient(batch, "dapo")[1]) < 1e-5
    without_end = batch["completion_mask"].clone()
    for row in without_end:
        row[row.sum() - 1] = 0
    wrong = [
        {**batch, "advantages": -batch["advantages"]},
        {**batch, "completion_mask": without_end},
        {**batch, "num_items_in_batch": batch["num_items_in_batch"] + 1},
    ]
    for changed in wrong:
        assert largest_difference(ours, oracle.gradient(changed, "dapo")[1]) > 1e-2
    assert largest_difference(ours, oracle.gradient(batch, "grpo")[1]) > 1e-2
