"""A trained model at work: streamed answers, graded traces, an OpenAI-compatible server."""
