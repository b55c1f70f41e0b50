"""Settings that recipes no longer have: what a recipe that names one is told, and what an old run folder's means."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mathgrpo.config.recipe import FIRST_DRAW, Recipe
from mathgrpo.config.recipe_fields import field_at, shown
from mathgrpo.grpo.objectives import OBJECTIVES

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gone:
    """A setting of recipes of before.

    Attributes:
        default: what it was when nothing was said.
        instead: what to do today, in the imperative; {value} is the value. "": to write it where `keep` says.
        keep: where the value of an old run folder's recipe is today, a path into a table with free names or a pair, or
            what puts it there; None: nothing has it any more.
    """

    default: Any
    instead: str = ""
    keep: str | Callable[[Table, Any], None] | None = None


def _put(data: Table, path: str, value: Any) -> str:
    """Put a value at SECTION.TABLE.NAME or SECTION.PAIR.INDEX; return how a recipe writes it."""
    section, name, entry = path.split(".")
    inside = data.setdefault(section, {})
    if not entry.isdigit():
        inside.setdefault(name, {})[entry] = value
        return f"{path}={shown(value)}"
    pair = list(inside.get(name) or getattr(getattr(Recipe(), section), name))
    pair[int(entry)] = value
    inside[name] = pair
    return f"{section}.{name}={shown(pair)}"


def _part_of_source(data: Table, value: Any) -> None:
    data["problems"]["source"] += f":{value}"


def _draw(data: Table, value: Any) -> None:
    if data["problems"].get("source", "generated") == "generated":
        data["problems"]["source"] = f"generated:{value}"


def _nothing(data: Table, value: Any) -> None:
    """Keep nothing: it is on record, or had no effect on what the run did."""


def _engine(data: Table, value: Any) -> None:
    if value != "vllm":
        data["rollout"].pop("vllm", None)  # settings of an engine that was not chosen
    if value == "generate":
        data.setdefault("run", {})["engine"] = "plain"


def _importance(data: Table, value: Any) -> None:
    if value == "off" and "vllm" in data.get("rollout", {}):
        data["rollout"]["vllm"]["importance_cap"] = 0.0


def _importance_cap(data: Table, value: Any) -> None:
    if "vllm" in data.get("rollout", {}):
        data["rollout"]["vllm"].setdefault("importance_cap", value)


def _epsilon(name: str) -> Callable[[Table, Any], None]:
    """Keep a bound of the clip for a loss that has one; the others never looked at it."""

    def keep(data: Table, value: Any) -> None:
        kind = OBJECTIVES.get(data["grpo"].get("loss", "dapo"))
        if kind is not None and name in kind.settings:
            data["grpo"].setdefault("loss_settings", {})[name] = value

    return keep


_SWITCH = 'leave it out; run.engine="plain" computes without any of these'
_PLANNED = "leave it out; the memory plan decides"
_ALWAYS = "it is always on; leave it out"

GONE: dict[str, Gone] = {
    "run.threads": Gone(0, "set the environment variable OMP_NUM_THREADS={value}"),
    "run.reuse_memory": Gone(True, _ALWAYS),
    "run.roofline": Gone(True, _ALWAYS),
    "run.peer_timeout_s": Gone(1800.0, "set the environment variable MATHGRPO_PEER_TIMEOUT_S={value}"),
    "run.notes": Gone((), "write it as a comment", _nothing),  # run.json has them
    "model.double_quantization": Gone(True, _ALWAYS),
    "problems.subset": Gone("", 'write it behind the source, as in problems.source="openai/gsm8k:{value}"',
                            _part_of_source),
    "problems.seed": Gone(FIRST_DRAW, 'write it behind the source: problems.source="generated:{value}"', _draw),
    "problems.train_split": Gone("train", keep="problems.splits.0"),
    "problems.heldout_split": Gone("test", keep="problems.splits.1"),
    "problems.question_column": Gone("question", keep="problems.columns.question"),
    "problems.answer_column": Gone("answer", keep="problems.columns.answer"),
    "problems.solution_column": Gone("", keep="problems.columns.solution"),
    "rollout.engine": Gone(None, 'leave it out; a table [rollout.vllm] samples with vLLM, run.engine="plain" with the '
                           "model's own forward pass", _engine),
    "rollout.max_prompt_tokens": Gone(512, "leave it out; a prompt must fit the model's context", _nothing),
    "rollout.max_rows": Gone(0, _PLANNED),
    "rollout.compiled": Gone(True, _SWITCH),
    "rollout.graphs": Gone(True, _SWITCH),
    "rollout.triton": Gone(True, _SWITCH),
    "rollout.dequantize": Gone(True, _PLANNED),
    "rollout.top_p": Gone(1.0, keep="rollout.sampling.top_p"),
    "rollout.top_k": Gone(0, keep="rollout.sampling.top_k"),
    "rollout.min_p": Gone(0.0, keep="rollout.sampling.min_p"),
    "grpo.epsilon_low": Gone(0.2, "write grpo.loss_settings.epsilon_low={value}", _epsilon("epsilon_low")),
    "grpo.epsilon_high": Gone(0.2, "write grpo.loss_settings.epsilon_high={value}", _epsilon("epsilon_high")),
    "grpo.importance": Gone("auto", "write rollout.vllm.importance_cap (0: no weights); other samplers need none",
                            _importance),
    "grpo.importance_cap": Gone(3.0, "write rollout.vllm.importance_cap={value}", _importance_cap),
    "grpo.skip_zero_advantage": Gone(True, _ALWAYS),
    "grpo.shared_prompt": Gone(True, _SWITCH),
    "grpo.fused_forward": Gone("auto", _SWITCH),
    "grpo.attention": Gone("auto", _SWITCH),
    "grpo.compile": Gone("auto", _SWITCH),
    "grpo.token_budget": Gone(0, _PLANNED),
    "optimizer.beta1": Gone(0.9, keep="optimizer.betas.0"),
    "optimizer.beta2": Gone(0.99, keep="optimizer.betas.1"),
    "optimizer.compute_copy": Gone("auto", _SWITCH),
    "optimizer.kernel": Gone("auto", _SWITCH),
    "training.gradient_checkpointing": Gone("auto", _PLANNED),
    "training.keep_checkpoints": Gone(2, "set the environment variable MATHGRPO_KEEP_CHECKPOINTS={value}"),
    "training.log_groups": Gone(4, "set the environment variable MATHGRPO_LOG_GROUPS={value}"),
    "training.tracker_project": Gone("mathgrpo", "set the environment variable MATHGRPO_PROJECT={value}"),
    "evaluation.temperature": Gone(1.0, "leave it out (1.0 it is in a run); mathgrpo eval RUN takes --temperature"),
    "evaluation.top_p": Gone(1.0, "leave it out (1.0 it is in a run); mathgrpo eval RUN takes --top-p"),
}  # fmt: skip
"""Setting -> what became of it. A value that `keep` has no place for is told, unless it is the default."""


def refusal(name: str, value: object) -> str:
    """Return the line for a recipe that sets a setting which is gone, "" for any other name.

    Example:
        >>> refusal("optimizer.beta2", 0.999)
        'optimizer.beta2=0.999: went; write optimizer.betas=[0.9, 0.999]'
    """
    if name not in GONE:
        return ""
    gone, plain = GONE[name], value if isinstance(value, str) else shown(value)
    instead = f"write {_put({}, gone.keep, value)}" if isinstance(gone.keep, str) else gone.instead.format(value=plain)
    return f"{name}={shown(value)}: went; {instead}"


def in_todays_words(model: type[BaseModel], data: Table) -> tuple[Table, tuple[str, ...]]:
    """Return the recipe an old run folder keeps as one of today, and a line for each choice that has no word today.

    What was at its default, or is kept elsewhere in the recipe, is no loss.
    """
    result, lost = copy.deepcopy(data), []
    for name, gone in GONE.items():
        *sections, key = name.split(".")
        table: Any = result
        for section in sections:
            table = table.get(section) if isinstance(table, dict) else None
        if not isinstance(table, dict) or key not in table or field_at(model, name.split(".")) is not None:
            continue
        value = table.pop(key)
        if value == (list(gone.default) if isinstance(gone.default, tuple) else gone.default):
            continue
        if isinstance(gone.keep, str):
            _put(result, gone.keep, value)
        elif gone.keep is not None:
            gone.keep(result, value)
        else:
            lost.append(f"the run's old {refusal(name, value)}")
    return result, tuple(lost)
