"""Training: from a recipe to a run folder."""

from mathgrpo.runs.interrupt import Interrupted
from mathgrpo.training.dry_run import plan_lines_of
from mathgrpo.training.train_recipe import train

__all__ = ["Interrupted", "plan_lines_of", "train"]
