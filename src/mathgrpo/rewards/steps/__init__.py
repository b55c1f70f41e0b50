"""Rewards for verified arithmetic: the claims of a text, what became of each, and what that pays."""
