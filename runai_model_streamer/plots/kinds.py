"""Names and colours of thread activities and of bottlenecks, the same in every plot."""

from typing import Final, NamedTuple

from runai_model_streamer.origins import Origin


class Kind(NamedTuple):
    """The name and colour of one activity or bottleneck."""

    label: str
    colour: str


READS: Final = {origin.value: Kind(origin.act, origin.colour) for origin in Origin}
"""Reads, by their `origin` in a trace."""

REST: Final = Kind("rest: more readers than CPUs", "#EFE6D2")

ACTS: Final = {
    "queue copies": Kind("queue copies to the device", "#CC79A7"),
    "copy to the device": Kind("copy to the device", "#CC79A7"),
    "wait for a slot": Kind("wait for a pinned slot", "#E8B4CF"),
    "wait for memory": Kind("wait for memory", "#D55E00"),
    "wait for its turn": Kind("wait for its turn", "#C9B8A6"),
    "open and plan": Kind("open and plan", "#882255"),
    "start threads": Kind("start threads", "#B07AA1"),
    "make tensors": Kind("make tensors", "#E69F00"),
    "caller's code": Kind("caller's code", "#F0E442"),
    "wait for bytes": Kind("wait for bytes", "#DDDDDD"),
    REST.label: REST,
    "close": Kind("close", "#777777"),
}
"""Other events, by their name in a trace."""

OTHER: Final = "#222222"
"""Colour of events that have none above."""

BOUNDS: Final = {
    "storage": Kind("storage", "#0072B2"),
    "network": Kind("network", "#009E73"),
    "cpu": Kind("CPU", "#E69F00"),
    "copy": Kind("copy to the device", "#CC79A7"),
    "memory": Kind("memory limit", "#D55E00"),
    "caller": Kind("caller", "#F0E442"),
    "imports": Kind("imports", "#999999"),
    "compiling": Kind("compiling", "#666666"),
    "credentials": Kind("credentials", "#882255"),
    "connecting": Kind("connecting", "#56B4E9"),
}
"""Bottlenecks, by their name in `LoadReport.shares`."""
