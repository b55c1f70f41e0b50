"""Training: from a recipe to a run folder."""

from mathgrpo.runs.interrupt import Interrupted
from mathgrpo.training.train_recipe import plan_lines_of, train

__all__ = ["Interrupted", "plan_lines_of", "train"]
