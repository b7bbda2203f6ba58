"""Where bytes come from. Knows nothing of pipelines, slabs or torch."""
