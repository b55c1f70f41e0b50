# ruff: noqa: E501
"""The shapes of published chat templates, in short: each does what some model's does to a conversation.

Each entry: template, and what comes of a system turn and a question: the roles it takes them in ("su" or, where the
system's words go into the question, "u"), whether in parts, what it has opened of the answer.
"""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """One template with what is expected of it; open_end: how a prompt ends."""

    template: str
    open_end: str
    roles: str = "su"
    parts: bool = False
    opened: str = ""


def _turns(before: str, after: str, *, role: str = "m.role", content: str = "m.content") -> str:
    """Return the loop over all turns, each between marks; "@" in them is the role."""
    opening = before.replace("@", "{{ " + role + " }}")
    return "{% for m in messages %}" + opening + "{{ " + content + " }}" + after + "{% endfor %}"


def _asked(text: str) -> str:
    return "{% if add_generation_prompt %}" + text + "{% endif %}"


CHATML = _turns("<|im_start|>@\n", "<|im_end|>\n")
OPEN = "<|im_start|>assistant\n"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}{% endfor %}"
)
SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = 'You are helpful.' %}{% set rest = messages %}{% endif %}"
)
PARTS = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
CUT_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% set words = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in words %}{% set words = words.split('</think>')[-1] %}{% endif %}"
    "{{ words }}<|im_end|>\n{% endfor %}"
)

SHAPES: dict[str, Shape] = {
    "chatml": Shape(CHATML + _asked(OPEN), OPEN),
    "chatml, begin token": Shape("{{ bos_token }}" + CHATML + _asked(OPEN), OPEN),
    "qwen2.5, default system": Shape(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
        + CHATML + _asked(OPEN), OPEN),
    "llama 3": Shape(
        "{{ bos_token }}" + _turns("<|start_header_id|>@<|end_header_id|>\n\n", "<|eot_id|>", content="m.content | trim")
        + _asked("<|start_header_id|>assistant<|end_header_id|>\n\n"), "assistant<|end_header_id|>\n\n"),
    "llama 3.2, today's date": Shape(
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        + SYSTEM_FIRST + "{{ bos_token }}<|system|>Today: {{ date_string }}\n{{ system | trim }}<|eot|>"
        "{% for m in rest %}<|{{ m.role }}|>{{ m.content | trim }}<|eot|>{% endfor %}" + _asked("<|assistant|>"),
        "<|assistant|>"),
    "llama 2, system in the question's mark": Shape(
        "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ (system if loop.first else '') + m.content }}"
        " [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}", "[/INST]"),
    "mistral 0.2, no system, alternating": Shape(
        "{{ bos_token }}" + ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}", "[/INST]", "u"),
    "mistral 0.3, system before the last question": Shape(
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}"
        "{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
        "{% if loop.last and system is defined %}[INST] {{ system }}\n\n{{ m.content }}[/INST]{% else %}"
        "[INST] {{ m.content }}[/INST]{% endif %}{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}", "[/INST]"),
    "gemma 2, system refused": Shape(
        "{{ bos_token }}" + NO_SYSTEM + ALTERNATE + "{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        + _asked("<start_of_turn>model\n"), "<start_of_turn>model\n", "u"),
    "gemma 3, system in the first question, text or parts": Shape(
        "{% if messages[0].role == 'system' %}{% if messages[0].content is string %}{% set first = messages[0].content %}"
        "{% else %}{% set first = messages[0].content[0].text %}{% endif %}{% set rest = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}"
        "{% for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ first + '\n\n' if loop.first and first else '' }}"
        "{% if m.content is string %}{{ m.content | trim }}{% else %}" + PARTS + "{% endif %}<end_of_turn>\n{% endfor %}"
        + _asked("<start_of_turn>model\n"), "<start_of_turn>model\n"),
    "phi 3, system dropped in silence": Shape(
        "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n<|assistant|>\n"
        "{% elif m.role == 'assistant' %}{{ m.content }}<|end|>\n{% endif %}{% endfor %}", "<|assistant|>\n", "u"),
    "phi 4": Shape(_turns("<|im_start|>@<|im_sep|>", "<|im_end|>") + _asked("<|im_start|>assistant<|im_sep|>"), "<|im_sep|>"),
    "only the last turn": Shape("<|user|>{{ messages[-1].content }}<|end|>" + _asked("<|assistant|>"), "<|assistant|>", "u"),
    "zephyr": Shape(_turns("<|@|>\n", "{{ eos_token }}\n") + _asked("<|assistant|>\n"), "<|assistant|>\n"),
    "vicuna, words for roles": Shape(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}USER: {{ m.content }} "
        "{% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}" + _asked("ASSISTANT:"), "ASSISTANT:"),
    "alpaca": Shape(
        "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% elif m.role == 'assistant' %}"
        "### Response:\n{{ m.content }}\n\n{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}" + _asked("### Response:\n"),
        "### Response:\n"),
    "falcon, the opening written whoever asks": Shape(
        "{% for m in messages %}{{ 'Assistant' if m.role == 'assistant' else m.role | capitalize }}: {{ m.content }}\n"
        "{% endfor %}{% if messages[-1].role != 'assistant' %}Assistant:{% endif %}", "Assistant:"),
    "command r": Shape(
        SYSTEM_FIRST + "{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ system }}<|END_OF_TURN_TOKEN|>"
        "{% for m in rest %}<|START_OF_TURN_TOKEN|><|{{ 'USER' if m.role == 'user' else 'CHATBOT' }}_TOKEN|>"
        "{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>{% endfor %}" + _asked("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
        "<|CHATBOT_TOKEN|>"),
    "granite": Shape(
        _turns("<|start_of_role|>@<|end_of_role|>", "<|end_of_text|>\n") + _asked("<|start_of_role|>assistant<|end_of_role|>"),
        "<|end_of_role|>"),
    "glm 4, prefix tokens": Shape("[gMASK]<sop>" + _turns("<|@|>\n", "") + _asked("<|assistant|>"), "<|assistant|>"),
    "exaone": Shape(_turns("[|@|]", "[|endofturn|]\n") + _asked("[|assistant|]"), "[|assistant|]"),
    "kimi": Shape(_turns("<|im_@|>@<|im_middle|>", "<|im_end|>") + _asked("<|im_assistant|>assistant<|im_middle|>"),
                  "<|im_middle|>"),
    "gpt-oss, the system's words as the developer's": Shape(
        "{% for m in messages %}<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>"
        "{{ '# Instructions\n\n' if m.role == 'system' else '' }}{{ m.content }}<|end|>{% endfor %}"
        + _asked("<|start|>assistant"), "<|start|>assistant"),
    "olmo, generation marked": Shape(
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}" + _asked("<|assistant|>\n"),
        "<|assistant|>\n"),
    "deepseek v3": Shape(
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}"
        "{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m.role == 'user' %}"
        "<|User|>{{ m.content }}{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content }}<|eos|>{% endif %}{% endfor %}"
        + _asked("<|Assistant|>"), "<|Assistant|>"),
    "r1 distill": Shape(
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}"
        "{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m.role == 'user' %}"
        "<|User|>{{ m.content }}{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|eos|>"
        "{% endif %}{% endfor %}" + _asked("<|Assistant|><think>\n"), "<think>\n", opened="<think>\n"),
    "qwq, qwen3 thinking": Shape(CUT_THINKING + _asked(OPEN + "<think>\n"), "<think>\n", opened="<think>\n"),
    "qwen3, thinking told": Shape(
        CUT_THINKING + _asked(OPEN + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
        "{% endif %}"), OPEN),
    "nemotron 3, thinking unless told": Shape(
        "{% set enable_thinking = enable_thinking if enable_thinking is defined else true %}" + CUT_THINKING
        + _asked(OPEN + "{% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}"),
        "<think>\n", opened="<think>\n"),
    "seed-oss": Shape(_turns("<seed:bos>@\n", "<seed:eos>") + _asked("<seed:bos>assistant\n<seed:think>"), "<seed:think>",
                      opened="<seed:think>"),
    "magistral": Shape(_turns("[@]", "[/@]") + _asked("[THINK]"), "[THINK]", opened="[THINK]"),
    "minimax, lines between": Shape(_turns("]~b]@\n", "[e~[\n") + _asked("]~b]ai\n<think>\n"), "<think>\n", opened="<think>\n"),
    "smollm3, takes its switches out of the system's words": Shape(
        SYSTEM_FIRST + "<|im_start|>system\nReasoning: {{ '/no_think' if '/no_think' in system else '/think' }}\n\n"
        "{{ system.replace('/no_think', '').replace('/think', '') }}<|im_end|>\n{% for m in rest %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endfor %}" + _asked(OPEN), OPEN, "?"),
    "smolvlm, parts alone": Shape(
        "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{% if m.content[0].type == 'image' %}:{% else %}: "
        "{% endif %}" + PARTS + "<end_of_utterance>\n{% endfor %}" + _asked("Assistant:"), "Assistant:", parts=True),
    "llava, parts by filter": Shape(
        "{% for m in messages %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content[0].text }}\n<</SYS>>\n\n"
        "{% elif m.role == 'user' %}[INST] {% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }}"
        "{% endfor %} [/INST]{% else %} {{ m.content[0].text }}</s>{% endif %}{% endfor %}", "[/INST]", parts=True),
    "pixtral, parts and no system": Shape(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]" + PARTS + "[/INST]{% elif m.role == "
        "'assistant' %}{{ m.content[0].text }}{{ eos_token }}{% else %}{{ raise_exception('only user and assistant') }}"
        "{% endif %}{% endfor %}", "[/INST]", "u", parts=True),
    "plain words, no marks": Shape("{% for m in messages %}{{ m.content }}\n{% endfor %}", "?\n"),
}  # fmt: skip

REFUSED: dict[str, tuple[str, str]] = {
    "drops the question": ("{% for m in messages %}{% if m.role != 'user' %}{{ m.content }}{% endif %}{% endfor %}", "user"),
    "its first character": (_turns("<|@|>", "", content="m.content[0]") + _asked("<|assistant|>"), "word for word|parts"),
    "first words": (_turns("<|@|>", "", content="m.content[:12]") + _asked("<|assistant|>"), "word for word"),
    "upper case": (_turns("<|@|>", "", content="m.content | upper") + _asked("<|assistant|>"), "word for word"),
    "escaped": (_turns("<|@|>", "", content="m.content | e") + _asked("<|assistant|>"), "word for word"),
    "one line": (_turns("<|@|>", "", content="m.content.split() | join(' ')") + _asked("<|assistant|>"), "word for word"),
    "a fixed text": ("<|user|>Hello, what is 2 + 2?<|assistant|>", "leaves the|word for word"),
    "as JSON": (_turns("<|@|>", "", content="m | tojson") + _asked("<|assistant|>"), "word for word"),
    "raises always": ("{{ raise_exception('never\never') }}", "never"),
    "is no template": ("{% for %}", "Expected an expression"),
    "raises a Python error": ("{{ messages[7].content.strip() }}", "messages|undefined|no element"),
}  # fmt: skip
"""Templates that no shape of the conversation comes out of whole -> a word of the reason."""
