"""Reports of loads: times and counts, the bottleneck, and progress."""

from runai_model_streamer.report.load_report import LoadReport

__all__ = ["LoadReport"]
