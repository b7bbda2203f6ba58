"""What runs inside engines: a plugin for vLLM. Nothing here is imported before the engine asks for it."""
