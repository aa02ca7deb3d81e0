"""Runs the steps of a part that have no record yet, one after another, until the minutes of the call are over."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import record_file
from bench.engine import Stopped
from bench.others import Others, ProcessTime
from compression.schema.recipe.recipe import Recipe

Facts = dict[str, Any]
FEWEST_MINUTES = 1.5
"""No step begins with less: an engine is asked to save a minute before the end."""


@dataclass(frozen=True)
class Place:
    """Where a part finds its inputs, and where its runs and records lie."""

    examples: Path  #: what scripts/fetch_examples.py wrote: model, data, decoder
    data: Path  #: copies of public sets: glue/, intents/, text/, vision/
    folder: Path  #: of runs; they may be removed once the part is done
    records: Path  #: of this part
    threads: int | None = None  #: of training; None: all cores


class Clock:
    """The minutes of one call."""

    def __init__(self, minutes: float | None = None) -> None:
        """minutes: None is no limit."""
        self.ended = None if minutes is None else time.monotonic() + 60 * minutes

    def left(self) -> float | None:
        """Return the minutes that are left; None without a limit. Raises Stopped if there are too few to do anything."""
        if self.ended is None:
            return None
        minutes = (self.ended - time.monotonic()) / 60
        if minutes < FEWEST_MINUTES:
            raise Stopped("the minutes of this call are over; the same command goes on from here")
        return minutes


@dataclass(frozen=True)
class Step:
    """One record of a part."""

    name: str  #: of the record's file
    about: Facts  #: what the result depends on beside code and machine: digests of model and rows, recipe, settings
    make: Callable[[Clock], Facts]
    folders: tuple[Path, ...] = ()  #: of runs that nothing needs once the record is there

    def kept(self, records: Path) -> Facts | None:
        """Return the record, or None if there is none or if it is of other inputs."""
        found = record_file.read(records / f"{self.name}.json")
        return found if found is not None and _comparable(found["about"]) == _comparable(self.about) else None


def _comparable(about: Mapping[str, Any]) -> Facts:
    """Return the facts with the recipe as it is read today: a key that was not there yet has its default."""
    if "recipe" not in about:
        return {**about}
    return {**about, "recipe": Recipe.model_validate(record_file.left_to_machine(about["recipe"]))}


def run_steps(steps: Iterable[Step], records: Path, clock: Clock) -> None:
    """Make the records that are missing, in order. Raises Stopped when the minutes are over."""
    for step in steps:
        if step.kept(records) is not None:
            continue
        clock.left()
        own = ProcessTime(os.getpid())
        others, started = Others(own.seconds), time.monotonic()
        with own.watched():
            found = step.make(clock)
        # Of the call in which the step ended: what earlier calls of a step that was stopped saw is not known any more.
        seen = {"others": round(others.share(), 3), "call_seconds": round(time.monotonic() - started, 1)}
        record_file.write(records / f"{step.name}.json", {"about": step.about, **found, **seen})
        for folder in step.folders:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{step.name}: {seen['call_seconds'] / 60:.1f} min, others took {seen['others']:.0%}", flush=True)


def records_of(records: Path, prefix: str = "") -> Iterator[tuple[str, Facts]]:
    """Yield the name and the content of a part's records, by name."""
    for path in sorted(records.glob(f"{prefix}*.json")):
        found = record_file.read(path)
        assert found is not None, "it was just listed"
        yield path.stem, found


def line(*cells: object) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*names: str) -> list[str]:
    """Return the head of a table in Markdown."""
    return [line(*names), "|" + " --- |" * len(names)]


def told(*, holds: bool) -> str:
    """Return whether what is promised holds, in a word."""
    return "yes" if holds else "**no**"
