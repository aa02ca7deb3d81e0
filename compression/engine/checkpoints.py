"""Saves and reads stage checkpoints, so that a new attempt resumes from them and repeats no training.

A checkpoint is a folder named after its stage: the model as stock files, and state.json with the rows so far. It is written
beside its place, synced and renamed, so it is complete or missing after a kill or a power cut. It is used only if it comes from
the same work up to that stage (the fingerprint) and is intact (every digest). Of several datasets, each has such a folder
inside the stage's, whose own state.json, with the means, is written once all are complete.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from compression.engine.stage_result import StageResult
from compression.engine.stages.registry import planned, runner_of
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.heads import of_task
from compression.models.loading import open_whole
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.config import Config
from compression.schema.errors import CompressionError, DeviceError, DiskFull, OutOfMemory
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import JobTask, PartName
from compression.schema.recipe.prune import SearchBudget
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.draws import SplitDraws
from compression.schema.report.measurements import Row
from compression.schema.report.points import PointCut
from compression.schema.report.report import Artifact, File
from compression.schema.report.sensitivity import Sensitivity
from compression.schema.report.size_search import SizeSearch
from compression.schema.stages import BASELINE, STAGE_SPECS, STAGES, Stage
from compression.system import durable_files, sealed_folder
from compression.system.sealed_folder import STATE, UnusableCheckpoint, known_digest, list_files, seal
from compression.training.budget import Spent

FORMAT = 7  #: raise it if a stage computes or saves something else, so that older checkpoints must not be resumed
BESIDE = {"smoothed.safetensors": "smoothed", "units.safetensors": "units"}
"""File of a stage's further tensors → the field of its result; one without any has no file."""
TEACHERS = "teachers"  #: folder of the further models that the stage trained, numbered from 1
Fingerprints = Mapping[Stage, str]


class StageCheckpoint(Config):
    """The content of state.json: what the rest of the job and the report need besides the weights."""

    fingerprint: Annotated[str, Field(description="Of all that the stage's result depends on: data, model, code, recipe.")]
    stage: Stage
    part: PartName = ""
    task: JobTask = "text-classification"
    labels: tuple[str, ...]
    simulation: Annotated[Simulation | None, Field(description="The integers that the model computes with, and their ranges.")]
    rows: tuple[Row, ...]
    artifacts: tuple[Artifact, ...]
    pruning: dict[str, Any] | None
    sensitivity: dict[str, tuple[Sensitivity, ...]] = Field(default_factory=dict)
    sizes: SizeSearch | None = None
    points: tuple[PointCut, ...] = ()
    spent: Annotated[Spent, Field(description="What the job has trained so far.")] = Spent()
    ship_seconds: Annotated[float | None, Field(description="What the stage's export with its measurements took.")] = None
    asked_seconds: Annotated[float | None, Field(description="What lm-eval's tasks took after the stage.")] = None
    draws: dict[Stage, SplitDraws] = Field(default_factory=dict, description="Of each stage so far; none in old checkpoints.")
    files: Annotated[tuple[File, ...], Field(description="The model's files beside this one.")]


def fingerprints(spec: Spec, base: Path) -> dict[Stage, str]:
    """Return, for each stage, a digest of all inputs of the results up to it.

    A job whose recipe differs from another's only in a later stage can resume from the other's checkpoint. The list of later
    stages counts, since a row's remedies depend on it. The interval between saves and the number of micro-batches do not, so
    that a job that ran out of memory can resume from its checkpoints.
    """
    return {
        stage: sealed_folder.text_digest(json.dumps(facts, sort_keys=True))
        for stage, facts in fingerprint_facts(spec, base).items()
    }


def fingerprint_facts(spec: Spec, base: Path) -> dict[Stage, dict[str, Any]]:
    """Return, for each stage, the facts that its fingerprint is computed from."""
    parts, labelled = [], []
    for part in spec.asked:
        about = part.model_dump(mode="json", exclude={"data": {"splits"}})
        data = {split: [known_digest(base / file) for file in files] for split, files in part.data.splits.items()}
        parts.append((about, data))
        labelled.append((about, {split: digests for split, digests in data.items() if split != "unlabelled"}))
    distill = spec.recipe.distill
    every = [STAGE_SPECS[stage] for stage in planned(spec.recipe) if not STAGE_SPECS[stage].point]  # how many points: in prune
    facts = {
        "format": FORMAT,
        "code": sealed_folder.code_version(),
        "task": spec.task,
        "stages": [one.recipe_key for one in every if one.name != BASELINE],
        "originals": distill.teachers.seeds if distill else 1,
        "targets": spec.targets.model_dump(mode="json"),
        # lm-eval's key is omitted if it is null, so that checkpoints from before the key stay valid.
        "evaluate": spec.evaluate.model_dump(mode="json", exclude=None if spec.evaluate.lm_eval else {"lm_eval"}),
        "model": folder_digests(base, spec.model),
        "student": folder_digests(base, spec.student),
    }
    found: dict[Stage, dict[str, Any]] = {}
    earlier: dict[str, Any] = {}
    installed: dict[str, Any] = {}
    unlabelled = False
    for stage in STAGES:
        is_installed = STAGE_SPECS[stage].settings is not None
        if (is_installed or STAGE_SPECS[stage].point) and stage not in planned(spec.recipe):
            continue  # a package that the job does not use cannot break it
        runner = runner_of(stage)
        own = runner.inputs(spec, base)
        earlier |= own
        unlabelled |= runner.reads_unlabelled
        if is_installed:
            installed = dict(earlier)  # what a package's stage and those before it read counts in all that follow
        inputs = {"parts": parts if unlabelled else labelled}
        found[stage] = facts | {"recipe": _recipe_until(spec.recipe, stage)} | inputs | installed | own
    return found


def folder_digests(base: Path, folder: str | None) -> dict[str, str] | None:
    """Return the digest of each file of a model's folder; None if there is no such model."""
    if not folder:
        return None
    return {path.name: known_digest(path) for path in sorted((base / folder).iterdir()) if path.is_file()}


ADDED_KEYS: dict[str, Any] = {
    "auto": None,
    "prune.finalists": None,
    "prune.free_widths": False,
    "prune.points": 1,
    "prune.ratio.channels": None,
    "prune.target_flops": None,
    "prune.refresh_statistics": True,
    "prune.search": None,
    "prune.search_budget": SearchBudget().model_dump(mode="json"),
    "prune.stock": False,
    "prune.target_bytes": None,
    "quantize.symmetric": False,
    "train.compile": "auto",
    "train.micro_batch": "auto",
    "train.optimizer": "adamw",
    "train.views": None,
}
"""Keys of a recipe that were added later: a fingerprint has them only if they are not at these defaults."""


def _recipe_until(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Return the part of a recipe that counts up to a stage. So that checkpoints stay valid, removed keys are kept, and added
    keys and those of installed packages' stages count only if they are used.
    """
    place = STAGES.index(stage) + 1
    known = {STAGE_SPECS[one].recipe_key for one in STAGES[:place]}  # a point has the key of the cut
    after = {key: None for later in STAGES[place:] if (key := STAGE_SPECS[later].recipe_key) not in known}
    found = recipe.model_copy(update=after).model_dump(mode="json")
    added = {spec.recipe_key for spec in STAGE_SPECS.values() if spec.settings is not None}
    found = {key: value for key, value in found.items() if value is not None or key not in added}
    found["remedy"] = recipe.remedy or "report"
    found["train"]["recompute"] = found["train"].pop("checkpointing") == "on"  # as it was named
    if found["distill"] is not None:
        found["distill"].setdefault("gate", None)
    _drop_defaults(found, ADDED_KEYS)
    found["train"].pop("devices")  # a job goes on with another number
    return found


def _drop_defaults(facts: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Remove the values that are at their defaults. defaults: by path."""
    for key, default in defaults.items():
        *path, last = key.split(".")
        within = reduce(lambda each, name: each[name] if isinstance(each, dict) else None, path, facts)
        if isinstance(within, dict) and within.get(last) == default:
            within.pop(last, None)


def write(
    folder: Path,
    model: PreTrainedModel,
    facts: StageCheckpoint,
    teachers: Sequence[PreTrainedModel] = (),
    preprocessor: Path | None = None,
    result: StageResult | None = None,
) -> tuple[File, ...]:
    """Write `folder`/<stage>[/<part>] atomically and durably, fill in `facts.files`, and return the files. teachers: further
    models that the stage trained, saved in their own folders. preprocessor: the folder of the model's preprocessor, if not the
    job's own. result: the stage's, for its tensors; None has none.
    """
    with durable_files.folder(folder / facts.stage / facts.part) as place:
        adapter_of(model).save(model, place)
        for number, teacher in enumerate(teachers, start=1):
            adapter_of(teacher).save(teacher, place / TEACHERS / str(number))
        for path in preprocessor.iterdir() if preprocessor is not None else ():
            shutil.copyfile(path, place / path.name)
        for name, key in BESIDE.items():
            if result is not None and (tensors := getattr(result, key)):
                save_file(dict(tensors), place / name)
        complete = facts.model_copy(update={"files": list_files(place)})
        (place / STATE).write_text(seal(complete.model_dump_json(indent=1)), encoding="utf-8")
    return list_files(folder / facts.stage / facts.part)


def write_whole(folder: Path, facts: StageCheckpoint) -> tuple[File, ...]:
    """Write a stage's own state.json durably and return that file: of a stage that no model of its own belongs to."""
    place = folder / facts.stage
    place.mkdir(parents=True, exist_ok=True)
    durable_files.write_text(place / STATE, seal(facts.model_dump_json(indent=1)))
    return (File(path=STATE, size=(place / STATE).stat().st_size, sha256=sealed_folder.digest(place / STATE)),)


def read(folder: Path, stage: Stage, expected: Fingerprints, part: str = "") -> StageCheckpoint:
    """Read and verify `folder`/<stage>[/<part>]. Raises UnusableCheckpoint if it is damaged or comes from other work."""
    place = folder / stage / part
    try:
        facts = StageCheckpoint.model_validate_json(sealed_folder.unseal(place / STATE))
        sealed_folder.verify_files(place, facts.files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError) as problem:
        raise UnusableCheckpoint(f"{stage}{f' of {part}' if part else ''} cannot be read: {problem}") from problem
    if (facts.stage, facts.part) != (stage, part) or facts.fingerprint != expected[stage]:
        raise UnusableCheckpoint(f"{stage} is of other work: recipe, data, model or version differ")
    return facts


def latest(
    folder: Path, stages: tuple[Stage, ...], expected: Fingerprints, parts: Sequence[str] = ()
) -> tuple[StageCheckpoint | None, list[str]]:
    """Return the last stage that can be resumed from, and why later ones cannot. parts: the names of several datasets, each of
    which must be usable. So must the baseline: it is the teacher, and latency is compared with it.
    """
    problems = []
    for stage in sorted(stages, key=STAGES.index, reverse=True):
        if not (folder / stage).is_dir() or (any(parts) and not (folder / stage / STATE).exists()):
            continue  # missing, or only some of its datasets are there
        try:
            facts, *_ = [read(folder, one, expected, part) for one in (stage, BASELINE) for part in ("", *filter(None, parts))]
        except UnusableCheckpoint as problem:
            problems.append(str(problem))
        else:
            return facts, problems
    return None, problems


def open_model(folder: Path, facts: StageCheckpoint) -> PreTrainedModel:
    """Open the model of a verified checkpoint, with its simulated quantization. Raises UnusableCheckpoint."""
    if facts.task == "several":
        raise ValueError("a stage of several parts has a model for each, and none of its own")
    model = _opened(folder / facts.stage / facts.part, facts)
    if facts.simulation is not None:
        insert_fake_quantization(model, simulation=facts.simulation)
    return model


def _opened(place: Path, facts: StageCheckpoint) -> PreTrainedModel:
    try:
        model = open_whole(place, of_task(facts.task), sent=False)
        return adapter_of(model).reopened(model)
    except (OutOfMemory, DeviceError, DiskFull):
        raise  # the checkpoint is not to blame
    except CompressionError as problem:
        raise UnusableCheckpoint(f"{facts.stage} cannot be opened: {problem.cause}") from problem


def open_result(folder: Path, facts: StageCheckpoint) -> StageResult:
    """Return what a verified checkpoint's stage found out that later stages keep."""
    place, there = folder / facts.stage / facts.part, {file.path for file in facts.files}
    known: dict[str, Any] = {key: getattr(facts, key) for key in ("pruning", "sensitivity", "sizes", "points")}
    return StageResult(**known | {key: load_file(place / name) for name, key in BESIDE.items() if name in there})


def open_teachers(folder: Path, facts: StageCheckpoint) -> list[PreTrainedModel]:
    """Open the further models of a verified checkpoint, in their order. Raises UnusableCheckpoint."""
    kept = {path[1] for path in (file.path.split("/") for file in facts.files) if path[0] == TEACHERS}
    place = folder / facts.stage / facts.part / TEACHERS
    return [_opened(place / name, facts) for name in sorted(kept, key=int)]
