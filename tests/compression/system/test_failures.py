"""A full disk, too little memory and a broken device are told by name, and a full disk leaves nothing half."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import BertForSequenceClassification

from compression.engine import shipping
from compression.engine.commands.run import job
from compression.evaluation.measure import MeasureSpec
from compression.export.manifest import write_config
from compression.export.onnx.exporter import write_onnx
from compression.modalities.text.artifact_tokenizer import write_tokenizer
from compression.schema.errors import CompressionError, ConfigMismatch, DeviceError, DiskFull, OutOfMemory
from compression.schema.events import ArtifactReady, Event, StageFinished, StageStarted, Started, TrainingSaved, parse_event
from compression.schema.recipe.recipe import Evaluate
from compression.system import failures
from compression.system.progress import run_silently
from compression.system.sealed_folder import digest
from compression.training import save
from tests.support.engine_jobs import RECIPE, fork, write_spec
from tests.support.tiny_bert import tiny_config, write_tokenizer as tokenizer_into

SHORT: dict[str, Any] = {**RECIPE, "prepare": {"epochs": 1, "rate": 3e-3}, "quantize": None, "distill": None}
KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Leave 4 KiB: enough to begin a file, too little to end one."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "another's").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - 4 * KIB)


# In turn: not even the test rows; they, but no save; a save, but no artifact; the baseline, but not the next artifact.
@pytest.mark.parametrize("event", [Started, StageStarted, TrainingSaved, StageFinished])
def test_a_full_disk_fails_cleanly(
    small_disk: Path, tmp_path: Path, encoder: Path, reviews: Path, event: type[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "PATIENCE", 0.0)  # nobody takes what is saved
    spec = write_spec(tmp_path / "job", encoder, reviews, recipe=SHORT, output=str(small_disk / "out"), save_seconds=0)
    seen: list[Event] = []
    with pytest.raises(DiskFull, match="full"):
        for one in job(spec):
            if isinstance(one, event) and not any(isinstance(other, event) for other in seen):
                fill(small_disk)
            seen.append(one)
    first = next(index for index, one in enumerate(seen) if isinstance(one, event))
    assert not [one for one in seen[first + 1 :] if isinstance(one, (TrainingSaved, ArtifactReady, StageFinished))]
    output = small_disk / "out"
    assert not [path for path in output.rglob("*") if "partial" in path.name or path.name.startswith(".")]
    whole = {("scratch", "test.jsonl"): (), ("scratch", "validation.jsonl"): ()}
    for one in seen:
        if isinstance(one, ArtifactReady):
            whole["artifacts", one.artifact.name] = one.artifact.files
        if isinstance(one, StageFinished):
            whole["checkpoints", one.row.stage] = one.checkpoint
        if isinstance(one, TrainingSaved):
            whole["checkpoints", one.folder] = one.files
    for (folder, name), files in whole.items():
        for file in files:
            assert digest(output / folder / name / file.path) == file.sha256
    assert {(path.parent.name, path.name) for path in output.glob("*/*")} <= whole.keys()


def limited(spec: Path, more: int) -> tuple[int, list[Event]]:
    """Run the engine with only so much more memory than it has at its start: an allocation beyond it really fails."""

    def limit() -> None:
        status = Path("/proc/self/status").read_text()
        used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + more,) * 2)

    with (spec.parent / "events").open("wb") as out:
        code = fork(spec, stdout=out.fileno(), first=limit).wait()
    assert code in (0, 2), (spec.parent / "errors").read_text()[-2000:]
    return code, [parse_event.validate_json(line) for line in (spec.parent / "events").read_text().splitlines()]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and data whose training takes gigabytes when all rows share a batch: long texts, wide layers."""
    model, data = tmp_path_factory.mktemp("wide"), tmp_path_factory.mktemp("long")
    torch.manual_seed(0)
    config = tiny_config(num_labels=2, intermediate_size=2048, max_position_embeddings=256)
    config.id2label = {0: "negative", 1: "positive"}
    BertForSequenceClassification(config).save_pretrained(model)
    tokenizer_into(model)
    for name, rows in (("train", 128), ("validation", 8), ("test", 8)):
        texts = [{"text": "good bad " * 120, "label": ("negative", "positive")[row % 2]} for row in range(rows)]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    return model, data


def wide_spec(place: Path, wide: tuple[Path, Path], **changes: Any) -> Path:
    splits = {name: [str(wide[1] / f"{name}.jsonl")] for name in ("train", "validation", "test")}
    train = {"batch": 128, "max_length": 256, "checkpointing": "off"}  # "auto" would look at what the machine has free
    recipe = {**SHORT, "prepare": {"epochs": 1, "rate": 1e-4}, "prune": None, "train": train}
    return write_spec(place, *wide, data={"format": "jsonl", "splits": splits}, recipe=recipe, **changes)


@pytest.mark.fresh
def test_what_does_not_fit_memory_whole_fits_in_parts(tmp_path: Path, wide: tuple[Path, Path]) -> None:
    """The system refuses what a whole batch takes: the step begins anew in parts, within the same attempt."""
    code, seen = limited(wide_spec(tmp_path / "whole", wide), 1000 << 20)
    (finished, *_) = [event for event in seen if isinstance(event, StageFinished)] or [seen[-1]]
    assert any("Memory did not suffice in step 1" in note for note in finished.row.notes), finished
    assert code == 0
    code, seen = limited(wide_spec(tmp_path / "never", wide), 40 << 20)
    assert code == 2
    assert seen[-1].code == "out_of_memory"


@pytest.mark.fresh
def test_a_measuring_child_without_memory_is_tried_again_and_then_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = tiny_config(num_labels=2, max_position_embeddings=1024, num_attention_heads=16)
    model = BertForSequenceClassification(config).eval()
    folder = tmp_path / "artifact"
    folder.mkdir()
    tokenizer_into(tmp_path)
    write_onnx(model, folder, int8=False)
    write_tokenizer(tmp_path, folder, 1024, "text-classification")
    write_config(model, folder, ("negative", "positive"), 1024, "onnx")
    (tmp_path / "rows.jsonl").write_text('{"text": "good", "label": 1}\n')

    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nulimit -d {600 * KIB}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    evaluate, rows = Evaluate(batch=16, length=1024), str(tmp_path / "rows.jsonl")
    own = {"kind": "onnx", "task": "text-classification", "labels": ("a", "b"), "evaluate": evaluate}
    spec = MeasureSpec(**own, folder=str(folder), test_rows=rows)
    with pytest.raises(OutOfMemory, check=lambda problem: (problem.code, problem.param) == ("out_of_memory", "evaluate")):
        run_silently(shipping.measure_artifact(spec))
    found = run_silently(shipping.measure_artifact(spec, last_try=True))
    assert "Failed to allocate memory" in found.latency.not_measured


def raised(problem: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise problem from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (OSError(28, "No space left on device"), DiskFull),
        (OSError(122, "Disk quota exceeded"), DiskFull),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), DiskFull),
        (Exception("No space left on device (os error 28)"), DiskFull),
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), OutOfMemory),
        (OSError(12, "Cannot allocate memory"), OutOfMemory),
        (RuntimeError("could not create a primitive"), OutOfMemory),
        (RuntimeError("could not create a primitive descriptor for a matmul primitive"), None),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DeviceError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceError),
        (ValueError("a bug"), None),
        (OSError(2, "No such file"), None),
        (ConfigMismatch("the tokenizer says: No space left on device; CUDA error; out of memory"), None),
    ],
)
def test_a_failure_is_known_by_what_it_is_or_was_raised_from(problem: Exception, kind: type[CompressionError] | None) -> None:
    found = failures.typed(raised(problem))
    assert type(found) is (kind or type(None))
    if not isinstance(problem, CompressionError):
        assert type(failures.typed(raised(ConfigMismatch("the weights do not fit"), problem))) is type(found)
