"""Reads files of web servers (https:// and http://) in ranges, and finds a model's files by their usual names."""
