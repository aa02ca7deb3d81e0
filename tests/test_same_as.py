"""The comparison of two commits' jobs reports each digit that moved, and no step that only one of them reported."""

from scripts.same_as import differences


def test_a_digit_that_moved_is_reported_and_a_step_of_one_side_is_not() -> None:
    before = {"baseline.score.value": "0.5", "distilled distill 1/8 loss": "0.25", "a/model.safetensors w": "abc"}
    after = {"baseline.score.value": "0.5", "distilled distill 2/8 loss": "0.5", "a/model.safetensors w": "abd"}
    assert differences(before, after) == ["a/model.safetensors w: abc → abd"]


def test_what_one_side_lacks_is_reported() -> None:
    assert differences({"pruning.ffn[0]": "8"}, {}) == ["pruning.ffn[0]: 8 → nothing"]
