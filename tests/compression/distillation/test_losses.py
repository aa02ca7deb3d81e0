"""What a student is held against, by the properties that the method relies on."""

import pytest
import torch

from compression.distillation import losses as feature_losses
from compression.distillation.losses import attention_score_loss, hidden_state_loss, relation_loss
from compression.modalities import losses


def test_soft_targets_are_the_forward_divergence_times_temperature_squared() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    forward = (p * (p / q).log()).sum(-1).mean() * 9
    backward = (q * (q / p).log()).sum(-1).mean() * 9
    found = losses.soft_target_loss(student, teacher, 3.0)
    assert found.item() == pytest.approx(forward.item(), rel=1e-4)
    assert found.item() != pytest.approx(backward.item(), rel=1e-3)
    assert losses.soft_target_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_hidden_states_cost_nothing_when_they_map_and_one_when_silent() -> None:
    student, maps = torch.randn(3, 50, 8), torch.randn(3, 8, 12)
    teacher = student @ maps
    assert hidden_state_loss(student, teacher, maps).item() == pytest.approx(0, abs=1e-9)
    assert hidden_state_loss(torch.zeros_like(student), teacher, maps).item() == pytest.approx(1)


def test_projections_start_where_regression_puts_them() -> None:
    student, maps = torch.randn(2, 400, 8), torch.randn(2, 8, 12)
    teacher = student @ maps + 0.01 * torch.randn(2, 400, 12)
    at_once = feature_losses.fit_projections([(student, teacher)])
    assert torch.allclose(at_once, maps, atol=0.02)
    parts = zip(student.split(150, dim=1), teacher.split(150, dim=1), strict=True)
    assert torch.allclose(feature_losses.fit_projections(parts), at_once, atol=1e-4)


def test_relations_compare_models_of_different_widths_and_ignore_padding() -> None:
    teacher, mask = torch.randn(3, 2, 6, 24), torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    assert relation_loss(teacher, teacher, mask, 4).item() == pytest.approx(0, abs=1e-6)
    student = torch.randn(3, 2, 6, 16, requires_grad=True)
    found = relation_loss(student, teacher, mask, 4)
    found.backward()
    assert found.item() > 0.1
    assert student.grad.isfinite().all()
    assert student.grad[:, 1, 4:].abs().max() == 0
    louder = teacher.clone()
    louder[:, 1, 4:] = 100
    assert relation_loss(student, louder, mask, 4).item() == pytest.approx(found.item(), rel=1e-5)


def test_relation_heads_divide_both_widths() -> None:
    assert feature_losses.relation_heads(256, 384, most=12) == 8
    assert feature_losses.relation_heads(7, 12, most=12) == 1


def test_attention_scores_are_compared_before_the_softmax_head_by_head_and_without_padding() -> None:
    student, teacher = torch.randn(2, 2, 2, 3, 4), torch.randn(2, 2, 2, 3, 8)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    errors = []
    for layer in range(2):
        for head in range(2):
            for row, real in ((0, 3), (1, 2)):
                for one in range(real):
                    for other in range(real):
                        given, wanted = (
                            (model[layer, 0, row, one, part] @ model[layer, 1, row, other, part]).item() / size**0.5
                            for model, size in ((student, 2), (teacher, 4))
                            for part in (slice(head * size, (head + 1) * size),)
                        )
                        errors.append((given - wanted) ** 2)
    assert attention_score_loss(student, teacher, mask, 2).item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_fused_teachers_give_the_weighted_mean_of_their_softened_probabilities() -> None:
    logits, weights = torch.randn(2, 5, 3), torch.tensor([3.0, 1.0])
    mean = 0.75 * (logits[0] / 4).softmax(-1) + 0.25 * (logits[1] / 4).softmax(-1)
    assert torch.allclose((losses.fuse_teachers(logits, weights, 4.0) / 4).softmax(-1), mean, atol=1e-6)
