"""Copies of what object storage holds, on local disks."""
