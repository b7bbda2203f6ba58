"""Reads Azure Blob Storage (az://, https://account.blob.core.windows.net) in ranges of one version of a blob."""
