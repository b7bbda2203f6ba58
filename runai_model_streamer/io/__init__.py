"""Sources of bytes: files and object storage. Independent of pipelines, slabs and torch."""
