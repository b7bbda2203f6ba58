"""Plots of measured loads, reports and traces, for notebooks. Each function takes data and returns a figure.

They need the package's [notebook] extra, for matplotlib.
"""

from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.installation import install_command

try:
    from runai_model_streamer.plots.figure import Plot
    from runai_model_streamer.plots.latencies import latencies
    from runai_model_streamer.plots.shares import time_shares
    from runai_model_streamer.plots.throughput import comparison, memory, throughput
    from runai_model_streamer.plots.timeline import timeline
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("matplotlib", "PIL"):
        raise
    raise MissingDependencyError("plots need matplotlib", remedy=install_command("notebook"), sep=": ") from error

__all__ = ["Plot", "comparison", "latencies", "memory", "throughput", "time_shares", "timeline"]
