"""Reward functions as TRL takes them: one or many, sync or async, functions or reward models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from mathgrpo.errors import UserError, first_line
from mathgrpo.formats.turns import content_text
from mathgrpo.hub import offline_if_unreachable
from mathgrpo.rewards.checked_calls import call_rewards, with_keywords
from mathgrpo.rewards.suite import Scores, scores_of


@dataclass
class RewardNotes:
    """What reward functions noted through log_extra and log_metric during one rollout.

    Attributes:
        columns: further columns of the completions table, one value a completion.
        metrics: name -> the values given.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def joined(cls, shares: Sequence[RewardNotes], sizes: Sequence[int]) -> RewardNotes:
        """Return the notes of processes that each scored a share of the groups, columns in the groups' order.

        sizes: completions of each group.
        """
        if len(shares) == 1:
            return shares[0]
        joined = cls()
        for share in shares:
            for name, values in share.metrics.items():
                joined.metrics.setdefault(name, []).extend(values)
        for name in dict.fromkeys(name for share in shares for name in share.columns):
            rests = [iter(share.columns.get(name, ())) for share in shares]
            joined.columns[name] = [v for i, size in enumerate(sizes) for v in islice(rests[i % len(shares)], size)]
        return joined

    def log_extra(self, column: str, values: list[Any]) -> None:
        """Note a column of the completions table."""
        self.columns.setdefault(column, []).extend(values)

    def log_metric(self, name: str, value: float) -> None:
        """Note a value of a metric."""
        self.metrics.setdefault(name, []).append(float(value))


class RewardFunctions:
    """The reward functions of a trainer.

    Attributes:
        names: one a function, from its __name__; a name met twice gets a number.
        weights: by name.
    """

    def __init__(
        self, functions: Any, weights: Sequence[float] | None, processing_classes: Any = None, device: str = "cpu"
    ) -> None:
        given = _listed(functions) if functions is not None else []
        if not given:
            raise UserError("reward_funcs: give at least one function f(prompts, completions, **columns) -> numbers")
        tokenizers = _one_each(processing_classes, len(given))
        self.functions = [_callable(f, t, device) for f, t in zip(given, tokenizers, strict=True)]
        names = [_name(function) for function in self.functions]
        before = [names[:place].count(name) for place, name in enumerate(names)]
        self.names = [f"{name}_{met + 1}" if met else name for name, met in zip(names, before, strict=True)]
        paid = list(weights) if weights is not None else [1.0] * len(given)
        if len(paid) != len(given):
            raise UserError(f"reward_weights: has {len(paid)} values for {len(given)} reward functions")
        self.weights = dict(zip(self.names, map(float, paid), strict=True))

    def score(
        self, prompts: list[Any], completions: list[Any], texts: Sequence[str], keywords: Mapping[str, Any],
        opened: Sequence[str] | None = None,
    ) -> Scores:  # fmt: skip
        """Return what the completions earn.

        opened: what each prompt has of its completion already, such as a <think> of the chat template: told to the
            functions that name it, which the rewards of this package do, where no column is called so.
        Raises: UserError naming the function and the completion when one raises or returns anything else.
        """
        functions = dict(zip(self.names, self.functions, strict=True))
        if opened is not None and "opened" not in keywords:
            told = {name: f for name, f in functions.items() if _names(f, "opened")}
            functions |= {name: with_keywords(f, opened=list(opened)) for name, f in told.items()}
        call = {"prompts": prompts, "completions": completions, **keywords}
        return scores_of(call_rewards(functions, texts, call), self.weights)


def _names(function: Callable[..., Any], parameter: str) -> bool:
    try:
        return parameter in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin has no signature
        return False


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _one_each(processing_classes: Any, count: int) -> list[Any]:
    """Return the tokenizer of every reward function, None where none is given.

    Raises: UserError when there are some, but not as many as functions.
    """
    if processing_classes is None:
        return [None] * count
    given = _listed(processing_classes)
    if len(given) != count:
        raise UserError(
            f"reward_processing_classes: has {len(given)} values for {count} reward functions; give one for each, None "
            "for those that are no models"
        )
    return given


def _callable(function: Any, tokenizer: Any, device: str) -> Callable[..., Any]:
    from torch import nn

    if isinstance(function, str | nn.Module):
        return RewardModel(function, tokenizer, device)
    if not callable(function):
        raise UserError(f"reward_funcs: {function!r} is no function, reward model or name of one")
    return function  # type: ignore[no-any-return]


def _name(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)  # a functools.partial goes by the function it wraps
    return str(getattr(inner, "__name__", type(inner).__name__))


class RewardModel:
    """A reward function that pays a reward model's single logit for prompt and completion together.

    model: a sequence-classification model with one label, or its name.
    tokenizer: its own; None loads the one beside the model.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            with offline_if_unreachable(True):
                if isinstance(model, str):
                    model = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
                name = str(getattr(model.config, "_name_or_path", ""))
                tokenizer = tokenizer or AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise UserError(
                f"reward_funcs: a reward model or its tokenizer cannot be loaded ({first_line(error)})"
            ) from error
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        # The head reads the last token that is not padding, so both must agree on what padding is.
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.__name__ = name.rstrip("/").rsplit("/", 1)[-1] or type(model).__name__
        self._model, self._tokenizer = model.to(device).eval(), tokenizer

    @torch.inference_mode()
    def __call__(self, prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        """Return the logit of each completion after its prompt."""
        texts = [self._text(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        batch = self._tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(self._model.device)
        return self._model(**batch).logits[:, 0].float().tolist()  # type: ignore[no-any-return]

    def _text(self, prompt: Any, completion: Any) -> str:
        if isinstance(prompt, str):
            return prompt + str(completion)
        turns = [*prompt, *completion]
        if prompt[-1]["role"] == "assistant":  # the completion goes on with this turn
            turns = [*prompt[:-1], {**prompt[-1], "content": content_text(prompt[-1]) + completion[0]["content"]}]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False))
