"""A figure that was promised, and whether a run kept the promise."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tables import aligned


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the report; `passed` is None where the run did not measure it, or where nothing was promised."""

    number: int
    text: str
    wanted: str
    value: str
    passed: bool | None

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "MISS", None: "-"}[self.passed]


def least(number: int, text: str, value: float | None, wanted: float, note: str = "") -> Claim:
    """A claim that a figure is at least so much; `note` is shown behind it."""
    shown = "not measured" if value is None else f"{value:.2f}{note}"
    return Claim(number, text, f">= {wanted:g}", shown, None if value is None else value >= wanted)


def most(number: int, text: str, value: float | None, wanted: float, unit: str = "") -> Claim:
    """A claim that a figure is at most so much."""
    shown = "not measured" if value is None else f"{value:.4g}{unit}"
    return Claim(number, text, f"<= {wanted:.4g}{unit}", shown, None if value is None else value <= wanted)


def named(number: int, text: str, value: float | None) -> Claim:
    """A figure that nothing was promised of."""
    return Claim(number, text, "named", "not measured" if value is None else f"{value:.2f}", None)


def spread(values: list[float]) -> str:
    """The smallest and the largest of the rounds, as a note."""
    return f" (rounds {min(values):.2f} to {max(values):.2f})" if values else ""


def report(claims: list[Claim]) -> str:
    rows = [(str(c.number), c.text, c.wanted, c.value, c.verdict) for c in claims]
    return aligned([("no", "claim", "wanted", "value", "verdict"), *rows], left=5)
