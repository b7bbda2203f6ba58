"""The engines that our users run, vLLM and SGLang: their calls, their code, their pins."""
