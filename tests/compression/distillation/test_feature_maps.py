"""Networks are compared by what their stages hand on, whatever their widths and depths."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.distillation.live_teacher import LiveTeacher, Member
from compression.distillation.map_losses import attention_transfer_loss
from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import FeatureRequest, request_features
from compression.engine.stages.linear_probe import linear_probe
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.networks.graph import INPUT
from compression.quantization.precision import gradient_precision
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe
from tests.support.network_graphs import NETWORKS, GraphBuilder, resnet
from tests.support.network_models import drawn_network
from tests.support.tiny_bert import tiny_config
from tests.support.tiny_maps import MapRows, maps, network_state

ROWS = maps(24, 1, varies=True)
ALONE = {"soft": 0.0, "hard": 0.0, "hidden": 0.0}


@pytest.fixture(autouse=True)
def _same_precision_everywhere() -> Iterator[None]:
    """Ask teachers in float32 where the processor has bfloat16 too: what is compared here differs by less than that rounds."""
    with gradient_precision("float32"):
        yield


def compared(student: Any, teacher: Any, rows: MapRows = ROWS, **settings: Any) -> DistillationObjective:
    asked = Distill(**{**ALONE, **settings})
    comparison = FeatureAlignment.of(student, teacher, asked, asked.weights(), apart=False)
    return DistillationObjective(student, LiveTeacher([Member(teacher, rows)], comparison.teacher), comparison, asked, rows)


def half_of(model: Any) -> Any:
    """Return a network with the first half of each group's units."""
    family = adapter_of(model)
    widths = family.shape_of(model.config).widths
    return family.narrowed(model, PruningPlan({key: torch.arange(max(units // 2, 1)) for key, units in widths.items()}))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_narrower_network_of_any_kind_is_compared_with_the_whole_one(kind: str) -> None:
    teacher = drawn_network(NETWORKS[kind]())
    student = half_of(teacher)
    objective = compared(student, teacher, hidden=1.0, attention=1.0)
    batch = next(iter(ROWS.shuffled(8, 0)))
    given = request_features(student, batch, ROWS.task, objective.feature_losses.comparison.student).maps
    wanted = objective.teacher.outputs(batch).maps
    assert [one.shape[2:] for one in given] == [other.shape[2:] for other in wanted]
    assert [tuple(one.shape) for one in objective.projections] == [
        (one.shape[1], other.shape[1]) for one, other in zip(given, wanted, strict=True)
    ]
    terms = objective.terms(batch)
    assert 0 <= terms["hidden"].item() < 1.05  # fitted on other rows; 1 is as bad as nothing
    assert terms["attention"].item() > 0
    objective(batch).backward()
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in student.parameters())


def test_a_network_has_nothing_to_learn_from_itself() -> None:
    teacher = drawn_network(resnet())
    found = compared(teacher, teacher, hidden=1.0, attention=1.0).terms(ROWS.batch([0, 1, 2, 3]))
    assert found["attention"].item() == pytest.approx(0, abs=1e-6)
    assert found["hidden"].item() < 0.01  # of a ridge


def test_stages_of_networks_of_other_depths_and_sizes_are_paired() -> None:
    student, teacher = drawn_network(resnet((1, 1), 4)), drawn_network(resnet((1, 2, 1), 4))
    for layers, theirs in (("uniform", (2, 3)), ("last", (2, 3)), (((1, 1), (2, 3)), (1, 3))):
        objective = compared(student, teacher, attention=1.0, layers=layers)
        assert objective.feature_losses.comparison.teacher.maps == theirs
        batch = ROWS.batch([0, 5])
        given, wanted = (
            request_features(model, batch, ROWS.task, FeatureRequest(maps=places)).maps
            for model, places in ((student, (1, 2)), (teacher, theirs))
        )
        each = [attention_transfer_loss(one, other).item() for one, other in zip(given, wanted, strict=True)]
        assert objective.terms(batch)["attention"].item() == pytest.approx(sum(each) / 2, rel=1e-5)
        assert any("Stages" in note and f"1 ← {theirs[0]}" in note for note in objective.feature_losses.comparison.notes())
        assert not objective.projections
    with pytest.raises(InvalidSpec, match="has 2 layers"):
        compared(student, teacher, attention=1.0, layers=((3, 1),))


def test_what_has_no_maps_or_no_embeddings_is_refused() -> None:
    network, encoder = drawn_network(resnet()), BertForSequenceClassification(tiny_config(num_labels=2))
    with pytest.raises(InvalidSpec, match="the teacher has no feature maps"):
        compared(network, encoder, hidden=1.0)
    with pytest.raises(InvalidSpec, match="no embedding layer"):
        compared(network, network, embedding=1.0)


def test_answers_alone_need_no_maps() -> None:
    network, encoder = drawn_network(resnet()), BertForSequenceClassification(tiny_config(num_labels=2))
    asked = Distill(**{**ALONE, "soft": 1.0})
    assert not len(FeatureAlignment.of(network, encoder, asked, asked.weights(), apart=False).teacher)


def dense() -> Any:
    """A network of dense layers alone, of which no stage leaves a map."""
    to = GraphBuilder()
    hidden = to.op("relu", to.linear(to.flat(INPUT), 16))
    return drawn_network(to.graph(to.linear(hidden, 3)))


def test_networks_without_maps_are_compared_by_their_outputs_and_say_so() -> None:
    student, teacher = dense(), dense()
    objective = compared(student, teacher, soft=1.0, hidden=1.0)
    assert set(objective.terms(ROWS.batch([0, 1, 2, 3]))) == {"soft"}
    (said,) = objective.feature_losses.comparison.notes()
    assert "outputs alone" in said
    with pytest.raises(InvalidSpec, match="no feature maps"):
        compared(student, teacher, hidden=1.0)
    assert linear_probe(network_state(student, Recipe(prune=None), varies=False)) is None
