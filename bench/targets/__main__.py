"""`python -m bench targets PART`: what answers to targets promise, against what is measured.

  milliseconds     predicted against measured, over 20 shapes of an encoder and of a network of images
  ranks            scores predicted before training against those after it, over 12 cuts of one encoder
  free-or-uniform  widths of each layer against one for all layers, at equal milliseconds, on four sets
  bits             layers in 8 bits among others in 4 against 4 bits for all, within equal bytes, on four sets
  auto             ten jobs of the recipe `auto`, on sets and seeds that it was not developed with
  searches         python -m bench search: the solver, TPE, NSGA-II and reinforcement learning side by side
  decoder          SmolLM2 at -30 % by the solver and by `auto`, against the preset `language`, on the same tokens

A part's steps run one after another; each leaves a record in bench/targets/records, and what has one is not run again. A call
ends after --minutes, and the same command goes on. --plan lists the steps, --table-only prints the records; both run nothing.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.examples import EXAMPLES
from bench.targets import auto, bits, decoder, milliseconds, ranks, searches, widths
from bench.targets.steps import Clock, Place, Step, run_steps

ROOT = Path(__file__).parents[2]
RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True)
class Part:
    """One line of what is promised."""

    steps: Callable[[Place], Iterator[Step]]
    table: Callable[[Path], str]


PARTS = {
    "milliseconds": Part(milliseconds.steps, milliseconds.table),
    "ranks": Part(ranks.steps, ranks.table),
    "free-or-uniform": Part(widths.steps, widths.table),
    "bits": Part(bits.steps, bits.table),
    "auto": Part(auto.steps, auto.table),
    "searches": Part(searches.steps, searches.table),
    "decoder": Part(decoder.steps, decoder.table),
}


def main(arguments: list[str] | None = None) -> None:
    """Run a part's missing steps, then print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench targets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--minutes", type=float, help="after which this call ends")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="where scripts/fetch_examples.py put models and data")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="glue/, intents/, text/, vision/")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-targets", help="where runs are kept")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--plan", action="store_true", help="list the steps, and which have a record")
    mode.add_argument("--table-only", action="store_true", help="print the records")
    asked = parser.parse_args(arguments)
    part, records = PARTS[asked.part], asked.records.resolve() / asked.part
    place = Place(asked.examples.resolve(), asked.data.resolve(), asked.folder.resolve(), records, asked.threads)
    if asked.plan:
        for step in part.steps(place):
            print(f"{step.name}: {'to do' if step.kept(records) is None else 'has a record'}", flush=True)
        return
    if not asked.table_only:
        run_steps(part.steps(place), records, Clock(asked.minutes))
    print(part.table(records), flush=True)


if __name__ == "__main__":
    main()
