"""Reads and lists S3 and compatible stores. The only package that knows boto3."""
