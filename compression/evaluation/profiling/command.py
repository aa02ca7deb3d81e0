"""Profiles an artifact: `python -m compression profile SPEC.json`. Prints a `Profile` or a `ProfileFailure`. Torch-free."""

import contextlib
import os
import statistics
from pathlib import Path

from pydantic import ValidationError

from compression.evaluation.profiling.part import Opened, PartSpec, parse_output
from compression.evaluation.profiling.refusals import AGAIN, REPORT, SMALLER, Refused, refused
from compression.evaluation.profiling.sizes import chosen_sizes
from compression.evaluation.runtimes.runner import find_artifact
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.errors import MissingFile
from compression.schema.manifest import MANIFEST, Manifest
from compression.schema.profile import LayerTime, Load, Profile, ProfileFailure, ProfileSpec
from compression.schema.report.measurements import NotMeasured
from compression.system.child_process import ChildFailed, ChildLate, ChildOutOfMemory, child_lines, telling
from compression.system.device_facts import device_facts
from compression.system.host_lock import host_lock
from compression.system.sealed_folder import digest

OPENINGS = 3  #: with the files in the system's cache; the last of them measures
OPEN_SECONDS = 600.0  #: that opening may take
WINDOWS = 6  #: that measuring may take: idle, timed, tokens, and as much again on a busy machine
LAYER_PASSES = 10  #: passes at most of which each layer's mean time is taken; no more than the window held
BUSY = "Let nothing else measure on this device meanwhile, and profile again."


def profile(spec: ProfileSpec, base: Path) -> Profile:
    """Profile the artifact. base: what a relative folder starts at, the artifact's own or one with it alone. Raises Refused."""
    try:
        folder = find_artifact((base / spec.folder).resolve(), MANIFEST)
    except MissingFile as problem:
        # The service shows the cause to whoever asked, who knows no folder of the device.
        cause = problem.cause.replace(f"{(base / spec.folder).resolve()}", "The folder")
        raise refused("bad_artifact", cause, problem.remedy_text) from problem
    manifest = _checked(folder)
    kind, interface = spec.kind or manifest.kind, manifest.interface
    if interface is None:
        cause = f"The artifact's {MANIFEST} does not say what it reads."
        raise refused("unsupported", cause, "Run the job again with this version, or profile its onnx artifact.")
    if kind not in ARTIFACT_FORMATS:
        known = ", ".join(ARTIFACT_FORMATS)
        cause = f"The artifact's format {kind!r} is not known here. Known: {known}."
        raise refused("unsupported", cause, "Update lathe on the device, or install the package that has the format.")
    sizes, request = chosen_sizes(interface, spec.request)
    part = PartSpec(kind=kind, folder=str(folder), interface=interface, sizes=sizes, threads=request.threads)
    with host_lock() as turn:
        if not turn.exclusive:
            raise refused("failed", "Another process measured on this device all the time.", BUSY)
        drop_from_cache(folder)
        first = _run(part).load_ms
        warm = [_run(part) for _ in range(OPENINGS - 1)]
        last = _run(part.model_copy(update={"seconds": request.seconds}))
        assert last.measured is not None  # noqa: S101 (its seconds were given)
        layers = layer_times(part, min(LAYER_PASSES, len(last.measured.latency.samples_ms)))
    return Profile(
        request=request,
        runtime=last.runtime,
        device=device_facts(),
        load=Load(first_ms=first, warm_ms=statistics.median(one.load_ms for one in (*warm, last))),
        layers=layers,
        **dict(last.measured),
    )


def _checked(folder: Path) -> Manifest:
    """Read the manifest, and compare each file with its hash. Raises Refused if one is missing or differs."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as problem:
        raise refused("bad_artifact", f"The {MANIFEST} cannot be read: {problem}", AGAIN) from problem
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            raise refused("bad_artifact", f"The artifact's file {file.path} is missing.", AGAIN)
        if digest(path) != file.sha256:
            raise refused("bad_artifact", f"The artifact's file {file.path} is not what was written.", AGAIN)
    return manifest


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the files' bytes, so that the first opening reads them from the disk; elsewhere than on Linux it
    cannot be asked.
    """
    for path in folder.rglob("*") if hasattr(os, "posix_fadvise") else ():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                with contextlib.suppress(OSError):  # a file system without it keeps its cache
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def layer_times(part: PartSpec, passes: int) -> list[LayerTime] | NotMeasured:
    """Time the layers in a process of its own: it opens the artifact twice, which memory may not suffice for."""
    try:
        found = _run(part.model_copy(update={"layer_passes": passes})).layers
    except Refused as problem:
        return NotMeasured(not_measured=f"The times of layers could not be taken: {problem}")
    assert found is not None  # noqa: S101 (its passes were given)
    return found


def _run(part: PartSpec) -> Opened:
    """Run a fresh process. Raises Refused with its failure, or with what ended it."""
    limit = OPEN_SECONDS + WINDOWS * (part.seconds or 0)
    try:
        found = [parse_output.validate_json(line) for line in child_lines("profile-part", part, timeout=limit)][-1]
    except ChildOutOfMemory as problem:
        raise refused("out_of_memory", str(problem), SMALLER) from problem
    except ChildLate as problem:
        raise refused("failed", str(problem), SMALLER) from problem
    except ChildFailed as problem:
        raise refused("failed", str(problem), REPORT) from problem
    if isinstance(found, ProfileFailure):
        raise Refused(found)
    return found


def main(path: Path) -> int:
    """Profile the spec at `path`; print the answer as one line of JSON. Return the exit code."""
    tell = telling()
    spec = ProfileSpec.model_validate_json(path.read_bytes())
    try:
        tell(profile(spec, path.parent))
    except Refused as problem:
        tell(problem.failure)
    return 0
