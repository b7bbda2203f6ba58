"""What a load did, what bound it, and how far it is."""

from runai_model_streamer.report.load_report import LoadReport

__all__ = ["LoadReport"]
