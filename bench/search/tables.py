"""Error tables of a real encoder and of a real ResNet, with what a search needs to know of the model beside them.

They are computed from the models as they come, without training: an error is one of layers' outputs and needs no labels. The
file is kept, so the searches can be run again without the models and the data.
"""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import record_file
from bench.vision import cifar_resnet
from compression.engine.dataset_run import DatasetRun
from compression.engine.stages.apply_cut import calibration_batches
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.network_shapes import multiply_adds as operations_of, network_parameters
from compression.models.architectures.shapes import parameters_at, table_rows
from compression.planning.search import costs
from compression.planning.search.problem import Problem
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.spaces import space_of
from compression.pruning.error_tables import compute_tables, tables_digest
from compression.pruning.layer_inputs import KeptInputs
from compression.schema.error_tables import ErrorTables
from compression.schema.job_spec import Spec
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts

ENCODER = "encoder"
DEPTHS = {"resnet20": 20, "resnet56": 56}
ROWS = 512
KEPT = {ENCODER: 0.5, **dict.fromkeys(DEPTHS, 0.4)}
"""Share of the parameters, and of a network's multiply-adds, that a cut may keep."""
Record = dict[str, Any]


def prune_of(name: str) -> Prune:
    """Return the recipe of a model's cut."""
    axes = ("hidden", "heads", "ffn", "layers") if name == ENCODER else ("channels", "layers")
    return Prune.model_validate({"search": "solver", "axes": axes, "multiple": 64, "calibration_rows": ROWS})


def encoder_spec(examples: Path) -> Spec:
    """Return a job of MiniLM on the sentences of scripts/fetch_examples.py."""
    files = {split: [str(examples / "data" / f"{split}.jsonl")] for split in ("train", "validation", "test")}
    data = {"format": "jsonl", "splits": files, "columns": {"text": "text", "label": "label"}}
    return _spec(ENCODER, examples / "model", "text-classification", data, {"max_length": 64})


def resnet_spec(name: str, vision: Path, folder: Path) -> Spec:
    """Return a job of a ResNet on CIFAR-10, written into `folder`. vision: weights and images (bench/vision)."""
    cifar_resnet.write_model(cifar_resnet.trained(DEPTHS[name], vision), folder / "model")
    cifar_resnet.write_data(vision, folder / "data", train_rows=2 * ROWS)
    files = {split: [str(folder / "data" / f"{split}.npz")] for split in ("train", "validation", "test")}
    return _spec(name, folder / "model", "image-classification", {"format": "npz", "splits": files}, {})


def _spec(name: str, model: Path, task: str, data: Mapping[str, Any], train: Mapping[str, Any]) -> Spec:
    recipe = {"prune": prune_of(name).model_dump(mode="json"), "quantize": None, "distill": None, "train": dict(train)}
    asked = {"model": str(model.absolute()), "task": task, "data": data, "recipe": recipe, "output": "out"}
    return Spec.model_validate(asked)


def compute(name: str, examples: Path, vision: Path) -> Record:
    """Compute a model's tables; return them with its shape, family and facts."""
    with tempfile.TemporaryDirectory(prefix="lathe-bench-search-") as place:
        spec = encoder_spec(examples) if name == ENCODER else resnet_spec(name, vision, Path(place))
        run = DatasetRun.open(spec, Path(place), spec.asked[0])
        model, batches = run.state.model, calibration_batches(run.state)
        computing = compute_tables(model, KeptInputs(batches), tables_digest(model, batches))
        while True:
            try:
                next(computing)
            except StopIteration as ended:
                tables: ErrorTables = ended.value[0]
                break
        family = adapter_of(model)
        network, shape = family.network(model.config), family.shape_of(model.config)
        return {
            "model_type": model.config.model_type,
            "shape": shape.model_dump(mode="json"),
            "network": network.model_dump(mode="json") if network is not None else None,
            "table_rows": table_rows(family.parameters_of(model), shape) if network is None else 0,
            "tables": tables.model_dump(mode="json"),
        }


def problem_of(name: str, record: Record) -> Problem:
    """Return the choice among widths that a model's cut is."""
    space, limits = _space_and_limits(name, record)
    return Problem(space.choices, space.error, (*space.structure, *(space.limit(cost) for cost in limits)))


def _space_and_limits(name: str, record: Record) -> tuple[SearchSpace, list[Cost]]:
    tables, shape = ErrorTables.model_validate(record["tables"]), Shape.model_validate(record["shape"])
    kind, share = ARCHITECTURE_SPECS[record["model_type"]], KEPT[name]
    network = NetworkFacts.model_validate(record["network"]) if record["network"] is not None else None
    space = space_of(tables, kind, shape, prune_of(name), network)
    if network is not None:
        most = costs.parameters(share * network.parameters(), partial(network_parameters, network))
        return space, [most, costs.multiply_adds(share * network.multiply_adds(), partial(operations_of, network))]

    def counted(one: Shape) -> int:
        return parameters_at(kind, one, rows=record["table_rows"], outputs=2).total

    return space, [costs.parameters(share * counted(shape), counted)]


def kept_tables(name: str, path: Path, examples: Path, vision: Path) -> Record:
    """Return a model's tables as kept in a file; compute and keep them if there is none."""
    found = record_file.read(path)
    if found is None:
        found = compute(name, examples, vision)
        record_file.write(path, found)
    return found
