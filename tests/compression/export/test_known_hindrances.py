"""What is known before a job and what exporters say of the model at its end agree, by format, family, task and scheme."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from compression.export.exporter import exporter_of
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.models.architectures.families import ARCHITECTURE_SPECS, INSTALLED
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.sanitized_folder import sanitized_folder
from compression.planning.formats import PlannedModel, lacking
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, ranged_inputs
from compression.schema.artifact_formats import BUILT_IN
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe
from compression.schema.schemes import SCHEMES
from compression.schema.tasks import TASKS
from tests.support import decoder_models, encoder_models
from tests.support.images import CLASSES
from tests.support.network_graphs import densenet
from tests.support.network_models import drawn_network
from tests.support.stock_classifiers import CLASSIFIERS, LABELS, saved_classifier
from tests.support.timm_models import drawn, save_timm

FAMILIES = [name for name in ARCHITECTURE_SPECS if name not in INSTALLED]
BY_FILES = {("network", "timm")}
"""Formats that the files of an upload decide: a network has the one family whether timm or an ONNX file brought it."""


def network_models(family: str, folder: Path) -> Iterator[PreTrainedModel]:
    """Yield networks of a family as a job opens them: those of other libraries by each way that they come."""
    if family == "network":
        save_timm(drawn("test_vit", 2), folder / "sent", side=160)
        yield loading.load_model(
            sanitized_folder(folder / "sent", folder / "made", CLASSES), CLASSES, "image-classification", seed=0
        )
        yield drawn_network(densenet())
        return
    name = next(
        name for name, (stem, _, _) in CLASSIFIERS.items() if stem + "Model" in ARCHITECTURE_SPECS[family].architectures
    )
    _, size = saved_classifier(name, folder / "sent")
    ImagePreprocessing(size=size).write(folder / "sent")
    yield loading.load_model(sanitized_folder(folder / "sent", folder / "made", LABELS), LABELS, "image-classification", seed=0)


def models(family: str, folder: Path) -> Iterator[tuple[str, PreTrainedModel]]:
    """Yield a task of each head that a family has, with a small model for it."""
    spec = ARCHITECTURE_SPECS[family]
    if spec.network:
        yield from ((spec.tasks[0], model) for model in network_models(family, folder))
        return
    tiny = decoder_models.tiny if spec.decodes else encoder_models.tiny
    for task in {heads.of_task(task): task for task in spec.tasks}.values():
        head = heads.of_task(task).suffix
        yield task, tiny(family, "ForCausalLM" if TASKS[task].generates else head)


def with_integers(model: PreTrainedModel, scheme: str | None) -> PreTrainedModel:
    """Return a copy with the integers of a scheme."""
    twin = copy.deepcopy(model)
    if scheme is not None:
        ranges = dict.fromkeys(ranged_inputs(twin, scheme), (-3.0, 4.0))
        insert_fake_quantization(twin, simulation=Simulation(scheme=scheme, ranges=ranges))
    return twin


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_let_through_is_hindered_by_nothing_that_was_known(family: str, tmp_path: Path) -> None:
    let_through = dict[str, set[str]]()
    for task, model in models(family, tmp_path):
        shape = adapter_of(model).shape_of(model.config)
        for scheme in (None, *SCHEMES):
            recipe = Recipe(quantize=Quantize(scheme=scheme) if scheme is not None else None)
            planned, finished = PlannedModel.of(family, shape, task, recipe), with_integers(model, scheme)
            for spec in BUILT_IN:
                known, found = lacking(spec, planned), exporter_of(spec.name).hinders(finished)
                about = f"{spec.name} of {family} for {task} with {scheme}: {known} / {found}"
                if known is None and found is None:
                    let_through.setdefault(spec.name, set()).add(str(scheme))
                elif known is None:
                    assert (family, spec.name) in BY_FILES, about
                elif spec.generates in (None, TASKS[task].generates):  # else it could be written, and is left to another format
                    assert found is not None, about
    assert let_through["onnx"] == {"None", *SCHEMES}
    assert "onnx-f16" in let_through
    assert ("timm" in let_through) == (family == "network")  # each exception is of a format that others of the family can have
