"""The update's own forward and backward pass for Qwen2, Qwen3 and Llama models."""
