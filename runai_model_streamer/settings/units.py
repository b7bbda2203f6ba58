"""Numbers of bytes as readers see them.

What was counted is shown in powers of 1000, like the speeds next to it. A setting is shown as its variable takes it, so
that it can be copied.
"""

from typing import Final

_DECIMAL: Final = ("kB", "MB", "GB", "TB", "PB")
_SCALES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def size_text(count: float) -> str:
    """Return a number of bytes with three digits: `512 bytes`, `62.9 kB`, `316 MB`, `4.31 GB`."""
    steps = 0
    while count >= 999.5 and steps < len(_DECIMAL):
        count, steps = count / 1000, steps + 1
    if not steps:
        return f"{count:.0f} byte{'' if round(count) == 1 else 's'}"
    decimals = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{decimals}f} {_DECIMAL[steps - 1]}"


def rate_text(count: float, seconds: float) -> str:
    """Return a speed: `1.24 GB/s`. No time counts as no speed."""
    return f"{size_text(count / seconds if seconds > 0 else 0)}/s"


def setting_text(count: int) -> str:
    """Return a number of bytes exactly, as a variable takes it: `4GiB`, `8MiB`, `500MB`."""
    number, unit = min((count // scale, unit) for unit, scale in _SCALES.items() if count % scale == 0)
    return f"{number}{unit}"


def limit_text(count: int) -> str:
    """Return a limit as it was set, and as what was counted is shown, to compare: `320MiB (336 MB)`."""
    set_to, counted = setting_text(count), size_text(count)
    return f"{set_to} ({counted})" if set_to.endswith("iB") else counted


def log_text(count: float) -> str:
    """Return a number of bytes as the original streamer's log has it, which tools parse: `15.0 GiB`."""
    for unit in ("Bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "Bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
