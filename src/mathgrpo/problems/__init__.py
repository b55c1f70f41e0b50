"""Where problems come from: generated, a file or folder, or the hub."""

from __future__ import annotations

from mathgrpo.problems.origin import load_heldout, load_problem_sets
from mathgrpo.problems.sets import ProblemSets

__all__ = ["ProblemSets", "load_heldout", "load_problem_sets"]
