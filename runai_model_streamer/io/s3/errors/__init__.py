"""What S3, boto3 and the network say, as errors of this package."""
