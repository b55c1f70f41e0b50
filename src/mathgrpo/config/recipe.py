"""The recipe of a GRPO run: one frozen pydantic model per TOML section, every default a tested value.

Field names follow TRL's GRPOConfig where the thing is the same; the docstring under a field gives its unit and range.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from mathgrpo.grpo.objectives import OBJECTIVES

FIRST_DRAW = 17
"""Seed of the generated problems, independent of run.seed so that every run meets the same held-out problems."""


Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(OBJECTIVES)]


class Section(BaseModel):
    """A TOML section: unknown keys are errors, values are never coerced silently, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RunSection(Section):
    name: str = ""
    """Folder name of the run below output_dir; empty: recipe name plus date and time."""
    output_dir: str = "runs"
    """Where run folders are made."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds problem order, sampling noise and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA when there is a device, else CPU."""
    engine: Literal["fast", "plain"] = "fast"
    """fast: the engines and kernels that serve this machine, each proven against the plain path before step 0. plain:
    the model's own modules in rollout and update, and torch's AdamW: the same numbers within rounding, slower."""


class LoraSection(Section):
    r: int = Field(16, ge=1)
    """Rank of the adapter."""
    alpha: int = Field(32, ge=1)
    """Scale: the adapter's output is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input, in the update only."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get an adapter."""


class ModelSection(Section):
    path: str = "starter"
    """"starter" (shipped with the package), a local folder, a run folder, or a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision. Masters that train are float32 always. auto: bfloat16 on CUDA; on a CPU float32, but when
    training bfloat16 where a measurement finds it clearly faster: the run says so, and its config.toml keeps it."""
    trust_remote_code: str = ""
    """Name of the model whose own Python code may run here: the same as path, after you have read that code."""
    lora: LoraSection | None = None
    """Train an adapter instead of all weights."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4: keep the layers' matrices in 4 bits (bitsandbytes) under an adapter, as QLoRA does; needs model.lora."""


class ProblemsSection(Section):
    source: str = "generated"
    """"generated", a path (JSONL, CSV, Parquet, a folder with train and test files), or a hub id like openai/gsm8k.
    A hub configuration follows a colon (openai/gsm8k:main), as does another draw of generated ones (generated:18)."""
    splits: tuple[str, ...] = Field(("train", "test"), min_length=1, max_length=2)
    """Splits, or file stems in a folder: the one that training reads, and the one that evaluation reads and training
    never does. One alone: a part of it is held out."""
    columns: dict[str, str] = {}
    """Columns of other names, as {question = "Problem", answer = "Gold", solution = "Work", nums = "numbers"}: of the
    problem, and of what rewards ask for. Parts ("reward_model.ground_truth") and texts of several ("{Body} {Question}")
    have names too. Question and answer are found by the usual names; a solution is read only where it is named, or
    where the gold is cut from it."""
    train_size: int = Field(4000, ge=1)
    """Problems to train on, at most."""
    heldout_size: int = Field(500, ge=1)
    """Problems to evaluate on, at most."""
    max_value: int = Field(100, ge=10)
    """Largest number in the worked solution of a generated problem: how hard the arithmetic is."""

    @property
    def place(self) -> str:
        """The source without what follows its colon: "generated", a path, a hub id."""
        return self._place_and_part()[0]

    @property
    def subset(self) -> str:
        """Hub configuration, or number of the draw of generated problems; "" when none is named."""
        return self._place_and_part()[1]

    @property
    def train_split(self) -> str:
        """Split that training reads."""
        return self.splits[0]

    @property
    def heldout_split(self) -> str:
        """Split that evaluation reads."""
        return self.splits[-1]

    @property
    def draw(self) -> int:
        """Which draw of generated problems: all runs without a number meet the same held-out ones."""
        return int(self.subset or FIRST_DRAW)

    def column(self, of: Literal["question", "answer", "solution"]) -> str:
        """Return the name of a column; "" for a solution that is not read."""
        return self.columns.get(of, "" if of == "solution" else of)

    def _place_and_part(self) -> tuple[str, str]:
        place, colon, part = self.source.rpartition(":")
        if not colon or "/" in part or Path(self.source).exists():
            return self.source, ""
        return place, part


class FormatSection(Section):
    name: Literal["xml", "working_out", "think", "boxed", "think_leaky"] = "xml"
    """Response format the prompt asks for and the parser reads; think_leaky shows the solution in the prompt."""
    chat_template_kwargs: dict[str, Any] = {}
    """What the model's chat template is told, as {enable_thinking = false}: in training and wherever the run's model is
    asked."""


class VllmSection(Section):
    mode: Literal["server", "colocate"] = "server"
    """server: in an environment of its own, over HTTP; colocate: in this process, where vLLM is installed beside us."""
    python: str = ""
    """The python of vLLM's environment; empty: the environment variable MATHGRPO_VLLM_PYTHON."""
    url: str = ""
    """http://HOST:PORT of a server that runs already; empty: one is started on this machine, and ended with the run."""
    exchange: str = ""
    """Folder that weights are handed over in; a server elsewhere must see it by the same path. Empty: in memory."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the server's command line, such as "--enforce-eager"."""
    max_model_len: int = Field(0, ge=0)
    """Longest sequence vLLM keeps room for, prompt and completion; 0: the model's context."""
    gpu_memory_utilization: float = Field(0.3, gt=0.0, le=1.0)
    """Share of the device's memory that vLLM may take (TRL: vllm_gpu_memory_utilization); not on a CPU."""
    sleep: bool = False
    """Give vLLM's device memory back during the update (TRL: vllm_enable_sleep_mode); not on a CPU."""
    trial: bool = True
    """Before step 0, push weights that nobody trained, and compare log-probabilities."""
    probe_tolerance: float = Field(0.0, ge=0.0)
    """Mean difference of log-probabilities, in nats, above which vLLM counts as wrong; 0: by the precision."""
    start_timeout_s: float = Field(600.0, gt=0.0)
    """Seconds a server may take to be ready."""
    timeout_s: float = Field(3600.0, gt=0.0)
    """Seconds one answer may take; a rollout is one."""
    importance_cap: float = Field(3.0, ge=0.0)
    """Weight every token's loss by min(this, trainer's / sampler's probability) (TRL: token_truncate), because vLLM's
    probabilities are not quite the trainer's; 0: no weights."""
    any_version: bool = False
    """Go on with a version of vLLM outside the tested range."""


class RolloutSection(Section):
    prompts_per_step: int = Field(16, ge=1)
    """Problems in one step."""
    group_size: int = Field(8, ge=2)
    """Completions of each problem (TRL: num_generations)."""
    max_new_tokens: int = Field(256, ge=1)
    """Tokens sampled at most (TRL: max_completion_length)."""
    temperature: float = Field(1.0, gt=0.0, le=5.0)
    sampling: dict[str, float] = {}
    """What leaves unlikely tokens out: top_p (smallest set with this probability), top_k (so many likeliest), min_p
    (drops what is less likely than this share of the likeliest). Without any, the policy itself is sampled."""
    vllm: VllmSection | None = None
    """A table [rollout.vllm]: sample with vLLM instead of the engine here; see docs/vllm.md."""


class GrpoSection(Section):
    loss: LossName = "dapo"
    """What a step minimises, and where its token losses are averaged (TRL: loss_type); see docs/algorithm.md."""
    loss_settings: dict[str, float] = Field(default_factory=dict)
    """Further settings of the loss, such as epsilon_high or entropy_coef; docs/algorithm.md has all."""
    advantage_scale: Literal["group", "none", "batch", "decoupled"] = "group"
    """Divide (reward - group mean) by the deviation of group or batch, or by nothing (TRL: scale_rewards). decoupled:
    each reward by its own, before they are summed (TRL: multi_objective_aggregation="normalize_then_sum")."""
    beta: float = Field(0.0, ge=0.0)
    """Weight of the k3 KL to the reference; 0 needs no reference."""
    updates_per_rollout: int = Field(1, ge=1)
    """Optimizer steps on the same rollouts (TRL: num_iterations)."""
    mask_truncated: bool = False
    """Completions cut at max_new_tokens add no loss (TRL: mask_truncated_completions)."""


class OptimizerSection(Section):
    learning_rate: float = Field(1e-6, gt=0.0, lt=1.0)
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """Memory of the gradient's mean and of its square."""
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    """The gradient is scaled down to this L2 norm when it is longer."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_ratio: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the steps during which the learning rate rises from 0."""


class TrainingSection(Section):
    steps: int = Field(100, ge=1)
    """Rollout steps."""
    evaluate_every: int = Field(0, ge=0)
    """Steps between evaluations in the run; 0: only before and after."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints; 0: only the last."""
    trackers: tuple[Literal["trackio", "wandb", "tensorboard"], ...] = ()
    """Experiment trackers that take metrics and completions beside the run folder; each needs its extra."""


class EvaluationSection(Section):
    correct: str = "auto"
    """What counts as correct: "answer", a right answer, or a reward of [rewards] with the least it must pay, as
    "countdown >= 1". auto: "answer", or the reward that the recipe is about where the gold answer is not."""
    samples: int = Field(0, ge=0)
    """Sampled completions a problem beside the greedy one; 0: greedy only."""
    max_new_tokens: int = Field(0, ge=0)
    """0: rollout.max_new_tokens."""


class Recipe(Section):
    """A whole GRPO run."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    problems: ProblemsSection = ProblemsSection()
    format: FormatSection = FormatSection()
    rewards: dict[str, float] = Field(default_factory=lambda: {"correct": 1.0, "format": 0.1})
    """Reward name (or "file.py:function") -> weight. See `mathgrpo.rewards`."""
    reward_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of rewards that take any, as [reward_settings.NAME] tables; see docs/rewards.md."""
    rollout: RolloutSection = RolloutSection()
    grpo: GrpoSection = GrpoSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[str, ...]:
        """How this recipe came about, a line each: shown with the plan and kept in run.json. No setting."""
        return self._notes

    def with_notes(self, lines: Iterable[str]) -> Recipe:
        """Return the same recipe with these notes."""
        noted = self.model_copy()
        noted._notes = tuple(lines)
        return noted
