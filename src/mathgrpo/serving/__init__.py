"""A trained model at work: streamed answers, an OpenAI-compatible server."""
