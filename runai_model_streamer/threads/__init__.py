"""Daemon threads, and what a fork does to them and to memory."""
