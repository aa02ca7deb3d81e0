"""`python -m bench memory`: peak resident memory against the model's size, at several sizes and for each way to compress it.

Random weights of real shapes are written to disk in 16 bits, block by block, as the shards of any checkpoint. Each way then has
a process of its own, and what the kernel says of its peak (VmHWM) is taken when it ends: what is printed is that figure, what
of it is beyond a process that only has the libraries, and this as a multiple of the checkpoint. Pages of a mapped file count as
resident, as they do for the worker that watches an engine. What would take more than --room is not tried, and printed as such.

- open: stock from_pretrained, in the checkpoint's own type; open in float32: what a job with the model in memory starts with.
- quantize: the integers of every weight, from file to file (`export.transformers.sharded`).
- prune and quantize: scores of 64 rows of 512 tokens, a cut of 30 % of all feed-forward units, int8 (`layerwise`, then
  `export.transformers.sharded`).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ROOT = Path(__file__).parent.parent
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 64, "layers": 4, "heads": 4, "groups": 2, "ffn": 192, "vocabulary": 4_096},
    "smollm2-135m": {"hidden": 576, "layers": 30, "heads": 9, "groups": 3, "ffn": 1_536, "vocabulary": 49_152},
    "smollm2-360m": {"hidden": 960, "layers": 32, "heads": 15, "groups": 5, "ffn": 2_560, "vocabulary": 49_152},
    "smollm2-1.7b": {"hidden": 2_048, "layers": 24, "heads": 32, "groups": 32, "ffn": 8_192, "vocabulary": 49_152},
    "llama-3-8b": {"hidden": 4_096, "layers": 32, "heads": 32, "groups": 8, "ffn": 14_336, "vocabulary": 128_256},
}
"""Widths as their authors publish them; all have tied tables but the last."""
UNTIED = frozenset({"llama-3-8b"})
WAYS = ("libraries", "open", "open in float32", "quantize", "prune and quantize")
EXPECTED: dict[str, Callable[[int], int]] = {
    "open": lambda file: 11 * file // 10,
    "open in float32": lambda file: 31 * file // 10,
}
"""Peak bytes by checkpoint bytes, if the model is in memory: mapped pages and the tensors made from them."""
ROWS, TOKENS = 64, 512
"""Calibration rows and their length, in batches as a job has them (`layerwise.TOGETHER`)."""
DISK = 3.5
"""Disk space as a multiple of the checkpoint: itself, a cut, and the integers of that."""


def main(arguments: list[str]) -> None:
    """Print a row per size and way."""
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["smollm2-135m", "smollm2-360m", "smollm2-1.7b"])
    parser.add_argument("--room", type=float, default=20.0, metavar="GIB", help="memory that may be taken (default: 20)")
    parser.add_argument("--scratch", type=Path, help="where checkpoints lie meanwhile (default: the system's)")
    asked = parser.parse_args(arguments)
    print("| shape | parameters | checkpoint, 16 bit | way | peak resident | beyond the libraries | × checkpoint |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in asked.shape:
        with tempfile.TemporaryDirectory(prefix="lathe-memory-", dir=asked.scratch) as place:
            print("\n".join(lines(name, Path(place), int(asked.room * 2**30))), flush=True)


def lines(name: str, place: Path, room: int) -> list[str]:
    """Measure one shape in every way."""
    parameters = parameters_of(name)
    free = shutil.disk_usage(place).free
    if 2 * parameters * DISK > free:
        lacking = f"not_measured: its files take {2 * parameters * DISK / 1e9:.1f} GB, {free / 1e9:.1f} GB of disk are free"
        return [f"| {name} | {parameters / 1e6:,.0f} M | | | {lacking} | | |"]
    child("make", name, place)
    file = sum(path.stat().st_size for path in (place / "model").glob("*.safetensors"))
    libraries, out = 0, []
    for way in WAYS:
        needed = EXPECTED[way](file) if way in EXPECTED else 0
        if needed > room:
            figures = f"not_measured: about {needed / 2**30:.1f} GiB, more than the {room / 2**30:.1f} GiB allowed | | |"
        else:
            figures, libraries = measured(way, place, libraries, file)
        out.append(f"| {name} | {parameters / 1e6:,.0f} M | {file / 2**20:,.0f} MiB | {way} | {figures}")
    return out


def measured(way: str, place: Path, libraries: int, file: int) -> tuple[str, int]:
    """Measure one way; a failure replaces its figures. -> cells, and the peak of the libraries alone."""
    try:
        peak = child("measure", way, place)
    except ChildProcessError as problem:
        return f"not_measured: {str(problem).strip().splitlines()[-1][:200]} | | |", libraries
    libraries = libraries or peak
    beyond = peak - libraries
    return f"{peak / 2**20:,.0f} MiB | {beyond / 2**20:,.0f} MiB | {beyond / file:.2f} |", libraries


def child(what: str, name: str, place: Path) -> int:
    """Make a shape's checkpoint, or measure a way, in a process of its own; return its peak. Raises ChildProcessError."""
    command = [sys.executable, "-m", "bench.memory", what, name, str(place)]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"}
    )
    if done.returncode != 0:
        said = done.stderr.strip() or "nothing was said"
        raise ChildProcessError(f"{said}\n{what} {name} ended with {done.returncode}: {said.splitlines()[-1]}")
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def config_of(name: str) -> "PretrainedConfig":
    """Make a shape's stock config."""
    from transformers import LlamaConfig

    shape = SHAPES[name]
    return LlamaConfig(
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["groups"],
        intermediate_size=shape["ffn"],
        vocab_size=shape["vocabulary"],
        max_position_embeddings=2_048,
        tie_word_embeddings=name not in UNTIED,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def parameters_of(name: str) -> int:
    """Count a shape's parameters."""
    from compression.models.architectures.families import ARCHITECTURE_SPECS
    from compression.models.architectures.shapes import parameters_at
    from compression.schema.report.measurements import Shape

    shape = SHAPES[name]
    size = shape["hidden"] // shape["heads"]
    outputs = shape["vocabulary"] if name in UNTIED else 0
    return parameters_at(ARCHITECTURE_SPECS["llama"], Shape(**shape, head_size=size), outputs=outputs).total


def make(name: str, folder: Path) -> None:
    """Write random weights, a few rows at a time: norms are 1, all else is drawn from N(0, 0.02²)."""
    import torch
    from transformers import LlamaForCausalLM

    from compression.models.sharded_checkpoint import PlannedTensor, writing

    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(name))
    torch.manual_seed(0)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    plan = [[PlannedTensor(name, torch.bfloat16, shape)] for name, shape in shapes.items()]
    with writing(folder, plan, largest=1 << 30) as shards:
        for name, shape in shapes.items():
            if len(shape) == 1:
                shards.put(name, torch.ones(shape, dtype=torch.bfloat16))
                continue
            step = max(1, (4 << 20) // shape[1])
            for start in range(0, shape[0], step):
                rows = torch.randn(min(step, shape[0] - start), shape[1]) * 0.02
                shards.put(name, rows.to(torch.bfloat16))
        model.config.save_pretrained(shards.folder)
        model.generation_config.save_pretrained(shards.folder)


def use(way: str, place: Path) -> None:
    """Do what a way does with the checkpoint in place/model."""
    import torch
    import transformers  # noqa: F401 (all ways hold the libraries)

    from compression.export.transformers import sharded

    torch.set_num_threads(1)
    folder, made = place / "model", place / way.replace(" ", "-")
    if way == "libraries":
        from compression.engine.on_disk import layerwise  # noqa: F401
    elif way.startswith("open"):
        from transformers import AutoModelForCausalLM

        dtype = torch.float32 if way.endswith("float32") else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        # Mapped weights come to memory when they are looked at.
        with torch.no_grad():
            print(float(sum(weight.sum(dtype=torch.float32) for weight in model.parameters())))
    elif way == "quantize":
        print(sharded.quantize(folder, made))
        shutil.rmtree(made)
    else:
        prune_and_quantize(folder, made)


def prune_and_quantize(folder: Path, made: Path) -> None:
    """Compress without training."""
    import torch

    from compression.engine.on_disk.layerwise import TOGETHER, LayerwiseRunner
    from compression.export.transformers import sharded
    from compression.modalities.text.batches import Batch
    from compression.models.architectures.decoder_configs import decoder_shape

    layers = LayerwiseRunner(folder)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, layers.model.config.vocab_size, (ROWS, TOKENS), generator=draw)
    size = TOGETHER // TOKENS
    nothing = torch.zeros(size, dtype=torch.int64)
    batches = [Batch(part, torch.ones_like(part), nothing, torch.arange(size)) for part in torch.split(ids, size)]
    scores = None
    steps = layers.scores(batches, made / "states")
    while scores is None:
        try:
            next(steps)
        except StopIteration as end:
            scores = end.value
    to = decoder_shape("llama", layers.family.shape_of(layers.model.config), {"ffn": 0.3}, 64)
    for _ in layers.cut(scores.choose(layers.family, to), made / "cut"):
        pass
    print(sharded.quantize(made / "cut", made / "int8"))
    shutil.rmtree(made)


def peak() -> int:
    """Return the peak resident memory of this process."""
    from compression.evaluation.measure import peak_memory

    found = peak_memory()
    if not isinstance(found, int):
        raise SystemExit(found.not_measured)
    return found


def run_child() -> None:
    """Do what `child` asks of this process; print its peak."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="One process of `python -m bench memory`.")
    parser.add_argument("what", choices=["make", "measure"], help="make a shape's checkpoint, or measure a way to compress it")
    parser.add_argument("name", help="of the shape, or of the way")
    parser.add_argument("folder", type=Path, help="where the checkpoint lies")
    asked = parser.parse_args()
    if asked.what == "make":
        make(asked.name, asked.folder / "model")
    else:
        use(asked.name, asked.folder)
    print(json.dumps({"peak": peak()}))


if __name__ == "__main__":
    run_child()
