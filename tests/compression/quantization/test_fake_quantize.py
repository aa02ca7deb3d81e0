"""dynamic-int8 in training: real integers forward, straight-through gradients, no state, no dependence on the batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import BertForSequenceClassification

from compression.quantization.dynamic_int8 import fake_quantize_rows, integer_rows
from compression.quantization.fake_quantize import insert_fake_quantization, remove_fake_quantization


def layers() -> tuple[nn.Linear, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    plain, fake = nn.Linear(48, 40), nn.Linear(48, 40)
    fake.load_state_dict(plain.state_dict())
    assert insert_fake_quantization(nn.Sequential(fake)) == ["0"]
    return plain, fake, torch.randn(3, 5, 48)


def test_integers_are_within_half_a_step_of_what_they_stand_for_and_zeros_stay() -> None:
    x = torch.randn(7, 33) * torch.logspace(-3, 3, 7)[:, None]
    whole, scale = integer_rows(x)
    assert whole.dtype == torch.int8
    assert whole.abs().amax(dim=1).tolist() == [127] * 7
    assert ((whole * scale - x).abs() <= scale / 2 * 1.0001).all()
    assert fake_quantize_rows(torch.zeros(2, 4)).equal(torch.zeros(2, 4))


def test_linear_answers_as_rounded_matrices_do_and_gradients_pass_straight_through() -> None:
    plain, fake, x = layers()
    expected = functional.linear(fake_quantize_rows(x), fake_quantize_rows(plain.weight), plain.bias)
    assert torch.allclose(fake(x), expected, atol=1e-5)
    assert not torch.allclose(fake(x), plain(x), atol=1e-4), "nothing was rounded"
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    push = torch.randn(3, 5, 40)
    fake(mine).backward(push)
    rounded = fake_quantize_rows(other), fake_quantize_rows(plain.weight)
    functional.linear(*rounded, plain.bias).backward(push)
    for got, wanted in ((mine.grad, other.grad), (fake.weight.grad, plain.weight.grad), (fake.bias.grad, plain.bias.grad)):
        assert functional.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.9999
        assert got.norm().item() == pytest.approx(wanted.norm().item(), rel=0.01)


def test_an_answer_does_not_depend_on_who_shares_the_batch() -> None:
    _, fake, x = layers()
    assert fake(x).equal(fake(torch.cat([x, 1000 * torch.randn(1, 5, 48)]))[:3])


def test_embeddings_round_only_to_what_is_stored() -> None:
    table = nn.Embedding(10, 16)
    before = table.weight.clone()
    insert_fake_quantization(nn.Sequential(table))
    ids = torch.tensor([[1, 5], [5, 9]])
    assert table(ids).equal(fake_quantize_rows(before[ids]))
    assert table.weight.equal(before)


def test_insert_and_remove_leave_parameters_and_keys_alone(model: BertForSequenceClassification) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.arange(5, 15)[None]
    plain = model(ids).logits
    assert len(insert_fake_quantization(model)) == 3 + 2 * 6 + 2
    assert not model(ids).logits.equal(plain)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    remove_fake_quantization(model)
    assert model(ids).logits.equal(plain)
