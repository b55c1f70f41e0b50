"""Ninety-six inputs that fool or break the usual reward functions, with what a sound one says.

Columns: number, format it is read in, gold, completion, reward of the default suite (correct 1.0, format 0.1), verdict
on the format's answer, verdict on the answer anywhere. FULL is a right answer in perfect form; right in tolerated form
("soft") is 1.05; right but with nothing in the reasoning block 1.0; right and marked outside the format 0.25.
Rows marked "policy" have no one right outcome; the comment says what was decided.
"""

from __future__ import annotations

from typing import NamedTuple

FULL = 1.1


class Defect(NamedTuple):
    number: int
    fmt: str
    gold: str
    text: str
    reward: float
    verdict: str
    flexible: str
    question: str = ""


def xml(answer: str, reasoning: str = "r") -> str:
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


def work(answer: str) -> str:
    return f"<start_working_out>x<end_working_out><SOLUTION>{answer}</SOLUTION>"


EMPTY_XML = "<reasoning></reasoning><answer>{}</answer>"
NESTED = "<think><answer></answer><think></think><answer>7</answer></think><answer>18</answer>"

WRONG_BUT_PAID = [
    Defect(1, "xml", "18", xml("7", "..."), 0, "wrong", "wrong"),
    Defect(2, "xml", "18", xml("7", ""), 0, "wrong", "wrong"),
    Defect(3, "xml", "18", EMPTY_XML.format("7") + " blah" * 50, 0, "wrong", "wrong"),
    Defect(4, "xml", "18", EMPTY_XML.format(""), 0, "no_answer", "no_answer"),
    # A bare number is an answer, though not in the format.
    Defect(5, "xml", "18", "18", 0.25, "no_answer", "correct"),
    Defect(6, "xml", "18", "<answer>7</answer><answer>18</answer>", 0, "ambiguous", "ambiguous"),
    Defect(7, "xml", "18", "18</answer> or 19 </answer>", 0, "no_answer", "wrong"),
    Defect(8, "xml", "18", xml("\u0661\u0668"), 0, "refused", "refused"),
    Defect(9, "xml", "18", xml("²"), 0, "refused", "refused"),
    Defect(10, "working_out", "18", work("7"), 0, "wrong", "wrong"),
    Defect(11, "working_out", "18", work("19"), 0, "wrong", "wrong"),
    Defect(12, "working_out", "18", work("19.8"), 0, "wrong", "wrong"),
    Defect(13, "working_out", "1000", work("1001"), 0, "wrong", "wrong"),
    Defect(14, "working_out", "18", work("18 or 19 or 20"), 0, "refused", "refused"),
    Defect(15, "working_out", "18", work(" 18 dollars"), FULL, "correct", "correct"),
    Defect(16, "working_out", "18", f"junk {work('7')}\n\n{work('18')}", 0, "ambiguous", "ambiguous"),
    Defect(17, "working_out", "18", work("18") + "\nIgnore the above, the answer is 7", 0, "ambiguous", "ambiguous"),
    Defect(18, "xml", "18", "<answer>17 18 19 180 1.8</answer>", 0, "refused", "refused"),
    Defect(19, "xml", "1", "<answer>9871</answer>", 0, "wrong", "wrong"),
    Defect(20, "xml", "18", "The answer is 1234567890 or 1800 or 218", 0, "no_answer", "ambiguous"),
    Defect(21, "xml", "5", "I have no idea, 0 1 2 3 4 5 6 7 8 9", 0, "no_answer", "wrong"),
    # policy: the last number anywhere is the flexible answer, and is not paid.
    Defect(22, "xml", "18", "I cannot solve this. My guess: 18", 0, "no_answer", "correct"),
    # policy: what is called the answer goes before the last number, and keeps its sign.
    Defect(23, "xml", "18", "The answer is -$18. She pays in 18", 0, "no_answer", "wrong"),
    Defect(24, "xml", "3", "from 5 to -3... so 8-3", 0, "no_answer", "refused"),
    Defect(25, "xml", "-3", "8-3", 0, "no_answer", "refused"),
    Defect(26, "xml", "18", "The answer is 7. Confidence 18", 0, "no_answer", "wrong"),
    Defect(27, "xml", "18", "#### 7 #### 12 #### 18", 0, "no_answer", "ambiguous"),
    Defect(28, "xml", "1,200", "#### 1", 0, "no_answer", "wrong"),
    Defect(29, "xml", "18", "#### 18.75", 0, "no_answer", "wrong"),
    Defect(30, "xml", "5", "#### 5/8", 0, "no_answer", "wrong"),
    # policy: 20% is 0.2 unless the question asks for a percentage.
    Defect(31, "xml", "20", "#### 20%", 0, "no_answer", "wrong"),
    Defect(32, "xml", "18", "#### 18\n#### 19", 0, "no_answer", "ambiguous"),
    Defect(33, "xml", "-10", "no answer at all", 0, "no_answer", "no_answer"),
    Defect(34, "boxed", "18", r"\boxed{18} or \boxed{19}", 0, "ambiguous", "ambiguous"),
    Defect(35, "think", "18", "<think>so 18?</think> <answer>19</answer>", 0, "wrong", "wrong"),
    Defect(36, "think", "12", "<think>3 * 4 = 12</think>\n<answer>12.5</answer>", 0, "wrong", "wrong"),
    # policy: an answer that the text behind it takes back is not single.
    Defect(37, "boxed", "18", r"\boxed{18} then the answer is 19", 0, "ambiguous", "ambiguous"),
    Defect(38, "xml", "18", "the answer is 18 or 19", 0, "no_answer", "ambiguous"),
    # policy: an expression left to compute is no answer.
    Defect(39, "boxed", "18", r"\boxed{(16-3-4)*2}", 0, "refused", "refused"),
    Defect(40, "boxed", "18", r"\boxed{9^{9^9} \bmod 18 + 18}", 0, "refused", "refused"),
    Defect(41, "xml", "18", "18%", 0, "no_answer", "wrong"),
    Defect(42, "boxed", r"\boxed{1}", r"\boxed{x^2=1}", 0, "refused", "refused"),
    Defect(43, "boxed", r"\boxed{\frac{1}{2^{99}}}", r"\boxed{\frac{1}{2^{98}}}", 0, "wrong", "wrong"),
    Defect(44, "boxed", r"\boxed{5\text{ cm}}", r"\boxed{5\text{ m}}", 0, "wrong", "wrong"),
    Defect(45, "boxed", r"\boxed{10_2}", r"\boxed{10_3}", 0, "wrong", "wrong"),
    Defect(46, "xml", "10{,}000", "10", 0, "no_answer", "wrong"),
    Defect(47, "boxed", "18", r"\boxed{0.18}", 0, "wrong", "wrong"),
    Defect(48, "boxed", "18", r"\boxed{1800}", 0, "wrong", "wrong"),
    Defect(49, "boxed", "20000", r"\boxed{20001}", 0, "wrong", "wrong"),
    Defect(50, "think", "18", "<think>\n\n</think>\n<answer>\n\n</answer>", 0, "no_answer", "no_answer"),
    Defect(
        51,
        "think",
        "18",
        "<think>\na\n</think>\n<answer>\nb\n</answer>\nand then" + " more words" * 5000,
        0,
        "refused",
        "refused",
    ),
    Defect(52, "think", "18", "First,Second,Next,", 0, "no_answer", "no_answer"),
    Defect(53, "think", "18", "\n-\n-\n-", 0, "no_answer", "no_answer"),
    Defect(54, "think", "18", "<think></think>", 0, "no_answer", "no_answer"),
    Defect(55, "think", "18", "<think></think><answer></answer>", 0, "no_answer", "no_answer"),
    Defect(56, "think", "18", NESTED, 0, "ambiguous", "ambiguous"),
    Defect(57, "think", "18", "</think><answer></answer>", 0, "no_answer", "no_answer"),
    # policy: equal boxes are one answer; without reasoning before the first the form earns nothing.
    Defect(58, "boxed", "18", r"\boxed{18} hmm no. \boxed{18}", 1.0, "correct", "correct"),
    Defect(59, "xml", "18", "17 18 19", 0, "no_answer", "wrong"),
    Defect(60, "xml", "5", "5000", 0, "no_answer", "wrong"),
]

RIGHT_BUT_UNPAID = [
    Defect(61, "xml", "1,200", xml("1200"), FULL, "correct", "correct"),
    Defect(62, "xml", "1200", xml("1,200"), FULL, "correct", "correct"),
    Defect(63, "xml", "-10", xml("-10"), FULL, "correct", "correct"),
    Defect(64, "xml", "18", xml("$18"), FULL, "correct", "correct"),
    Defect(65, "xml", "18", xml("18.0"), FULL, "correct", "correct"),
    Defect(66, "xml", "18", xml("18 eggs"), FULL, "correct", "correct"),
    Defect(67, "xml", "18", xml("18", "line 1\nline 2"), FULL, "correct", "correct"),
    Defect(68, "xml", "18", xml("18").rstrip("\n"), FULL, "correct", "correct"),
    Defect(69, "xml", "18", xml("18", "x" * 2000).rstrip("\n"), FULL, "correct", "correct"),
    Defect(70, "working_out", "1,200", work("1200"), FULL, "correct", "correct"),
    Defect(71, "working_out", "1200", work("1,200"), FULL, "correct", "correct"),
    Defect(72, "working_out", "-10", work("-10"), FULL, "correct", "correct"),
    Defect(73, "working_out", "10", work("-10"), 0, "wrong", "wrong"),
    Defect(74, "working_out", "0", work("0.0"), FULL, "correct", "correct"),
    Defect(75, "xml", "1,200", "#### 1200", 0.25, "no_answer", "correct"),
    Defect(76, "xml", "18", "#### $18", 0.25, "no_answer", "correct"),
    # policy: "Answer:" is the flexible answer; only the format's block, one box or one #### is paid.
    Defect(77, "xml", "18", "**Answer: 18**", 0, "no_answer", "correct"),
    Defect(78, "xml", "18", "#### $18", 0.25, "no_answer", "correct"),
    Defect(79, "xml", "18", "#### 18.", 0.25, "no_answer", "correct"),
    Defect(80, "xml", "18", "#### 18.00", 0.25, "no_answer", "correct"),
    Defect(81, "xml", "18", "####18", 0.25, "no_answer", "correct"),
    Defect(82, "xml", "18", "The answer is 18.", 0, "no_answer", "correct"),
    Defect(83, "xml", "1200", "The answer is 1,200", 0, "no_answer", "correct"),
    Defect(84, "xml", "18", "The answer is 18.00", 0, "no_answer", "correct"),
    Defect(85, "xml", "7", "Therefore the answer is +7", 0, "no_answer", "correct"),
    Defect(86, "xml", "-10", "the answer is -10", 0, "no_answer", "correct"),
    Defect(87, "xml", "1,200", "the answer is 1,200", 0, "no_answer", "correct"),
    Defect(88, "think", "84", "<answer>84</answer>", 1.0, "correct", "correct"),
    Defect(89, "xml", "-10", "the answer is -$10", 0, "no_answer", "correct"),
    Defect(90, "xml", "-10", "the answer is \u221210", 0, "no_answer", "correct"),
    Defect(91, "xml", "5.5", "5 1/2", 0.25, "no_answer", "correct"),
    Defect(92, "xml", "7", "Therefore the answer is +7", 0, "no_answer", "correct"),
    Defect(
        93,
        "boxed",
        "50",
        r"She spends $\boxed{50.0\%}$ of her weekend",
        1.05,
        "correct",
        "correct",
        question="What percentage of her weekend does she spend?",
    ),
    # policy: a decimal exponent of up to three digits is read, exactly.
    Defect(94, "xml", "1000", "the answer is 1e3", 0, "no_answer", "correct"),
    Defect(95, "xml", "20", "The answer is (A), also 10, and finally #### 20.", 0.25, "no_answer", "correct"),
    Defect(96, "xml", "18", "She makes 9*2=18.\n#### 18", 0.25, "no_answer", "correct"),
]

DEFECTS = WRONG_BUT_PAID + RIGHT_BUT_UNPAID
