"""The plugin for vLLM against vLLM's own loaders, in its CPU worker."""
