"""An artifact is profiled in fresh processes of its own runtime; what goes wrong is told by a code, a detail and a remedy."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from compression.evaluation.profiling import command
from compression.evaluation.profiling.part import Opened, PartSpec, opened, parse_output
from compression.evaluation.profiling.refusals import Refused, refusal_of
from compression.evaluation.profiling.sizes import chosen_sizes
from compression.evaluation.runtimes import onnx as onnx_runtime
from compression.export.interface import interface_of
from compression.export.onnx import decoder
from compression.modalities.text.inputs import batch_of
from compression.schema.manifest import Manifest
from compression.schema.profile import Profile, ProfileFailure, ProfileRequest
from compression.schema.report.measurements import NotMeasured
from compression.system.sensors import find_sensor
from tests.compression.system.test_sensors import zone
from tests.support.profiled import artifact, classifier, described, spec_of, with_manifest
from tests.support.tiny_language import model
from tests.support.tiny_shipment import Shipment

SENSELESS = NotMeasured(not_measured="This machine has no sensor.")


def part_of(folder: Path, kind: str = "onnx", **changes: object) -> PartSpec:
    whole = {"kind": kind, "folder": str(folder), "interface": described(), "sizes": {"batch": 2, "sequence": 9}, "threads": 1}
    return PartSpec.model_validate({**whole, **changes})


def refused(folder: Path, **request: int) -> ProfileFailure:
    with pytest.raises(Refused) as caught:
        command.profile(spec_of(folder, **request), folder.parent)
    return caught.value.failure


@pytest.mark.fresh
def test_the_command_prints_a_profile_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    artifact(tmp_path / "small/artifact")
    spec = spec_of(Path("small"), batch=2)  # what `lathe download --out small` wrote
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "compression", "profile", tmp_path / "spec.json"], capture_output=True, text=True, check=True
    )
    found = Profile.model_validate_json(done.stdout)
    assert found.request == spec.request
    assert found.runtime.startswith("onnxruntime")
    assert min(found.load.first_ms, found.load.warm_ms) > found.latency.median_ms  # of importing the runtime, and of a pass
    assert found.latency.median_ms <= found.latency.p95_ms
    assert found.rows_per_second <= 2 * 1000 / min(found.latency.samples_ms)
    assert 10_000_000 < found.memory.min_bytes <= found.memory.max_bytes
    assert {"MatMul", "Gather"} <= {layer.type for layer in found.layers}
    if isinstance(sensor := find_sensor(), NotMeasured):
        assert found.energy == sensor
    assert found.decoding is None


def is_cached(path: Path) -> bool:
    """Read without waiting for the disk. Raises OSError if the file system cannot tell."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in its cache")
def test_the_files_of_the_first_opening_come_from_the_disk(tmp_path: Path) -> None:
    graph = artifact(tmp_path / "artifact") / "model.onnx"
    try:
        assert is_cached(graph)
    except OSError as problem:
        pytest.skip(f"this file system does not tell what is cached: {problem}")
    command.drop_from_cache(tmp_path)
    assert not is_cached(graph)


def test_nothing_of_it_loads_torch() -> None:
    names = ("compression.evaluation.profiling.command", "compression.evaluation.runtimes.onnx")
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers"}.isdisjoint(loaded)
    assert "onnxruntime" in loaded


@pytest.mark.parametrize(("kind", "product"), [("onnx", "MatMul"), ("openvino-int8", "FullyConnected")])
def test_the_runtimes_tell_the_times_of_their_layers(kind: str, product: str, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "artifact", kind)
    before = {path.name for path in folder.iterdir()}
    found = opened(part_of(folder, kind, layer_passes=3))
    assert found.measured is None
    layers = {layer.name: layer for layer in found.layers}
    assert layers["project"].type == product
    assert sum(layer.ms for layer in layers.values()) > 0
    assert {path.name for path in folder.iterdir()} == before  # nothing is left there


@pytest.mark.fresh
def test_a_profile_lacks_the_layers_alone_if_their_process_fails(tmp_path: Path) -> None:
    found = command.layer_times(part_of(tmp_path / "nowhere"), 3)
    assert isinstance(found, NotMeasured)
    assert "could not be taken: NoSuchFile" in found.not_measured


@pytest.mark.parametrize("form", ["baseline", "int8", "checkpoint"])
def test_what_a_job_ships_is_measured_as_its_manifest_says(form: str, tiny_shipment: Shipment) -> None:
    folder = tiny_shipment.folder(getattr(tiny_shipment, form))
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    assert manifest.kind is not None
    assert manifest.interface is not None
    sizes, request = chosen_sizes(manifest.interface, ProfileRequest(batch=2))
    spec = part_of(folder, manifest.kind, interface=manifest.interface, sizes=sizes, seconds=0.01, layer_passes=1)
    found = opened(spec, SENSELESS)
    assert found.measured is not None
    assert found.measured.energy == SENSELESS
    assert found.measured.decoding is None
    assert request.length == manifest.interface.tested[1]["sequence"]
    if form == "checkpoint":
        assert found.layers == NotMeasured(not_measured="PyTorch does not tell the times of layers here.")
    else:
        assert any(layer.type in ("MatMul", "Gemm", "DynamicQuantizeMatMul", "MatMulInteger") for layer in found.layers)


def test_energy_is_read_from_the_machines_sensor(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)  # that never moves
    found = opened(part_of(artifact(tmp_path / "artifact"), seconds=0.05), find_sensor(tmp_path))
    assert found.measured is not None
    assert isinstance(found.measured.energy, NotMeasured)
    assert "RAPL package-0 showed 0 W" in found.measured.energy.not_measured


def test_of_a_language_model_prompts_and_further_tokens_are_timed(tmp_path: Path) -> None:
    network = model("llama")
    decoder.write(network, tmp_path)
    runner = onnx_runtime.open_folder(tmp_path, threads=1)
    interface = interface_of(runner, network, tmp_path, [batch_of([[1, 2, 3]])])
    spec = part_of(tmp_path, interface=interface, seconds=0.01, layer_passes=1)
    found = opened(spec, SENSELESS)
    assert found.measured is not None
    assert len(found.measured.decoding.samples_ms) >= 1
    assert {"MatMul"} <= {layer.type for layer in found.layers}
    longest = interface.largest["sequence"]
    full = opened(spec.model_copy(update={"sizes": {"batch": 1, "sequence": longest}}), SENSELESS).measured
    assert full is not None
    assert full.decoding is None  # there is no position for one more


@pytest.mark.parametrize(
    ("changes", "code", "subject"),
    [
        ({"opset": 99}, "version_mismatch", "Opset 99"),
        ({"ir": 99}, "version_mismatch", "IR version: 99"),
        ({"last": "Unheard"}, "unsupported", "Unheard"),
    ],
)
def test_a_file_of_another_version_or_with_another_operator_is_told_apart(
    changes: dict[str, object], code: str, subject: str, tmp_path: Path
) -> None:
    folder = artifact(tmp_path / "artifact", proto=classifier(**changes))
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of ONNX Runtime, whose types are not public)
        opened(part_of(folder))
    found = refusal_of(caught.value).failure
    assert (found.code, found.subject) == (code, subject)
    assert found.remedy


def test_a_type_that_the_runtime_lacks_is_unsupported(tmp_path: Path) -> None:
    proto = classifier()
    for value in proto.graph.initializer:
        if value.name in ("table", "weight"):
            raw = b"\0\0" * (len(value.raw_data) // 4)
            value.CopyFrom(onnx.TensorProto(name=value.name, dims=value.dims, data_type=TensorProto.BFLOAT16, raw_data=raw))
    proto.graph.node[1].attribute[0].i = TensorProto.BFLOAT16
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    folder = artifact(tmp_path / "artifact", proto=proto)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of ONNX Runtime)
        opened(part_of(folder))
    found = refusal_of(caught.value).failure
    assert (found.code, found.subject) == ("unsupported", "Mul")


@pytest.mark.parametrize(
    ("old", "new", "code", "subject"),
    [
        ('type="ReLU"', 'type="Unheard"', "unsupported", "Unheard"),
        ('version="opset8"', 'version="opset99"', "version_mismatch", "opset99"),
        ('version="11"', 'version="99"', "version_mismatch", None),
    ],
)
def test_openvinos_refusals_are_told_apart_too(old: str, new: str, code: str, subject: str | None, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "artifact", "openvino-int8")
    graph = folder / "openvino_model.xml"
    assert old in graph.read_text()
    graph.write_text(graph.read_text().replace(old, new))
    with pytest.raises(RuntimeError) as caught:
        opened(part_of(with_manifest(folder, "openvino-int8"), "openvino-int8"))
    found = refusal_of(caught.value).failure
    assert (found.code, found.subject) == (code, subject)


def test_a_device_without_the_runtime_is_told_which_package_it_lacks() -> None:
    found = refusal_of(ModuleNotFoundError("No module named 'openvino'", name="openvino")).failure
    assert found.code == "unsupported"
    assert "pip install openvino" in found.remedy


@pytest.mark.parametrize("left", [None, "{}"])
def test_a_download_that_is_not_whole_is_refused_before_it_is_opened(left: str | None, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "artifact")
    (folder / "config.json").unlink()
    if left is not None:
        (folder / "config.json").write_text(left)
    found = refused(folder)
    assert found.code == "bad_artifact"
    assert f"config.json is {'missing' if left is None else 'not what was written'}" in found.detail
    (folder / "manifest.json").unlink()
    assert (found := refused(folder)).code == "bad_artifact"
    assert "holds no artifact" in found.detail


def test_of_several_downloads_one_is_to_be_named(tmp_path: Path) -> None:
    both = [artifact(tmp_path / name) for name in ("one", "two")]
    found = refused(tmp_path)
    assert (found.code, "holds 2 artifacts" in found.detail) == ("bad_artifact", True)
    assert str(both[0]) in found.remedy


def test_an_artifact_that_does_not_say_what_it_reads_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "artifact")
    manifest = json.loads((folder / "manifest.json").read_text())
    for older in ({}, {"kind": "onnx"}):
        (folder / "manifest.json").write_text(json.dumps({"files": manifest["files"], **older}))
        found = refused(folder)
        assert (found.code, "does not say what it reads" in found.detail) == ("unsupported", True)
        assert "Run the job again" in found.remedy
    (folder / "manifest.json").write_text(json.dumps({**manifest, "kind": "of-another-package"}))
    assert "format 'of-another-package' is not known" in refused(folder).detail


def test_a_length_beyond_the_models_is_refused_before_a_process_starts(tmp_path: Path) -> None:
    assert refused(artifact(tmp_path / "artifact"), length=65).code == "unsupported"


@pytest.mark.fresh
def test_a_batch_that_memory_does_not_hold_is_told(tmp_path: Path) -> None:
    spec = part_of(artifact(tmp_path / "artifact"), sizes={"batch": 4096, "sequence": 100_000})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2_000_000_000, 2_000_000_000))

    run = [sys.executable, "-m", "compression", "profile-part", tmp_path / "spec.json"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, preexec_fn=limit)
    found = parse_output.validate_json(done.stdout)
    assert not isinstance(found, Opened)
    assert found.code == "out_of_memory"
    assert "smaller batch" in found.remedy
