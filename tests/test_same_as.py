"""What is told of two commits' jobs: any digit that moved, but no step that only one of both had time to tell."""

from scripts.same_as import differences


def test_a_digit_that_moved_is_told_and_a_step_that_one_did_not_tell_is_not() -> None:
    before = {"baseline.score.value": "0.5", "distilled distill 1/8 loss": "0.25", "a/model.safetensors w": "abc"}
    after = {"baseline.score.value": "0.5", "distilled distill 2/8 loss": "0.5", "a/model.safetensors w": "abd"}
    assert differences(before, after) == ["a/model.safetensors w: abc → abd"]


def test_what_one_side_lacks_is_told() -> None:
    assert differences({"pruning.ffn[0]": "8"}, {}) == ["pruning.ffn[0]: 8 → nothing"]
