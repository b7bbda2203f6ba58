"""Copies files from object storage to local disks."""
