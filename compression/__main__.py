"""The engine's command: `python -m compression run|rank|validate|measure|measure-card|predict|profile|probe|lm-eval-job SPEC`.

`python -m compression lm-eval FOLDER …` runs lm-eval on a checkpoint, `python -m compression serve FOLDER` serves an artifact,
`python -m compression device-table --out FILE` measures what single layers cost here.

`run` writes one JSON event per line to a pipe. Its exit codes: 0 (finished), 2 (the job cannot be done as requested, or not
here; a `failed` event gives the reason), 3 (paused, because its parent wrote the line `pause` to its standard input; only with
--die-with-parent) and 1 (a bug, with its traceback on standard error). Each subcommand imports only what it needs: `validate`,
`measure` and `predict` must not pay for importing torch, and must not expose it to a hostile file.
"""

import argparse
import os
import sys
from pathlib import Path

from compression.evaluation.lm_eval import harness
from compression.serving import command as serving
from compression.system import process

MODULES = {
    "run": "compression.engine.commands.run",
    "validate": "compression.engine.commands.validate",
    "probe": "compression.engine.commands.probe",
    "rank": "compression.engine.commands.rank",
    "measure": "compression.evaluation.measure",
    "measure-card": "compression.evaluation.on_card.measure",
    "predict": "compression.evaluation.predict",
    "profile": "compression.evaluation.profiling.command",
    "profile-part": "compression.evaluation.profiling.part",
    "lm-eval-job": "compression.evaluation.lm_eval.harness_model",
    "device-table-job": "compression.export.device_table.command",
}
"""Subcommand → the module whose `main` runs it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m compression", description="The engine of Lathe.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("run", "compress a model as the specification says"),
        ("validate", "check the files of a model or a dataset"),
        ("probe", "try the device that a worker's engines will have"),
        ("rank", "do one process's part of a training on several devices"),
        ("measure", "measure an artifact in this fresh process"),
        ("measure-card", "time models on the GPU in each runtime"),
        ("predict", "let a job's model before and after answer one row"),
        ("profile", "measure what an artifact costs on this machine"),
        ("profile-part", "open an artifact in this fresh process for its profile"),
        ("lm-eval-job", "ask a job's model what tasks of lm-eval ask"),
        ("device-table-job", "measure what single layers cost here, for a job"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("spec", type=Path, metavar="SPEC.json")
        command.add_argument("--die-with-parent", action="store_true", help="be killed when the parent process ends")
        if name == "run":
            command.add_argument("--events-fd", type=int, default=1, metavar="N", help="where events go (default: stdout)")
    tasks = commands.add_parser("lm-eval", help="ask a language model's checkpoint what tasks of lm-eval ask")
    harness.add_arguments(tasks)
    serving.add_arguments(commands.add_parser("serve", help="serve an artifact over HTTP"))
    table = commands.add_parser("device-table", help="measure what single layers cost here, in minutes, and print the table")
    table.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table as JSON; what it has already stays")
    table.add_argument("--threads", type=int, default=1, help="threads of the runtimes (default: 1)")
    table.add_argument("--quick", action="store_true", help="a few layers of each operation, in seconds")
    options = parser.parse_args(arguments)
    # Threads that spin for long while they wait take the cores from working threads of another job, and both slow down (80
    # times slower was measured). No spinning at all costs one wake-up per operation, twice the time of a step here. So: spin
    # briefly. The OpenMP runtime reads this variable once, when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if options.command == "lm-eval":
        return harness.main(options)
    if options.command == "serve":
        return serving.main(options)
    code: int
    if options.command == "device-table":  # imported here, because it imports torch
        code = process.imported(MODULES["device-table-job"]).show(options)
        return code
    if options.die_with_parent:
        process.die_with_parent()
    module = process.imported(MODULES[options.command])
    if options.command == "run":
        pauses = process.PauseRequests() if options.die_with_parent else None
        code = module.main(options.spec, options.events_fd, pauses)
    else:
        code = module.main(options.spec)
    return code


if __name__ == "__main__":
    sys.exit(main())
