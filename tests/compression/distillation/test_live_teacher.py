"""Teachers that run on each batch answer of what the student sees, alone as together."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.distillation.live_teacher import LiveTeacher, Member
from compression.distillation.teacher import LOGITS_ALONE, FeatureRequest, Teacher
from compression.modalities.losses import fuse_teachers
from compression.quantization.precision import gradient_precision
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.tiny_bert import encoded, sentences, tiny_config
from tests.support.tiny_maps import maps

ROWS = encoded(sentences(12, 1))
LOOK = FeatureRequest(states=(0, 2), scores=(1,), relations=2)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with gradient_precision("float32"):
        yield


def taught(seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(num_labels=2)).eval().requires_grad_(requires_grad=False)


def test_it_answers_as_one_that_was_asked_before() -> None:
    model = taught(0)
    kept, live = Teacher(model, ROWS, LOOK).asked(), LiveTeacher([Member(model, ROWS)], LOOK)
    for batch in ROWS.by_length(5):
        before, now = kept.outputs(batch), live.outputs(batch)
        real = batch.mask.bool()
        assert torch.allclose(now.logits, before.logits, atol=1e-6)
        assert torch.allclose(now.hidden, before.hidden, atol=2e-3)  # kept in float16
        assert torch.allclose(now.scores[:, :, real], before.scores[:, :, real], atol=2e-3)
        assert torch.allclose(now.relations[:, real], before.relations[:, real], atol=2e-3)
    assert not live.asks
    assert live.note.startswith("The teacher runs")


def test_several_are_fused_by_their_weights_and_the_first_shows_its_features() -> None:
    models, weights = [taught(seed) for seed in range(3)], (0.5, 0.2, 0.3)
    members = [Member(model, ROWS, weight) for model, weight in zip(models, weights, strict=True)]
    live, batch = LiveTeacher(members, FeatureRequest(states=(1,)), 2.0), ROWS.batch([3, 0, 7])
    with torch.no_grad():
        each = torch.stack([model(**batch.inputs).logits for model in models])
        states = models[0](**batch.inputs, output_hidden_states=True).hidden_states[1]
    found = live.outputs(batch)
    assert torch.allclose(found.logits, fuse_teachers(each, torch.tensor(weights), 2.0), atol=1e-6)
    assert torch.allclose(found.hidden[0], states[batch.mask.bool()], atol=1e-6)
    assert live.note.startswith("Each teacher runs")


def test_each_teacher_reads_a_varied_batch_in_its_own_way() -> None:
    """A view is drawn once: a teacher whose preprocessor scales otherwise sees the same view."""
    model, rows = drawn_network(resnet()).requires_grad_(requires_grad=False), maps(8, 1, varies=True)
    live = LiveTeacher([Member(model, replace(rows, scale=0.5))], LOGITS_ALONE)
    batch = next(iter(rows.shuffled(4, 0)))
    assert live.outputs(batch).logits.equal(model(0.5 * batch.pixels).logits)


def test_answers_that_are_known_are_not_computed_again() -> None:
    known = torch.randn(len(ROWS), 2)
    live = LiveTeacher([Member(taught(0), ROWS)], FeatureRequest(states=(1,)), logits=known)
    assert live.outputs(ROWS.batch([4, 1])).logits.equal(known[[4, 1]])
