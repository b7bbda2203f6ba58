"""What a load counts and times."""
