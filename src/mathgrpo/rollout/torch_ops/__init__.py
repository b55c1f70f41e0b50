"""Rollout of the fast family in torch operations."""
