"""Adapters in whole runs, plain and over 4-bit weights: what is sampled, kept, resumed, counted, and reported."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import LoraSection, ModelSection
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models import load_policy
from mathgrpo.models.lora import learning_failure, unlearnt_layers
from mathgrpo.models.quantized import linear4bit_layers
from mathgrpo.models.shape import count_parameters, is_packed
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.rollout.trial import trial_difference
from mathgrpo.runs.progress import TextProgress
from mathgrpo.training import Interrupted, plan_lines_of, train
from mathgrpo.training.train_recipe import resumed_recipe
from mathgrpo.types import Problem, Sampling
from mathgrpo.update import build_reference

HAS_BITSANDBYTES = __import__("importlib.util").util.find_spec("bitsandbytes") is not None
KINDS = [
    pytest.param("none", id="lora"),
    pytest.param("nf4", id="qlora", marks=pytest.mark.skipif(not HAS_BITSANDBYTES, reason="no bitsandbytes")),
]
needs_bitsandbytes = pytest.mark.skipif(not HAS_BITSANDBYTES, reason="no bitsandbytes")


class Quiet(TextProgress):
    """Keeps what is said; can stop a run at a step, as Ctrl-C does."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__()
        self.said: list[str] = []
        self._stop_at = stop_at

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, metrics: Any, steps: int, seconds_left: float) -> None:
        if metrics["step"] == self._stop_at:
            import signal

            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def recipe_of(folder: Path, quantization: str, **sections: dict[str, Any]) -> Recipe:
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 21)]
    (folder / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "my.py").write_text(
        "def vowels(prompts, completions, **columns):\n"
        "    return [sum(c in 'aeiou' for c in turn[0]['content']) / 4 for turn in completions]\n"
        "def flat(prompts, completions, **columns):\n"
        "    return [1.0 for turn in completions]\n"
    )
    data: dict[str, Any] = {
        "run": {"output_dir": str(folder / "runs"), "name": "whole", "seed": 3, "device": "cpu"},
        "model": {"path": str(folder / "model"), "quantization": quantization, "lora": {"r": 4, "alpha": 8}},
        "problems": {"source": str(folder / "problems.jsonl"), "heldout_size": 4},
        "format": {"name": "boxed"},
        "rewards": {f"{folder}/my.py:vowels": 1.0},
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 8},
        "optimizer": {"learning_rate": 0.01},
        "training": {"steps": 2, "checkpoint_every": 1},
    }
    merged = {name: {**data.get(name, {}), **sections.get(name, {})} for name in {*data, *sections}}
    if "rewards" in sections:
        merged["rewards"] = sections["rewards"]
    return validated(Recipe, merged)


def adapted(folder: Path, quantization: str, **lora: Any) -> Any:
    torch.manual_seed(5)
    section = ModelSection(
        path=str(folder / "model"), quantization=quantization, lora=LoraSection(r=4, alpha=8, **lora)
    )
    return load_policy(section, "cpu", train=True)


def stored_bytes(model: Any) -> int:
    """Return what a model's weights take, the 4-bit ones with the scales of their blocks."""
    tensors = list(model.parameters())
    for state in (parameter.quant_state for parameter in tensors[:] if is_packed(parameter)):
        tensors += [state.absmax, state.state2.absmax] if state.nested else [state.absmax]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def set_b(model: Any, scale: float) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def sampled(engine: Any, policy: Any, n: int = 24) -> list[Any]:
    problem = Problem(question="What is 3 + 4?", answer="7")
    prompt = encode_prompt(policy.tokenizer, problem, get_format("boxed"))
    return engine.generate([prompt], n, Sampling(max_new_tokens=6, temperature=1.0, seed=11))[0]


@pytest.mark.parametrize("quantization", KINDS)
def test_after_one_step_with_a_large_learning_rate_rollouts_are_drawn_from_another_distribution(
    folder: Path, quantization: str
) -> None:
    """The engine built before the step, the same noise: other completions, and log-probabilities of the new policy."""
    from mathgrpo.grpo import with_advantages
    from mathgrpo.rollout.groups import reward_groups, sample_groups
    from mathgrpo.training.prepare import prepare
    from mathgrpo.update import policy_update

    ready = prepare(recipe_of(folder, quantization, optimizer={"learning_rate": 0.5}))
    before = sampled(ready.engine, ready.policy)
    assert before == sampled(ready.engine, ready.policy)
    draw = Sampling(max_new_tokens=8, temperature=1.0, seed=1)
    groups = sample_groups(ready.engine, ready.policy, ready.problems.train[:2], ready.fmt, 4, draw)
    groups = with_advantages(reward_groups(groups, ready.fmt, ready.suite), "group")
    policy_update(
        ready.policy, ready.optimizer, groups, ready.recipe.grpo, temperature=1.0, max_new_tokens=8,
        max_grad_norm=1.0, reference=None, token_budget=4096,
    )  # fmt: skip
    after = sampled(ready.engine, ready.policy)
    assert [c.ids for c in before] != [c.ids for c in after]
    prompt = encode_prompt(ready.policy.tokenizer, Problem(question="What is 3 + 4?", answer="7"), ready.fmt)
    for completion in after[:6]:  # the plain forward pass of the policy as it is now says the same
        ids = torch.tensor([[*prompt.ids, *completion.ids]])
        with torch.no_grad():
            logprobs = torch.log_softmax(ready.policy.model(input_ids=ids).logits.float(), -1)[0]
        start = len(prompt.ids) - 1
        expected = [float(logprobs[start + i, token]) for i, token in enumerate(completion.ids)]
        assert completion.logprobs == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("quantization", KINDS)
def test_the_reference_is_the_model_with_its_adapter_off_and_no_second_copy(folder: Path, quantization: str) -> None:
    ids = torch.tensor([[7, 19, 30, 44, 8, 61]])
    policy = adapted(folder, quantization)
    with torch.no_grad():
        start = policy.model(input_ids=ids).logits
        set_b(policy.model, 0.3)
        trained = policy.model(input_ids=ids).logits
    reference = build_reference(policy, 0.1)
    assert reference is not None and reference.adapter_off and reference.model is policy.model
    with torch.no_grad(), reference.model.disable_adapter():
        off = reference.model(input_ids=ids).logits
    assert torch.equal(off, start) and not torch.allclose(trained, start, atol=0.1)


@pytest.mark.parametrize("quantization", KINDS)
def test_checkpoints_hold_the_adapter_alone_and_resume_bit_for_bit(folder: Path, quantization: str) -> None:
    whole = train(recipe_of(folder, quantization), recipe_name="tiny", progress=Quiet())
    cut = recipe_of(folder, quantization, run={"name": "cut"})
    with pytest.raises(Interrupted):
        train(cut, recipe_name="tiny", progress=Quiet(stop_at=1))
    run = folder / "runs" / "cut"
    train(resumed_recipe(run, []), recipe_name="tiny", resume=run, progress=Quiet())
    one, two = (load_file(r / "checkpoints" / "step-2" / "adapter_model.safetensors") for r in (whole, run))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    optimizers = [load_file(r / "checkpoints" / "step-2" / "optimizer.safetensors") for r in (whole, run)]
    assert all(torch.equal(optimizers[0][name], optimizers[1][name]) for name in optimizers[0])

    policy = adapted(folder, quantization)
    numbers = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    files = {p.name: p.stat().st_size for p in (whole / "checkpoints" / "step-2").glob("*.safetensors")}
    assert files.keys() == {"adapter_model.safetensors", "optimizer.safetensors"}
    assert all("lora_" in name for name in one) and sum(t.numel() for t in one.values()) == numbers
    assert files["adapter_model.safetensors"] < 4 * numbers + 10_000
    assert not learning_failure(load_policy(ModelSection(path=str(whole)), "cpu", train=False).model)


def test_an_adapter_that_no_gradient_reached_is_told(folder: Path) -> None:
    quiet = Quiet()
    flat = recipe_of(folder, "none", rewards={f"{folder}/my.py:flat": 1.0})
    run = train(flat, recipe_name="tiny", progress=quiet)
    [said] = [line for line in quiet.said if "did not learn" in line]
    assert "the adapter did not learn: its B matrices are still zero" in said
    assert said.removeprefix("note: ") in json.loads((run / "run.json").read_text())["notes"]


def test_a_part_of_an_adapter_that_stayed_zero_is_counted(folder: Path) -> None:
    model = adapted(folder, "none", target_modules=("q_proj", "down_proj")).model
    assert len(unlearnt_layers(model)[0]) == 4
    set_b(model, 0.1)
    assert learning_failure(model) == ""
    with torch.no_grad():
        dict(model.named_parameters())["base_model.model.model.layers.1.mlp.down_proj.lora_B.default.weight"].zero_()
    assert "did not learn in 1 of 4 layers" in learning_failure(model)
    assert "model.layers.1.mlp.down_proj" in learning_failure(model)


def test_a_model_without_an_adapter_has_nothing_to_report(folder: Path) -> None:
    assert learning_failure(tiny_model()) == ""


@needs_bitsandbytes
def test_4bit_weights_are_counted_by_what_they_stand_for(folder: Path) -> None:
    plain = count_parameters(adapted(folder, "none").model)
    model = adapted(folder, "nf4").model
    counts = count_parameters(model)
    layer = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128)  # two layers: q, k, v, o and three of the MLP
    assert (counts.total, counts.trainable, counts.quantized) == (plain.total, plain.trainable, layer)
    assert plain.quantized == 0 and stored_bytes(model) < 4 * plain.total - 3 * layer


@needs_bitsandbytes
def test_the_memory_plan_knows_4bit_weights_before_and_after_they_are_loaded(folder: Path) -> None:
    from mathgrpo.models.shape import model_sizes, sizes_ahead
    from mathgrpo.training.memory_plan import plan_memory

    recipe, model = recipe_of(folder, "nf4"), adapted(folder, "nf4").model
    ahead, loaded = sizes_ahead(recipe.model), model_sizes(model)
    assert ahead is not None and loaded is not None and ahead.quantized == loaded.quantized == 73_728
    plan = plan_memory(loaded, recipe, compute_bytes=4, longest_prompt=20, device=None, kind="cpu")
    stored = stored_bytes(model)
    assert 0.97 * stored < plan.weights < 1.05 * stored
    kept = plan_memory(
        loaded, recipe_of(folder, "nf4"), machinery=Machinery(dequantize="off"), compute_bytes=4, longest_prompt=20,
        device=None, kind="cpu",
    )  # fmt: skip
    assert plan.copies > 0 and kept.copies == 0


@needs_bitsandbytes
def test_the_plan_shows_what_trains_and_what_is_4bit_and_how_rollouts_are_decoded(folder: Path) -> None:
    lines = "\n".join(plan_lines_of(recipe_of(folder, "nf4"), "tiny"))
    assert "89,024 parameters, 8,192 train (LoRA), 73,728 in 4-bit" in lines
    assert "4-bit matrices written out for each rollout" in lines
    assert "written out" not in "\n".join(
        plan_lines_of(recipe_of(folder, "nf4"), "tiny", machinery=Machinery(dequantize="off"))
    )


@needs_bitsandbytes
def test_written_out_matrices_decode_as_the_4bit_layers_do(folder: Path) -> None:
    policy = adapted(folder, "nf4")
    set_b(policy.model, 0.1)
    assert trial_difference(NativeEngine(policy, fused_decoder(policy)), policy) < 1e-3
    fast, plain = build_engine(policy), build_engine(policy, dequantize=False)
    assert fast.reason != plain.reason and "slot cache" in plain.reason
    assert [c.ids for c in sampled(fast, policy)] == [c.ids for c in sampled(plain, policy)]
    assert all(not layer.support_avx512bf16_for_cpu for layer in linear4bit_layers(policy.model))


@needs_bitsandbytes
def test_the_scales_are_quantised_too(folder: Path) -> None:
    policy = load_policy(ModelSection(path=str(folder / "model"), quantization="nf4"), "cpu", train=False)
    assert all(layer.weight.quant_state.nested for layer in linear4bit_layers(policy.model))


def test_4bit_weights_need_an_adapter_before_anything_is_read(folder: Path) -> None:
    data = recipe_of(folder, "none").model_copy(update={"model": ModelSection(path="nothing", quantization="nf4")})
    with pytest.raises(UserError, match=r"model.quantization=nf4: 4-bit weights cannot train"):
        plan_lines_of(data, "tiny")


def test_without_bitsandbytes_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "mathgrpo\[qlora\]"'):
        adapted(folder, "nf4")
