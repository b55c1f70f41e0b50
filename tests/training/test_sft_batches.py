from itertools import islice

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.supervised.sft_steps import Example, batches, collate, completion_loss, encode, loss_weights
from mathgrpo.types import Problem

XML = get_format("xml")


def test_prompts_are_the_rollouts_prompts_and_completions_end() -> None:
    tokenizer = tiny_tokenizer()
    [(prompt, completion)] = encode([Example("2+2?", "four")], tokenizer, XML)
    assert tuple(prompt) == encode_prompt(tokenizer, Problem("2+2?", "4"), XML).ids
    assert tokenizer.decode(completion) == "four<|end|>"


def test_what_the_prompt_has_opened_is_not_written_again() -> None:
    tokenizer, think = tiny_tokenizer(), get_format("think")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "<|assistant|><think>\n")
    for fmt in (think, XML, get_format("boxed")):
        [(prompt, completion)] = encode([Example("2+2?", fmt.write("2 + 2 = 4", "4"))], tokenizer, fmt)
        text = tokenizer.decode(completion).removesuffix("<|end|>")
        assert tokenizer.decode(prompt).endswith("<|assistant|><think>\n") and "<think>" not in text
        assert fmt.parse(text, opened="<think>\n").strict
    assert tokenizer.decode(encode([Example("?", think.write("r", "4"))], tokenizer, think)[0][1])[:1] == "r"


def test_a_plain_prompt_begins_as_the_rollouts_does() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(chat_template=False)
    wrapped = TemplateProcessing(single="<|system|> $A", special_tokens=[("<|system|>", 2)])
    tokenizer.backend_tokenizer.post_processor = wrapped
    [(prompt, _)] = encode([Example("2+2?", "four")], tokenizer, XML)
    assert prompt[0] == 2 and tuple(prompt) == encode_prompt(tokenizer, Problem("2+2?", ""), XML).ids


def test_weights_cover_completion_and_end_token_only() -> None:
    batch = collate([([5, 6, 7], [8, 9]), ([5], [6])], pad_id=0)
    assert batch.ids_NT.shape == (2, 8) and batch.num_tokens == 7
    # position t predicts token t+1: tokens 3 and 4 of the first row, token 1 of the second
    assert loss_weights(batch, 0.0).tolist() == [[0, 0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert loss_weights(batch, 0.25).tolist()[0] == [0.25, 0.25, 1, 1, 0, 0, 0]


def test_batches_stay_in_budget_and_lose_nothing() -> None:
    source = iter([Example("x" * (i % 40), "y" * (i % 17 + 1)) for i in range(4096)])
    made = list(islice(batches(source, tiny_tokenizer(), XML, 2048, seed=0), 30))
    for batch in made:
        assert batch.ids_NT.numel() <= 2048 + 8 * len(batch.ids_NT)
        assert batch.num_tokens > 0.8 * batch.ids_NT.numel()


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
def test_loss_equals_the_plain_computation(prompt_weight: float) -> None:
    model = tiny_model()
    batch = collate([([5, 6, 7], [8, 9]), ([5], [6, 10, 11])], pad_id=0)
    total = weight = torch.tensor(0.0)
    for prompt, completion in (([5, 6, 7], [8, 9]), ([5], [6, 10, 11])):
        ids = torch.tensor([prompt + completion])
        logprobs = model(ids).logits[0].log_softmax(-1)
        for t in range(ids.shape[1] - 1):
            w = 1.0 if t + 1 >= len(prompt) else prompt_weight
            total, weight = total - w * logprobs[t, ids[0, t + 1]], weight + w
    assert completion_loss(model, batch, prompt_weight).item() == pytest.approx((total / weight).item(), abs=1e-5)
