"""What is kept of a finished stage, so that a new attempt goes on from it and trains nothing twice.

A checkpoint is a folder named for its stage: the model as stock files, and state.json with the rows so far. It is written
beside its place, synced and renamed, so a killed attempt and a power cut leave a whole one or none. It is trusted only for
the same work (the fingerprint) and only whole (every digest).
"""

import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from transformers import PreTrainedModel

from compression import durable, numerics
from compression.augment.resources import Resources
from compression.budget import Spent
from compression.errors import CompressionError, DeviceError, DiskFull, OutOfMemory
from compression.heads import of_task
from compression.load import open_stock
from compression.recipe import Config, Spec, Task
from compression.report import STAGES, Artifact, File, Row, Sensitivity, Stage

FORMAT = 1
"""Raise it when what a stage computes or keeps changes so that older checkpoints must not be gone on from."""
STATE = "state.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


class Checkpoint(Config):
    """state.json: all that the rest of the job and the report need beside the weights."""

    fingerprint: Annotated[str, Field(description="sha256 of all that the result depends on: recipe, data, model, code.")]
    stage: Stage
    task: Task = "text-classification"
    labels: tuple[str, ...]
    simulated: Annotated[bool, Field(description="Whether the model computes with fake-quantized integers.")]
    rows: tuple[Row, ...]
    artifacts: tuple[Artifact, ...]
    pruning: dict[str, Any] | None
    sensitivity: Annotated[dict[str, tuple[Sensitivity, ...]], Field(default_factory=dict)]
    spent: Annotated[Spent, Field(description="What the job has trained so far.")] = Spent()
    files: Annotated[tuple[File, ...], Field(description="The model's files beside this one.")]


class Unusable(Exception):
    """A checkpoint that cannot be gone on from, and why. It costs time only: the stage is done again."""


def code_version() -> str:
    """Name the version of the code; one that runs from its folder without being installed has none."""
    try:
        return version("lathe")
    except PackageNotFoundError:
        return "not installed"


def fingerprint(spec: Spec, base: Path) -> str:
    """Digest all that the stages' results depend on: two jobs with the same one compute the same.

    How often training is saved, and in how many parts a batch is computed, is not in it: a job whose memory did not suffice
    goes on from what it has.
    """
    folder = base / spec.model
    model = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.is_file()}
    data = {split: [digest(base / file) for file in files] for split, files in spec.data.splits.items()}
    augment = spec.recipe.distill.augment if spec.recipe.distill else None
    facts = {
        "format": FORMAT,
        "code": code_version(),
        "task": spec.task,
        "recipe": spec.recipe.model_dump(mode="json"),
        "targets": spec.targets.model_dump(mode="json"),
        "evaluate": spec.evaluate.model_dump(mode="json"),
        "columns": spec.data.columns.model_dump(mode="json"),
        "data": data,
        "model": model,
        "augment": Resources.of(spec, base).digests(augment) if augment else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(folder: Path) -> tuple[File, ...]:
    """List a folder's files with size and digest, by path."""
    return tuple(
        File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def write(folder: Path, model: PreTrainedModel, facts: Checkpoint, tokenizer: Path | None = None) -> tuple[File, ...]:
    """Write `folder`/<stage> whole, durable, or not at all; `facts.files` is filled in here. Return all its files.

    tokenizer: the folder of the one that the model is for, whose files are laid beside it.
    """
    with durable.folder(folder / facts.stage) as place:
        model.save_pretrained(place)
        for path in (tokenizer / name for name in TOKENIZER) if tokenizer is not None else ():
            if path.is_file():
                shutil.copyfile(path, place / path.name)
        complete = facts.model_copy(update={"files": listing(place)})
        (place / STATE).write_text(sealed(complete.model_dump_json(indent=1)), encoding="utf-8")
    return listing(folder / facts.stage)


def sealed(body: str) -> str:
    """Wrap a text with its digest."""
    return json.dumps({"sha256": _sha256(body), "body": body})


def unsealed(path: Path) -> str:
    """Read a text out of its wrapping. Raises Unusable where it is not the one that was wrapped."""
    wrapped = json.loads(path.read_text(encoding="utf-8"))
    body: str = wrapped["body"]
    if _sha256(body) != wrapped["sha256"]:
        raise Unusable(f"{path.parent.name}/{path.name} is damaged")
    return body


def verify_files(place: Path, files: tuple[File, ...]) -> None:
    """Hold a folder's files against their digests. Raises Unusable, and OSError where one is not there."""
    for file in files:
        if digest(place / file.path) != file.sha256:
            raise Unusable(f"{place.name}/{file.path} is not what was written")


def read(folder: Path, stage: Stage, expected: str) -> Checkpoint:
    """Read and verify `folder`/<stage>. Raises Unusable where it is damaged or of other work."""
    place = folder / stage
    try:
        facts = Checkpoint.model_validate_json(unsealed(place / STATE))
        verify_files(place, facts.files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError) as problem:
        raise Unusable(f"{stage} cannot be read: {problem}") from problem
    if facts.stage != stage or facts.fingerprint != expected:
        raise Unusable(f"{stage} is of other work: recipe, data, model or version differ")
    return facts


def latest(folder: Path, stages: tuple[Stage, ...], expected: str) -> tuple[Checkpoint | None, list[str]]:
    """Find the last stage that can be gone on from, and say why later ones cannot.

    The baseline must be usable too: it is the teacher, and what latency is held against.
    """
    problems = []
    for stage in sorted(stages, key=STAGES.index, reverse=True):
        if not (folder / stage).is_dir():
            continue
        try:
            facts = read(folder, stage, expected)
            read(folder, "baseline", expected)
        except Unusable as problem:
            problems.append(str(problem))
        else:
            return facts, problems
    return None, problems


def open_model(folder: Path, facts: Checkpoint) -> PreTrainedModel:
    """Open the model of a verified checkpoint, computing as it did. Raises Unusable."""
    try:
        model, _ = open_stock(folder / facts.stage, of_task(facts.task))
    except (OutOfMemory, DeviceError, DiskFull):
        raise  # the checkpoint is not to blame
    except CompressionError as problem:
        raise Unusable(f"{facts.stage} cannot be opened: {problem.cause}") from problem
    if facts.simulated:
        numerics.insert(model)
    return model


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
