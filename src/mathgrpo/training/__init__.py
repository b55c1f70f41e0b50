"""Training: from a recipe to a run folder."""

from mathgrpo.training.interrupt import Interrupted
from mathgrpo.training.loop import plan_lines_of, train

__all__ = ["Interrupted", "plan_lines_of", "train"]
