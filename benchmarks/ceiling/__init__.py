"""What a loader's own code costs: loads from a disk of any speed."""
