"""Every kind of adapter, its weights moved after the engine was chosen: rollouts are the policy's, or it is refused."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

from adapter_kinds import KINDS, LEFT_OUT, OTHERS, REFUSED, move, with_adapter
from fakes import tiny_model, tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.models import Policy, policy_from
from mathgrpo.models.known_modules import why_unknown
from mathgrpo.models.lora import merged
from mathgrpo.models.moved_weights import moved
from mathgrpo.rollout import Engine, build_engine
from mathgrpo.rollout.cuda.graph_engine import GraphEngine
from mathgrpo.rollout.cuda.kernels import TorchKernels
from mathgrpo.rollout.vllm.pushed_weights import plain_config, require_complete, served_weights
from mathgrpo.types import Prompt, Sampling
from mathgrpo.update import build_reference
from update.grpo_cases import largest_difference, make_groups, update

FEW = (
    "LORA/all-linear", "LORA/dora", "LORA/embedding", "LORA/head", "LORA/tied_on_purpose", "LORA/saved_norms",
    "LORA/saved_embedding_and_head", "LORA/bias", "LORA/lora_bias", "LORA/tokens", "ADAPTION_PROMPT", "IA3",
    "LN_TUNING", "OFT", "VERA",
)  # fmt: skip
FOLDED = ("embedding", "head", "saved", "bias", "tokens", "plain", "rslora", "pissa", "LN_TUNING", "TRAINABLE_TOKENS")
"""Parts of the names of kinds that are written down as weights, so that the fast path serves them."""
PROMPTS = [Prompt(tuple(3 + (7 * i) % 90 for i in range(length)), length) for length in (5, 17)]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def policy_of(model: Any) -> Policy:
    return policy_from(model.eval(), tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


@torch.no_grad()
def off_by(engine: Engine, model: Any) -> float:
    """Return the largest difference of a rollout's log-probabilities from the PEFT model's own, in nats."""
    worst = 0.0
    for prompt, group in zip(PROMPTS, engine.generate(PROMPTS, 3, Sampling(max_new_tokens=16, seed=1)), strict=True):
        for completion in group:
            logits = model(input_ids=torch.tensor([[*prompt.ids, *completion.ids]]), use_cache=False).logits[0]
            taken = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1].gather(-1, torch.tensor(completion.ids)[:, None])
            worst = max(worst, float((taken[:, 0] - torch.tensor(completion.logprobs)).abs().max()))
    return worst


def require_right(name: str, *, tied: bool, architecture: str = "qwen2") -> Engine:
    """Choose the engine while the adapter is fresh, move the weights, and hold rollout and gradient against plain."""
    architecture = "llama" if name == "ADAPTION_PROMPT" else architecture
    model = with_adapter(KINDS[name], tied=tied, architecture=architecture)
    engine = build_engine(policy_of(model))
    move(model)
    assert off_by(engine, model) < 1e-3, engine.reason
    if name != "LORA/dropout":
        (_, (packed,)), (_, (plain,)) = update(model, make_groups()), update(model, make_groups(), shared_prompt=False)
        assert largest_difference(packed, plain) < 1e-4
    return engine


@pytest.mark.parametrize(("number", "name"), enumerate(FEW))
def test_rollout_and_gradient_are_those_of_the_adapted_model(number: int, name: str) -> None:
    engine = require_right(name, tied=number % 3 > 0)
    folded = any(part in name for part in FOLDED) and "lora_bias" not in name
    assert engine.reason.startswith("compiled decoder") is (folded or name == "LORA/all-linear" or "tied" in name)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind(name: str, tied: bool, architecture: str) -> None:
    require_right(name, tied=tied, architecture=architecture)


def test_every_kind_of_peft_is_in_a_table() -> None:
    from peft import PeftType

    known = OTHERS.keys() | REFUSED.keys() | LEFT_OUT.keys()
    assert {kind.value for kind in PeftType} <= known


@pytest.mark.parametrize("name", REFUSED)
def test_what_computes_outside_the_layers_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^model tiny: its adapter .* is not served; use one that lives in the layers"):
        policy_of(with_adapter(REFUSED[name]))


def test_a_mixture_of_saved_adapters_is_refused() -> None:
    from peft import XLoraConfig, get_peft_model

    saved = tempfile.mkdtemp()
    trained = with_adapter(KINDS["LORA/plain"])
    move(trained)
    trained.save_pretrained(saved)
    model, adapters = tiny_model(), {"0": saved, "1": saved}
    model.config.use_cache = False
    with pytest.raises(UserError, match=r"its adapter \(LORA, XLORA\)"):
        policy_of(get_peft_model(model, XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters=adapters)))


def test_an_adapter_is_seen_on_off_and_beside_a_second_one() -> None:
    from peft import LoraConfig

    model = with_adapter(KINDS["LORA/embedding"])
    model.add_adapter("second", LoraConfig(r=2, target_modules=["embed_tokens", "o_proj"]))
    engine = build_engine(policy_of(model))
    model.base_model.set_adapter(["default", "second"])
    move(model)
    both = off_by(engine, model)
    model.set_adapter("second")
    assert max(both, off_by(engine, model)) < 1e-3
    with model.disable_adapter():
        assert off_by(engine, model) < 1e-3
    model.merge_adapter(["second"])
    assert off_by(engine, model) < 1e-3 and engine.reason.startswith("compiled decoder")


@pytest.mark.parametrize("name", ["LORA/tied_on_purpose", "LORA/saved_norms", "LN_TUNING"])
def test_weights_that_were_moved_are_back_bit_for_bit(name: str) -> None:
    model = with_adapter(KINDS[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), moved(model):
        assert not any(
            torch.equal(before[key], value) for key, value in model.named_parameters() if value.requires_grad
        )
        raise RuntimeError
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def wrapped(how: str) -> Any:
    """Return a model of which one part computes something else than its class and weight say."""
    model = tiny_model("qwen3", tie_word_embeddings=False)
    layer, norm = model.model.layers[1], model.model.norm
    if how == "hook":
        layer.mlp.register_forward_hook(lambda module, given, output: output * 1.5)
    elif how == "pre-hook":
        layer.self_attn.q_norm.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    elif how == "forward":
        layer.mlp.forward = lambda x: type(layer.mlp).forward(layer.mlp, x) * 1.5
    elif how == "forward of the act_fn":
        layer.mlp.act_fn.forward = torch.relu
    elif how == "parametrisation":
        torch.nn.utils.parametrizations.weight_norm(layer.mlp.up_proj)
    elif how == "pruning":
        prune.random_unstructured(layer.mlp.up_proj, "weight", 0.5)
    elif how == "subclass":
        kind = type(norm)
        norm.__class__ = type("Shifted", (kind,), {"forward": lambda self, x: kind.forward(self, x) + 1})
    elif how == "other norm":
        model.model.norm = torch.nn.LayerNorm(32)
    elif how == "epsilon":
        layer.input_layernorm.variance_epsilon = 0.5
    elif how == "scale":
        layer.self_attn.scaling *= 2
    elif how == "max_norm":
        model.model.embed_tokens.max_norm = 0.5
    return model


HOW = (
    "hook", "hook of all modules", "pre-hook", "forward", "forward of the act_fn", "parametrisation", "pruning",
    "subclass", "other norm", "epsilon", "scale", "max_norm",
)  # fmt: skip


def scaled(module: Any, given: Any, output: Any) -> Any:
    return output * 1.1 if torch.is_tensor(output) else None


@pytest.mark.parametrize("how", HOW)
def test_what_hangs_on_a_part_is_refused_and_served_by_the_plain_engine(how: str) -> None:
    model = wrapped(how)
    assert not why_unknown(tiny_model("qwen3"))
    handles = []
    if how == "hook of all modules":
        handles.append(torch.nn.modules.module.register_module_forward_hook(scaled))
    try:
        assert why_unknown(model)
        engine = build_engine(policy_of(model))
        assert off_by(engine, model) < 1e-3
    finally:
        for handle in handles:
            handle.remove()
    assert "no fused decoder: " in engine.reason


def test_hooks_of_transformers_that_change_nothing_are_let_pass() -> None:
    model = tiny_model()
    model(input_ids=torch.tensor([[5, 6]]), output_hidden_states=True)
    model.enable_input_require_grads()
    assert model.model.embed_tokens._forward_hooks and not why_unknown(model)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_model_that_is_wrapped_after_the_choice_is_decoded_as_it_is_then(graphs: bool) -> None:
    model = tiny_model()
    policy = policy_of(model)
    engine = build_engine(policy)
    if graphs:
        plain, graph_engine = engine, GraphEngine(policy, TorchKernels(), graphs=False)
        graph_engine.plain = lambda: plain
        engine = graph_engine
    assert off_by(engine, model) < 1e-3 and not engine.notes
    model.model.layers[1].mlp.register_forward_hook(lambda module, given, output: output * 1.5)
    assert off_by(engine, model) < 1e-3 and "model.layers.1.mlp has hooks" in engine.notes[0]
    assert not engine.fall_back("again"), "there is nothing plainer"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["LORA/embedding", "LORA/head", "LORA/saved_norms", "LORA/tokens", "LN_TUNING", "IA3"])
def test_weights_for_another_program_are_those_of_the_adapted_model_or_refused(name: str, tied: bool) -> None:
    policy = policy_of(with_adapter(KINDS[name], tied=tied))
    if name == "IA3":
        with pytest.raises(UserError, match=r"^rollout.vllm: model.layers.0.self_attn.k_proj is a Linear, so"):
            require_complete(policy)
        return
    require_complete(policy)
    move(policy.model)
    one = (tied and "norm" in name.lower()) or (tied and name == "LN_TUNING")
    assert plain_config(policy).tie_word_embeddings is one, "two matrices where the adapter makes them two"


@pytest.mark.parametrize("how", ["hook", "forward", "parametrisation"])
def test_what_hangs_on_a_part_is_not_written_for_another_program(how: str) -> None:
    with pytest.raises(UserError, match=r"rollout.vllm: model.layers.1.mlp.* so it cannot be written as plain weights"):
        served_weights(policy_of(wrapped(how)))


@pytest.mark.parametrize("name", ["LORA/embedding", "LORA/head", "LORA/tied_on_purpose", "LN_TUNING"])
@torch.no_grad()
def test_what_is_merged_and_loaded_again_is_the_adapted_model(name: str, tmp_path: Path) -> None:
    model, ids = with_adapter(KINDS[name]), torch.tensor([list(PROMPTS[1].ids)])
    move(model)
    before = model(input_ids=ids, use_cache=False).logits
    merged(model, safe=name != "LN_TUNING").save_pretrained(tmp_path)
    again = type(tiny_model()).from_pretrained(tmp_path)(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(again, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["LORA/plain", "LORA/bias", "LORA/saved_norms", "LN_TUNING", "LORA/tokens"])
@torch.no_grad()
def test_the_reference_does_not_move_with_the_adapter(name: str) -> None:
    model, ids = with_adapter(KINDS[name]), torch.tensor([list(PROMPTS[1].ids)])
    reference = build_reference(policy_of(model), 0.1)
    before = model(input_ids=ids, use_cache=False).logits
    move(model)
    assert reference is not None
    with model.disable_adapter() if reference.adapter_off else nullcontext():
        after = reference.model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(after, before)


def test_generation_defaults_that_contradict_themselves_can_be_saved(tmp_path: Path) -> None:
    model = tiny_model()
    model.generation_config.do_sample, model.generation_config.temperature = False, 0.6
    policy_of(model).save(tmp_path)
    assert type(model).from_pretrained(tmp_path).generation_config.do_sample is not True
