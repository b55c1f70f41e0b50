"""Where problems come from: generated, a file or folder, or the hub."""

from __future__ import annotations

from mathgrpo.problems.sets import ProblemSets
from mathgrpo.problems.sources import load_heldout, load_problem_sets

__all__ = ["ProblemSets", "load_heldout", "load_problem_sets"]
