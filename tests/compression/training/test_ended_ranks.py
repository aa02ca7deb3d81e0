"""How the processes of a training end when one of them does, and where each opens what the first one had on its card."""

import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from compression.system import child_process
from compression.training import ranks
from compression.training.ranks import Ranks

ROOT = Path(__file__).parents[3]


def test_what_was_on_the_first_card_is_opened_on_a_process_s_own() -> None:
    storage, opened = torch.zeros(3).untyped_storage(), Mock()
    assert ranks.place(torch.device("cuda", 1), storage, "cpu") is storage
    assert ranks.place(torch.device("cuda", 1), opened, "cuda:0") is opened.to.return_value
    opened.to.assert_called_once_with(device=torch.device("cuda", 1))  # `cuda` takes the number alone


def test_a_child_that_ends_aborts_what_waits_for_it_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There nothing tells this process that a peer is gone. Without a card the group tells it, and is not watched."""
    aborted = threading.Event()
    monkeypatch.setattr(ranks, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(ranks, "abort_group", aborted.set)
    of_a_job = Ranks(2, tmp_path)
    with subprocess.Popen(["sleep", "60"]) as child:
        of_a_job._children = [child]
        with of_a_job._watched(torch.device("cuda")):
            assert not aborted.wait(0.1)
            child.kill()
            assert aborted.wait(20)
        aborted.clear()
        with of_a_job._watched(torch.device("cpu")):
            assert not aborted.wait(0.1)
    assert not any(thread.name == "ranks-watch" for thread in threading.enumerate())


@pytest.mark.parametrize(("whole", "way"), [(True, "destroy_process_group"), (False, "_abort_process_group")])
def test_a_group_that_is_not_whole_is_aborted(whole: bool, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's communicators wait for their peers where they are destroyed."""
    place = dist if whole else ranks
    left = Mock(side_effect=getattr(place, way))
    monkeypatch.setattr(place, way, left)
    ranks.join_group(tmp_path / "store", 0, 1)
    ranks.leave_group(whole=whole)
    left.assert_called_once()
    assert not dist.is_initialized()
    ranks.leave_group(whole=whole)  # there is none
    left.assert_called_once()


def test_a_process_that_lacks_memory_ends_at_once_and_says_so(tmp_path: Path) -> None:
    """It leaves no group, whose peers would have to leave it too."""
    script = (
        "import sys, torch; from pathlib import Path; from compression.training import ranks\n"
        "def lacking(*_): raise torch.OutOfMemoryError('CUDA out of memory.')\n"
        "ranks._take_part, ranks.dist.destroy_process_group = lacking, None\n"
        "ranks.serve(ranks.RankSpec(rank=1, size=2, folder=sys.argv[1], device='cpu', threads=1))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, input="training-1\n", capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == child_process.OUT_OF_MEMORY
    assert "process 1 of the training ran out of memory" in done.stderr
