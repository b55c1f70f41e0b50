"""A script's prompts as tokens: text with one begin token, messages with every word, a begun answer continued."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer
from mathgrpo import GRPOTrainer, think_format_reward
from mathgrpo.trl_api.dataset import encode
from mathgrpo.trl_api.reward_functions import RewardFunctions
from trl_api.trainer_cases import ROWS, config, length_reward, trainer


def wrapping_tokenizer() -> Any:
    """Return the character tokenizer with begin and end tokens around plain text, and a begin token in its template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|unk|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|unk|> $A <|end|>", special_tokens=[("<|unk|>", tokenizer.bos_token_id), ("<|end|>", 1)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    return tokenizer


def test_a_text_prompt_has_one_begin_token_and_no_end_token(tmp_path: Path) -> None:
    tokenizer, args = wrapping_tokenizer(), config(tmp_path)
    begin = tokenizer.bos_token_id
    messages = [{"role": "user", "content": "2+2?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    of_text, of_messages = encode(tokenizer, text, args, 1).ids, encode(tokenizer, messages, args, 1).ids
    assert of_text == of_messages and of_text.count(begin) == 1
    plain = encode(tokenizer, "2+2=", args, 1).ids
    assert plain[0] == begin and tokenizer.decode(plain[1:]) == "2+2="
    ended = encode(tokenizer, "2+2=4<|end|>", args, 1).ids
    assert ended[-1] == 1 and ended.count(1) == 1, "an end token that the text has itself is the user's"
    bare = tiny_tokenizer()
    assert list(encode(bare, "2+2=", args, 1).ids) == bare("2+2=")["input_ids"], "as TRL where nothing is put around"


def test_an_assistants_last_message_is_continued_and_read_with_the_completion(tmp_path: Path) -> None:
    tokenizer, args = tiny_tokenizer(), config(tmp_path)
    asked: list[Any] = [{"role": "user", "content": "2+2?"}]
    begun = encode(tokenizer, [*asked, {"role": "assistant", "content": "<think>\n2"}], args, 1)
    assert tokenizer.decode(begun.ids) == "<|user|>2+2?<|end|><|assistant|><think>\n2" and begun.opened == "<think>\n2"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "<|assistant|><think>\n")
    opened = encode(tokenizer, asked, args, 1).opened
    assert opened == "<think>\n" == encode(tokenizer, "2+2?<think>\n", args, 1).opened
    text = "2 + 2 = 4</think><answer>4</answer>"
    rewards = RewardFunctions([think_format_reward, lambda completions, **columns: [float(len(columns))]], None)
    paid = rewards.score(["?"], [text], [text], {"answer": ["4"]}, [opened])
    assert [values[0] for values in paid.parts.values()] == [1.0, 2.0], "only who names it is told"


def test_content_in_parts_is_served_whatever_the_template_takes(tmp_path: Path) -> None:
    parts, args = [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}], config(tmp_path)
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(encode(tokenizer, parts, args, 1).ids) == "<|user|>2+2?<|end|><|assistant|>"
    tokenizer.chat_template = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}>"
    for prompt in (parts, [{"role": "user", "content": "2+2?"}]):
        assert tokenizer.decode(encode(tokenizer, prompt, args, 1).ids) == "2+2?>"


def test_what_a_template_does_not_heed_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"chat_template_kwargs\.enable_thinking: the model's chat template does not read"
    ):
        trainer(tmp_path, chat_template_kwargs={"enable_thinking": False})
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.partition("{% if add")[0]
    with pytest.warns(UserWarning, match="does not heed add_generation_prompt"):
        GRPOTrainer(tiny_model(), length_reward, config(tmp_path), ROWS, processing_class=tokenizer)
