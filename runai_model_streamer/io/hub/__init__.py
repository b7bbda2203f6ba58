"""Models of the Hugging Face Hub, hf://: resolved and listed by huggingface_hub, read in ranges from its CDN."""
