"""The folder that vLLM's Python gets on its path: the worker extension, and nothing that could hide another module."""
