"""What runs inside engines: plugins for vLLM and SGLang. Each is imported when its engine asks for it."""
