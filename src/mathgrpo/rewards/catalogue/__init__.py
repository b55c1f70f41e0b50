"""The rewards to train with. Form never makes a wrong answer worth more than a right one: `build_suite` sees to it.

"Right" means: the verdict on the format's one final answer block is "correct". What pays on right answers only earns a
wrong answer exactly 0; what pays on others too (`format_always`, `format_parts`, `near_answer`) has a limited weight.
"""
