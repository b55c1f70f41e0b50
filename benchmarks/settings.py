"""What is measured: the settings that every contestant of an experiment shares, and the contestants themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TRL_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_TOP_PAD_": "67108864"}
"""glibc keeps what it was given, so that a tensor as large as the last one costs no page faults."""

Mode = Literal["natural", "forced"]


class Record(BaseModel):
    """A frozen record that refuses unknown fields: what results files are made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Record):
    """One experiment, equal for all who take part.

    Attributes:
        model: "starter", or a shape of `models.SHAPES` with random weights.
        mode: natural: a completion ends where the model ends it. forced: the end id is one that no model has, so every
            completion has max_new_tokens; no logits processor is needed for it.
        problems: "generated", or a folder with train.jsonl and test.jsonl, for a machine that cannot generate them.
        micro_tokens: unique tokens of one micro-batch of this project; 0: the recipe's default.
        num_steps: steps there are prompts for; step i has the same prompts for every contestant.
    """

    model: str = "starter"
    mode: Mode = "natural"
    problems: str = "generated"
    prompts_per_step: int = Field(8, ge=1)
    group_size: int = Field(8, ge=2)
    max_new_tokens: int = Field(256, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    learning_rate: float = 1e-6
    micro_tokens: int = 0
    num_steps: int = Field(64, ge=1)
    schedule: Literal["constant", "linear"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = 1.0
    advantage_scale: Literal["group", "none"] = "group"
    train_problems: int = 512
    heldout_problems: int = 16
    seed: int = 0
    threads: int = 0

    @property
    def completions(self) -> int:
        """Completions of a step."""
        return self.prompts_per_step * self.group_size

    @property
    def task_reward(self) -> bool:
        """Whether completions are graded; random weights and forced lengths earn nothing, so texts are hashed then."""
        return self.model == "starter" and self.mode == "natural"


class Contestant(Record):
    """Who takes part, and how.

    Attributes:
        name: unique in an experiment.
        kind: "ours", "trl" or "vllm": which code the worker runs.
        options: of that kind, see its contestant file.
        env: variables of its process that the others do not have.
        note: what a reader of its row must know.
        settle_s: pause after its turn, until its threads have stopped spinning.
    """

    name: str
    label: str
    kind: Literal["ours", "trl", "vllm", "fake"]
    options: dict[str, Any] = {}
    env: dict[str, str] = {}
    note: str = ""
    settle_s: float = 0.02


OURS = Contestant(name="ours", label="mathgrpo", kind="ours")
OURS_SKIPPING = Contestant(
    name="ours-skip", label="mathgrpo, zero-advantage groups skipped (default)", kind="ours",
    options={"skip_zero_advantage": True}, note="Not a main row: TRL has no such option.",
)  # fmt: skip
TRL_GENERATE = Contestant(name="trl-generate", label="TRL, `generate`", kind="trl")
TRL_STATIC = Contestant(
    name="trl-static", label="TRL, static cache", kind="trl", options={"cache_implementation": "static"}
)
TRL_BATCHING = Contestant(
    name="trl-batching", label="TRL, continuous batching", kind="trl",
    options={"use_transformers_continuous_batching": True},
)  # fmt: skip
TRL_MICRO = Contestant(
    name="trl-micro", label="TRL, `generate`, 4 micro-batches", kind="trl", options={"micro_batches": 4}
)
TRL_TUNED_ALLOCATOR = Contestant(
    name="trl-allocator", label="TRL, `generate`, allocator as ours", kind="trl", env=TRL_ALLOCATOR,
    note="glibc told by environment to keep memory, which this project does by itself.",
)  # fmt: skip
TRL_STATIC_BF16 = Contestant(
    name="trl-static", label="TRL, static cache, bfloat16 weights", kind="trl",
    options={"cache_implementation": "static", "model_dtype": "bfloat16"},
    note="The static cache fails under autocast with float32 weights, so that this row trains without float32 masters.",
)  # fmt: skip
TRL_COMPILED = Contestant(
    name="trl-compiled", label="TRL, static cache + compile, bfloat16 weights", kind="trl",
    options={"cache_implementation": "static", "compile": True, "model_dtype": "bfloat16"},
    note="TRL switches compilation of generate off; the benchmark switches it on again.",
)  # fmt: skip
# OpenMP threads spin for some milliseconds after their last work, vLLM's worker for a second.
VLLM = Contestant(
    name="vllm",
    label="vLLM (rollout only)",
    kind="vllm",
    settle_s=1.5,
    note="Its weights are never updated and no log-probs kept.",
)
