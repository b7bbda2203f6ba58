"""A run: prepare the loaders, let them take turns, print, write. What the drivers of files/ and objects/ share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.caches import CacheStateError
from benchmarks.environments import TORCH, CannotRunError, Environment, Peer
from benchmarks.tables import Results, Row, SampleT, ScenarioT
from benchmarks.worker_process import LoadError


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--rounds", type=int, default=5, help="counted rounds of every scenario (5)")
    made.add_argument("--out", type=Path, help="also write the tables here, for example files.md")
    made.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="another checkout of ours, to run in turns with it"
    )
    made.add_argument("--torch", default=TORCH, help="the requirement that every environment is made with")
    return made


def beside(loaders: tuple[str, ...], ours: str, before: str) -> tuple[str, ...]:
    """The loaders of a scenario with another checkout of ours right after ours."""
    return tuple(each for loader in loaders for each in ((loader, before) if loader == ours else (loader,)))


def wanted(names: Iterable[str], known: Mapping[str, Peer]) -> set[str]:
    """The names, which must all be known."""
    chosen = set(names)
    if unknown := chosen - set(known):
        raise SystemExit(f"no loader {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return chosen


def environments(
    names: set[str], known: Mapping[str, Peer], prepare: Callable[[str, str], Environment], torch: str
) -> tuple[dict[str, Environment], dict[str, str]]:
    """Loaders that run here, and for each of the others why it does not."""
    ready: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for name in known:
        if name in names:
            try:
                ready[name] = prepare(name, torch)
            except CannotRunError as reason:
                missing[name] = str(reason)
                say(f"{name} cannot run here: {reason}")
    return ready, missing


def alternate(
    rows: Iterable[Row[ScenarioT, SampleT]], rounds: int, load: Callable[[Row[ScenarioT, SampleT], bool], SampleT]
) -> None:
    """Let the rows' loaders take turns, A B C A B C; `load(row, check)` is one load. One that fails has no figures.

    The first turn is not counted: `check` says to compare the bytes of a few tensors with the file in it.
    """
    rows = list(rows)
    for turn in range(rounds + 1):
        for row in rows:
            if row.failure:
                continue
            try:
                sample = load(row, turn == 0)
            except (LoadError, CacheStateError) as reason:
                row.failure = f"failed: {reason}"
                row.samples.clear()
                say(f"{row.scenario.name} {row.entry}: {row.failure}")
                continue
            if turn:
                row.samples.append(sample)
                said = f"{sample.seconds:.2f} s, {sample.gb_per_s:.2f} GB/s"
                say(f"{row.scenario.name} {turn}/{rounds} {row.entry}: {said}")


def publish(
    blocks: Iterable[list[Row[ScenarioT, SampleT]]],
    measured: Results[ScenarioT, SampleT],
    document: Callable[[], str],
    out: Path | None,
) -> None:
    """Add the rows of each block to what was measured, write the document, and print it in the end.

    It is written after each block: what is measured should outlive what ends a run of most of an hour.
    """
    for rows in blocks:
        for row in rows:
            measured.add(row)
        if out:
            out.write_text(document())
    print(document())


def document(
    title: str, script: str, arguments: list[str] | None, rounds: int, facts: Iterable[str], claims: str, table: str
) -> str:
    """The page of results; `arguments` are those of the command, None for this process's own."""
    command = " ".join(["python -m", script, *(sys.argv[1:] if arguments is None else arguments)])
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Written by `{command}`.",
            "",
            f"Medians of {rounds} rounds, every load in a process of its own, a scenario's loaders in alternation.",
            f"How each column is measured is in `{script}`'s `__main__.py`.",
            "",
            *(f"- {fact}" for fact in facts),
            "",
            "## What was promised",
            "",
            claims,
            "",
            "## What was measured",
            "",
            table,
            "",
        ]
    )
