"""Rollout through transformers' own forward pass."""
