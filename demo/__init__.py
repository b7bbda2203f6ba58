"""`make demo`: streams a real model's tensor layout from disk and from S3, and checks every tensor."""
