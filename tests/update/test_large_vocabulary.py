"""Qwen's vocabulary of 151,936: memory of the update against holding all logits at once.

Both run at 8 x 192 tokens, where the usual implementation fits a small machine. At 8 x 1,024 its logits alone are 5 GB,
of which it holds several copies, so there the update is held against a single one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, resource, sys
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo import with_advantages
from mathgrpo.update import policy_update
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from update.grpo_cases import TinyPolicy

ROWS, TOKENS, VOCABULARY = 8, int(sys.argv[2]), 151_936
torch.set_num_threads(1)
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=2048, tie_word_embeddings=True,
)
model = Qwen2ForCausalLM(config).eval()
ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS))
advantages = torch.linspace(-1.0, 1.0, ROWS)
prompt = (5, 6, 7)

def plain():
    # The usual implementation: all logits, a log-softmax of them, the targets' entries.
    inputs = torch.cat([torch.tensor(prompt).expand(ROWS, -1), ids], dim=1)
    logits = model(inputs).logits[:, len(prompt) - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    ratio = torch.exp(logprobs - logprobs.detach())
    (-(ratio * advantages[:, None]).sum() / (ROWS * TOKENS)).backward()

def ours():
    completions = tuple(Completion(tuple(row), (0.0,) * TOKENS, "length") for row in ids.tolist())
    group = RolloutGroup(
        Problem(question="", answer="0"), Prompt(prompt, 0), completions, ("",) * ROWS, rewards=(0.0,) * ROWS,
        advantages=tuple(advantages.tolist()),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kept = {}
    optimizer.register_step_pre_hook(lambda *_: kept.update(grad=model.lm_head.weight.grad.clone()))
    policy_update(
        TinyPolicy(model), optimizer, [group], GrpoSection(loss="dapo"), temperature=1.0, max_new_tokens=TOKENS,
        max_grad_norm=1e9,
    )
    model.lm_head.weight.grad = kept["grad"]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
{"plain": plain, "ours": ours}[sys.argv[1]]()
grad = model.lm_head.weight.grad
print(json.dumps({
    "bytes": peak() - before, "norm": grad.norm().item(),
    "some": grad[:: 9973, 0].tolist(),
}))
"""


def measured(how: str, tokens: int) -> dict[str, Any]:
    paths = [str(Path(__file__).parents[1]), *sys.path]
    output = subprocess.check_output(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{PROGRAM}", how, str(tokens)], text=True
    )
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_is_a_third_of_full_logits_at_the_same_gradient() -> None:
    plain, ours = measured("plain", 192), measured("ours", 192)
    assert ours["norm"] == pytest.approx(plain["norm"], rel=1e-4)
    assert ours["some"] == pytest.approx(plain["some"], rel=1e-3, abs=1e-6 * plain["norm"])
    assert ours["bytes"] < plain["bytes"] / 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_at_1024_tokens_is_a_third_of_a_single_copy_of_the_logits() -> None:
    assert measured("ours", 1024)["bytes"] < 8 * 1024 * 151_936 * 4 / 3
