"""Recipes: the settings of a run, read from TOML and the command line, checked before anything heavy is imported."""

from mathgrpo.config.load_recipe import load_model, load_recipe, recipe_to_toml
from mathgrpo.config.recipe import Recipe

__all__ = ["Recipe", "load_model", "load_recipe", "recipe_to_toml"]
