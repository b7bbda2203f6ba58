"""Reads models of the Hugging Face Hub (hf://): huggingface_hub resolves and lists them, the CDN serves the ranges."""
