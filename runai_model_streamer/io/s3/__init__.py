"""S3 and S3-compatible stores: opens, lists, signs, and knows boto3."""
