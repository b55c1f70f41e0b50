"""Optimizer, schedule, float32 masters."""
