"""The search for a recipe's best settings."""
