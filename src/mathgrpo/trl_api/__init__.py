"""One import: TRL's GRPOConfig, GRPOTrainer and reward functions on this package's engine.

Import the names from `mathgrpo`, which reads each module on first use.
"""
