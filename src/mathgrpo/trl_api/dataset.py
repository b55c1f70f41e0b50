"""From a user's dataset to the prompts of each step, in TRL's order."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mathgrpo.errors import UserError
from mathgrpo.formats.rendering import plain_ids, rendered
from mathgrpo.formats.template_arguments import require_arguments, require_open
from mathgrpo.formats.thinking import opened_at_end
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.types import Prompt

Row = Mapping[str, Any]


def check_dataset(dataset: Any, name: str) -> Sequence[Row]:
    """Return the dataset when its rows can be met by number: a datasets.Dataset or a list of dictionaries.

    Raises: UserError otherwise, or when there is no "prompt" column.
    """
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset)) or "none"
        raise UserError(f'{name}: is a dictionary of splits ({splits}); pass one of them, such as dataset["train"]')
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(
            f"{name}: {type(dataset).__name__} has no length and no numbered rows; pass a datasets.Dataset or a list "
            "of dictionaries, such as list(dataset.take(1000)) of a streamed one"
        )
    if not len(dataset):
        raise UserError(f"{name}: has no rows")
    row = dataset[0]
    if not isinstance(row, Mapping) or "prompt" not in row:
        columns = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise UserError(f'{name}: needs a column "prompt" (text, or a list of messages); its rows have {columns}')
    return dataset  # type: ignore[no-any-return]


class Schedule:
    """How a run's rollouts go through the dataset: every epoch is a new permutation, cut into rollouts.

    Source: TRL 1.16's RepeatSampler with the same seed, so a run here meets the prompts in TRL's order.
    Raises: UserError when the dataset is smaller than one rollout.

    Attributes:
        rollouts_per_epoch: the last one may have fewer prompts, where one takes several generations.
        updates_per_rollout: optimizer steps on each rollout.
        max_steps: optimizer steps of the run.
        num_epochs: passes over the dataset, the last one begun counted whole.
    """

    def __init__(self, num_rows: int, args: GRPOConfig) -> None:
        per_generation = args.prompts_per_generation
        # An epoch takes whole generations; rows that are left over wait for the next one.
        self._used_rows = num_rows // per_generation * per_generation
        if self._used_rows == 0:
            raise UserError(
                f"train_dataset: has {num_rows} rows, but a step takes {per_generation} prompts "
                f"({args.generation_batch_size} completions, num_generations={args.num_generations}); "
                "give more rows or lower gradient_accumulation_steps"
            )
        self._num_rows, self._num_prompts = num_rows, args.prompts_per_rollout
        self.rollouts_per_epoch = math.ceil(self._used_rows / self._num_prompts)
        self.updates_per_rollout = args.num_iterations * args.parts_per_rollout
        steps_per_epoch = self.rollouts_per_epoch * self.updates_per_rollout
        self.max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
        self.num_epochs = math.ceil(self.max_steps / steps_per_epoch)
        self._generator = torch.Generator().manual_seed(args.seed) if args.shuffle_dataset else None
        self._epochs: list[list[int]] = []

    def rows(self, rollout: int) -> list[int]:
        """Return the row numbers of a rollout; rollouts count from 0 and on through the epochs."""
        epoch, place = divmod(rollout, self.rollouts_per_epoch)
        while len(self._epochs) <= epoch:
            count, shuffled = self._num_rows, self._generator
            order = torch.arange(count) if shuffled is None else torch.randperm(count, generator=shuffled)
            self._epochs.append(order[: self._used_rows].tolist())
        return self._epochs[epoch][place * self._num_prompts : (place + 1) * self._num_prompts]


def is_conversational(prompt: Any) -> bool:
    """Return whether a prompt is a list of messages, not text.

    Raises: UserError when it is neither.
    """
    if isinstance(prompt, str):
        return False
    if isinstance(prompt, Sequence) and prompt and all(isinstance(m, Mapping) and "role" in m for m in prompt):
        contents = [message["content"] for message in prompt if isinstance(message.get("content"), list)]
        parts = (part for content in contents for part in content if isinstance(part, Mapping))
        if any(part.get("type") not in (None, "text") for part in parts):
            raise UserError("train_dataset: a prompt has a picture; only text is served, take such messages out")
        return True
    raise UserError(
        f"train_dataset: the prompt {str(prompt)[:60]!r} is neither text nor messages like "
        '[{"role": "user", "content": "..."}]'
    )


def encode(tokenizer: Any, prompt: Any, args: GRPOConfig, key: int) -> Prompt:
    """Return a prompt's token ids as TRL makes them: by the chat template for messages, plainly for text.

    Other than in TRL, a last message of the assistant is continued, and text gets no end token, nor what the tokenizer
    puts before a text where it begins with that already, as one does that a chat template has written.

    Of a prompt longer than args.max_prompt_length the last tokens are kept.
    key: names the prompt; sampling noise is keyed by it.
    Raises: UserError when the tokenizer has no chat template, the template leaves words out, or there is no token.
    """
    if is_conversational(prompt):
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "processing_class: this tokenizer has no chat template for prompts that are messages; use an "
                "instruction-tuned model, set tokenizer.chat_template, or give prompts as text"
            )
        shown = rendered(tokenizer, [dict(message) for message in prompt], _template_arguments(args))
        ids, opened = tokenizer(text=shown.text, add_special_tokens=False)["input_ids"], shown.opened
    else:
        ids, opened = plain_ids(tokenizer, prompt), opened_at_end(prompt)
    if args.max_prompt_length is not None:
        ids = ids[-args.max_prompt_length :]
    if not ids:
        raise UserError("train_dataset: a prompt is empty; take such rows out")
    return Prompt(ids=tuple(int(token) for token in ids), key=key, opened=opened)


def warn_of_template(tokenizer: Any, rows: Sequence[Row], args: GRPOConfig) -> None:
    """Warn, as TRL does not, of arguments that the chat template does not read, and of prompts it leaves closed."""
    prompt = rows[0]["prompt"]
    if not is_conversational(prompt) or not getattr(tokenizer, "chat_template", None):
        return
    arguments = _template_arguments(args)
    with warned():
        require_arguments(tokenizer, arguments, "chat_template_kwargs")
    with warned():
        require_open(rendered(tokenizer, [dict(message) for message in prompt], arguments))


@contextmanager
def warned() -> Iterator[None]:
    """Make a warning of a UserError inside the block."""
    try:
        yield
    except UserError as error:
        warnings.warn(str(error), stacklevel=3)


def _template_arguments(args: GRPOConfig) -> dict[str, Any]:
    return dict(args.chat_template_kwargs or {})  # type: ignore[arg-type]  # text was read as JSON


def require_context(prompts: Sequence[Prompt], max_context: int, args: GRPOConfig) -> None:
    """Return when the prompts leave the model room for their completions.

    Raises: UserError otherwise.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    if longest + args.max_completion_length > max_context:
        room = max_context - longest
        lower = f"use at most {room}, " if room > 0 else ""
        raise UserError(
            f"max_completion_length={args.max_completion_length}: with a prompt of {longest} tokens that is more than "
            f"the model's context of {max_context}; {lower}set max_prompt_length, or take the long prompts out"
        )


def columns_of(rows: Sequence[Row], args: GRPOConfig) -> dict[str, list[Any]]:
    """Return the columns that reward functions get by name, one value for each row.

    Left out, as in TRL: prompt, completion and completion_ids; with remove_unused_columns all of them.
    """
    if args.remove_unused_columns:
        return {}
    names = [name for name in rows[0] if name not in ("prompt", "completion", "completion_ids")]
    return {name: [row.get(name) for row in rows] for name in names}
