"""From headers to tensors: plan, memory, readers, landing. The only place with threads."""
