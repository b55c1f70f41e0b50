"""A sequence-classification model as a reward function."""

from __future__ import annotations

from typing import Any

import torch

from mathgrpo.errors import UserError, first_line
from mathgrpo.hub import offline_if_unreachable


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
        return str(self._tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))
