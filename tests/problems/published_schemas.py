"""Rows in the schemas of public data sets, in our own words, and what is to be read of them."""

from __future__ import annotations

from typing import Any

ASKED, HALVED = "One and one?", "A half?"
BOX = r"Half of it is $\frac{1}{4}$, so all is $\boxed{\frac{1}{2}}$."
HALF = r"\frac{1}{2}"


OPENAI, SHARE = ("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")


def turns(question: Any, reply: Any = "", *, names: tuple[str, str, str, str] = OPENAI) -> list[dict[str, Any]]:
    role, says, asks, replies = names
    return [{role: asks, says: question}] + ([{role: replies, says: reply}] if reply else [])


READ: dict[str, tuple[Any, str, str]] = {
    "gsm8k": ({"question": "Two pens?", "answer": "1+1=<<1+1=2>>2\n#### 2"}, "Two pens?", "2"),
    "MATH": ({"problem": HALVED, "level": "Level 1", "type": "Algebra", "solution": BOX}, HALVED, HALF),
    "MATH-500": (
        {"problem": HALVED, "solution": BOX, "answer": HALF, "subject": "Algebra", "level": 1, "unique_id": "a"},
        HALVED, HALF,
    ),
    "NuminaMath-CoT": (
        {"source": "amc", "problem": HALVED, "solution": BOX, "messages": turns(HALVED, BOX)}, HALVED, HALF,
    ),
    "NuminaMath-1.5": (
        {"problem": HALVED, "solution": BOX, "answer": HALF, "problem_type": "Algebra", "question_type": "MCQ",
         "problem_is_valid": "Yes", "solution_is_valid": "Yes", "source": "amc", "synthetic": False}, HALVED, HALF,
    ),
    "OpenR1-Math-220k": (
        {"problem": HALVED, "solution": BOX, "answer": HALF, "problem_type": "Algebra", "uuid": "1",
         "generations": ["<think>a</think>", "b"], "correctness_count": 2, "messages": turns(HALVED, BOX)},
        HALVED, HALF,
    ),
    "DeepScaleR": ({"problem": ASKED, "answer": "2", "solution": "It is 2."}, ASKED, "2"),
    "DAPO-Math-17k": (
        {"data_source": "math_dapo", "prompt": turns("Solve it.\n\nOne and one?"), "ability": "MATH",
         "reward_model": {"ground_truth": "2", "style": "rule"}, "extra_info": {"index": "a"}},
        "Solve it.\n\nOne and one?", "2",
    ),
    "DAPO-Math-17k-Processed": (
        {"prompt": ASKED, "solution": "2", "data_source": "math_dapo", "source_prompt": turns("Do: One and one?"),
         "ability": "MATH", "reward_model": {"ground_truth": "2", "style": "rule"}}, ASKED, "2",
    ),
    "Skywork-OR1": (
        {"prompt": turns(ASKED), "reward_model": {"ground_truth": '["2"]', "style": "rule"}}, ASKED, "2",
    ),
    "Eurus-2-RL": (
        {"prompt": [{"role": "system", "content": "Think."}, *turns(ASKED)], "ability": "math",
         "reward_model": {"ground_truth": "2"}}, ASKED, "2",
    ),
    "verl gsm8k": (
        {"data_source": "openai/gsm8k", "prompt": turns('One and one? Let\'s think, and answer after "####".'),
         "reward_model": {"ground_truth": "2", "style": "rule"},
         "extra_info": {"question": ASKED, "answer": "1+1=2\n#### 2"}}, ASKED, "2",
    ),
    "Big-Math": (
        {"problem": ASKED, "answer": "2", "source": "orca", "domain": ["Algebra"], "llama8b_solve_rate": 0.5},
        ASKED, "2",
    ),
    "ORZ": (
        [{"from": "human", "value": ASKED}, {"from": "assistant", "ground_truth": {"value": "2"}}],
        ASKED, "2",
    ),
    "AIME 2024": (
        {"ID": "2024-I-1", "Problem": ASKED, "Solution": "It is 2.", "Answer": 2}, ASKED, "2",
    ),
    "AIME, boxed": ({"id": 1, "problem": ASKED, "solution": r"\boxed{204}", "url": "x"}, ASKED, "204"),
    "AIME 1983": (
        {"ID": "1983-1", "Year": 1983, "Problem Number": 1, "Question": ASKED, "Answer": "2", "Part": None},
        ASKED, "2",
    ),
    "AMC": ({"id": 1, "problem": ASKED, "answer": 142.0, "url": "x"}, ASKED, "142"),
    "OlympiadBench": (
        {"id": 1, "question": ASKED, "solution": ["It is 2."], "final_answer": ["$2$"], "context": None,
         "modality": "Text-only", "is_multiple_answer": False, "unit": None, "answer_type": "Numerical"},
        ASKED, "2",
    ),
    "OlympiadBench, several": (
        {"question": "Which square to 4?", "final_answer": ["2", "-2"], "is_multiple_answer": True},
        "Which square to 4?", "2, -2",
    ),
    "Minerva": ({"problem": ASKED, "solution": r"It is \boxed{2}.", "type": "x", "idx": 0}, ASKED, "2"),
    "Countdown-Tasks-3to4": (
        {"target": 98, "nums": [44, 19, 35]},
        "Using the numbers [44, 19, 35], create an equation that equals 98. Use +, -, *, / and each number once.", "98",
    ),
    "SVAMP": (
        {"ID": "c-1", "Body": "Ann has 2 pens.", "Question": "How many?", "Equation": "2", "Answer": "2.0"},
        "Ann has 2 pens. How many?", "2.0",
    ),
    "SVAMP, joined": (
        {"ID": "c-1", "Body": "Ann has 2 pens.", "Question": "How many?", "Answer": "2.0",
         "question_concat": "Ann has 2 pens. How many?"}, "Ann has 2 pens. How many?", "2.0",
    ),
    "ASDiv": (
        {"body": "Ann has 2 pens.", "question": "How many?", "answer": "2 (pens)"}, "Ann has 2 pens. How many?",
        "2 (pens)",
    ),
    "MAWPS": (
        {"Question": "Ann has N_00 pens and N_01 cups .", "Equation": "+", "Answer": 5.0, "Numbers": "3.0 2.0"},
        "Ann has 3 pens and 2 cups .", "5",
    ),
    "Calc-mawps": (
        {"id": "m-1", "question": ASKED, "chain": "<gadget>1+1</gadget>", "result": "2", "result_float": 2.0,
         "equation": "x=1+1"}, ASKED, "2",
    ),
    "AQuA": (
        {"question": "Which is even?", "options": ["A)1", "B)2", "C)3"], "rationale": "Two is.", "correct": "B"},
        "Which is even?\n(A) 1\n(B) 2\n(C) 3", "B",
    ),
    "MathQA": (
        {"Problem": "which is even ?", "Rationale": "two is", "options": "a ) 1 , b ) 2 , c ) 3,5", "correct": "b"},
        "which is even ?\n(A) 1\n(B) 2\n(C) 3,5", "B",
    ),
    "MMLU": (
        {"question": "Which is even?", "subject": "x", "choices": ["one", "two", "three", "five"], "answer": 1},
        "Which is even?\n(A) one\n(B) two\n(C) three\n(D) five", "B",
    ),
    "ARC": (
        {"question": "Which is even?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"},
        "Which is even?\n(A) one\n(B) two", "B",
    ),
    "MetaMathQA": (
        {"type": "GSM_Rephrased", "query": "One and one are what?", "original_question": ASKED,
         "response": "1+1=2\n#### 2\nThe answer is: 2"}, "One and one are what?", "2",
    ),
    "MetaMathQA, MATH": (
        {"type": "MATH_AnsAug", "query": HALVED, "original_question": HALVED,
         "response": BOX + "\nThe answer is: \\frac{1}{2}"}, HALVED, HALF,
    ),
    "MathInstruct": (
        {"source": "CoT/gsm", "instruction": ASKED, "output": "They are two. The answer is 2"}, ASKED, "2",
    ),
    "alpaca": ({"instruction": "Add.", "input": "1 and 1", "output": "2"}, "Add.\n1 and 1", "2"),
    "OpenMathInstruct-1": (
        {"question": ASKED, "dataset": "gsm8k", "generated_solution": r"So \boxed{3}.", "expected_answer": "2",
         "predicted_answer": "3", "is_correct": False}, ASKED, "2",
    ),
    "OpenMathInstruct-2": (
        {"problem": ASKED, "generated_solution": r"So \boxed{2}.", "expected_answer": "2", "problem_source": "m"},
        ASKED, "2",
    ),
    "DeepMath-103K": (
        {"question": ASKED, "final_answer": "2", "difficulty": 5.0, "r1_solution_1": r"\boxed{2}"},
        ASKED, "2",
    ),
    "gsm-hard": ({"input": ASKED, "code": "def solution(): pass", "target": 2.0}, ASKED, "2"),
    "MultiArith": ({"question": ASKED, "final_ans": "2"}, ASKED, "2"),
    "ShareGPT": (
        {"conversations": turns(ASKED, r"So \boxed{2}.", names=SHARE)}, ASKED, "2",
    ),
    "parts of text": (
        {"messages": turns([{"type": "text", "text": ASKED}], [{"type": "text", "text": r"So \boxed{2}."}])},
        ASKED, "2",
    ),
    "JSON in a CSV's cell": (
        {"prompt": ASKED, "reward_model": '{"ground_truth": "2", "style": "rule"}'}, ASKED, "2",
    ),
}  # fmt: skip
TOLD: dict[str, tuple[dict[str, Any], str, str]] = {
    "other words": ({"Aufgabe": "Was ist 1 + 1?", "Ergebnis": "2"}, "Was ist 1 + 1?", "2"),
    "two questions": ({"problem": ASKED, "query": "Two and two?", "answer": "2"}, ASKED, "2"),
    "two golds": ({"question": ASKED, "final_answer": "2", "ground_truth": "3"}, ASKED, "2"),
    "a number's name": ({"1": ASKED, "true": 2}, ASKED, "2"),
}
"""Rows that are told in a line; written as it says, they are read so."""
