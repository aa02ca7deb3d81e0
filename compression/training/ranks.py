"""The processes that do a job's trainings together: this one, which is the first, and children of it.

A child imports the engine, says that it is ready, and waits. For each training it gets a file with the model, the rows and the
loss, joins the group and does its part. It dies with this process; if it ends before, the training does with RankLost.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.distributed_c10d import _abort_process_group, _set_pg_timeout
from transformers import PreTrainedModel

from compression.schema.config import Config
from compression.schema.errors import CompressionError, OutOfMemory, RankLost
from compression.schema.worker_device import DeviceKind
from compression.system import child_process, failures, process
from compression.system.child_process import OUT_OF_MEMORY
from compression.system.memory import killed_for_memory
from compression.training.sharded import CAPTURES, Sharded, threads
from compression.training.trainer import run
from compression.training.work import Group, Work

READY = b"ready\n"
START_SECONDS = 600.0
"""Limit for a child to import torch, on a machine that may be busy."""
END_SECONDS = 5.0
"""For the kernel to end what broke a collective."""
COLLECTIVE_SECONDS = 3600.0
"""Limit for one collective: the others wait in one while the first process validates or writes a save."""
WATCH_SECONDS = 2.0
"""Between two looks at the children of a training on cards."""
JOIN_SECONDS = 120.0
"""Limit for the processes to meet, once each has opened its part: one that ended before it met the others is missed then."""
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_CUMEM_ENABLE": "0"}
"""The processes talk over this machine's loopback alone, and NCCL shares no handles of memory, but segments of /dev/shm."""


class RankSpec(Config):
    """The input of `python -m compression rank`: which of a job's processes this is."""

    rank: Annotated[int, Field(ge=1)]
    size: Annotated[int, Field(ge=2)]
    folder: str
    """Folder of the files that the processes meet by."""
    device: DeviceKind
    threads: Annotated[int, Field(ge=1)]


class Ranks:
    """The processes of one job, `size` of them. folder: for their files; `close` removes those of trainings, which may be as
    large as the models.

    The children start with the first training. Call `close` at the end.
    """

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder = size, folder
        self._children: list[subprocess.Popen[bytes]] = []
        self._trainings = 0
        self._killed_before = 0

    @contextmanager
    def joined(self, work: Work) -> Iterator[Group]:
        """Do a training together within this context. Raises RankLost if a child ends, OutOfMemory if for want of memory.

        An exception ends the children: the next training starts new ones.
        """
        whole = torch.get_num_threads()
        share = max(whole // self.size, 1)
        device = next(work.model.parameters()).device
        group: Sharded | None = None
        ended = False
        try:
            self._start(device, share)
            self._meet(work)
            with threads(share), self._watched(device):
                group = Sharded(work, device, whole)
                yield group
            ended = True
        except RuntimeError as problem:
            if (lost := self._find_lost()) is None:
                raise
            raise lost from problem
        finally:
            if not ended:
                self.close()
            if group is not None:
                group.leave()
            leave_group(whole=ended)

    @contextmanager
    def _watched(self, device: torch.device) -> Iterator[None]:
        """Abort the group if a child ends within this context: on cards this process would wait for it, for an hour at most.

        Where there are no cards, what breaks off a connection is told at once.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH_SECONDS):
                if any(child.poll() is not None for child in self._children):
                    abort_group()
                    return

        watching = threading.Thread(target=watch, name="ranks-watch", daemon=True)
        if device.type != "cpu":
            watching.start()
        try:
            yield
        finally:
            over.set()
            if watching.ident is not None:
                watching.join()

    def _start(self, device: torch.device, threads: int) -> None:
        """Start the children, unless they run since an earlier training; wait until they are ready. Raises RankLost."""
        if any(child.poll() is not None for child in self._children):
            self.close()  # one ended between two trainings
        if self._children:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_trainings()  # of an engine that was killed here: its store would answer for the processes of this one
        self._killed_before = killed_for_memory()
        kind = cast(DeviceKind, device.type)
        for rank in range(1, self.size):
            spec = RankSpec(rank=rank, size=self.size, folder=str(self.folder), device=kind, threads=threads)
            path = self.folder / f"rank-{rank}.json"
            path.write_text(spec.model_dump_json(), "utf-8")
            child = child_process.start(["rank", "--die-with-parent", str(path)], child_process.environment(), None, asked=True)
            self._children.append(child)
        self._wait_until_ready("start")

    def _wait_until_ready(self, what: str) -> None:
        """Wait until each child says that it is ready. what: it does until then. Raises RankLost, OutOfMemory."""
        end = time.monotonic() + START_SECONDS
        for child in self._children:
            assert child.stdout is not None  # noqa: S101
            if not select.select([child.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                raise RankLost(f"a process of the training did not {what} within {START_SECONDS:.0f} s")
            if child.stdout.readline() != READY:
                raise self._find_lost() or RankLost(f"a process of the training did not {what}")

    def _meet(self, work: Work) -> None:
        """Give the children a training, and make the group with them."""
        self._trainings += 1
        path = self.folder / f"training-{self._trainings}"
        with _without_local_hooks([work.model, *work.hooks.asked]):
            torch.save(work, path)
        for child in self._children:
            assert child.stdin is not None  # noqa: S101
            with suppress(BrokenPipeError):
                child.stdin.write(f"{path}\n".encode())
                child.stdin.flush()
        self._wait_until_ready("open its part")
        path.unlink()  # who has mapped it keeps it
        join_group(path.with_suffix(".store"), 0, self.size)

    def _find_lost(self) -> CompressionError | None:
        """Return the error of a child that has ended, or None if all go on."""
        end = time.monotonic() + END_SECONDS
        while all(child.poll() is None for child in self._children) and time.monotonic() < end:
            time.sleep(0.05)
        ended = {rank: child.returncode for rank, child in enumerate(self._children, 1) if child.poll() is not None}
        if not ended:
            return None
        # Those that lost their peers end too: what a signal or memory ended was first.
        rank, code = min(ended.items(), key=lambda one: (one[1] != OUT_OF_MEMORY, one[1] >= 0))
        if code == OUT_OF_MEMORY or (code == -signal.SIGKILL and killed_for_memory() > self._killed_before):
            return OutOfMemory(f"process {rank} of {self.size} ran out of memory", param="recipe.train")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return RankLost(f"process {rank} of {self.size} (counted from 0) of the training {how}")

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._children = []
        self._remove_trainings()

    def _remove_trainings(self) -> None:
        for path in self.folder.glob("training-*"):
            path.unlink(missing_ok=True)


@contextmanager
def _without_local_hooks(models: Iterable[nn.Module]) -> Iterator[None]:
    """Take the hooks by which transformers captures hidden states out of models within this context: they are no functions of
    a module, so they cannot be pickled, and a model that has lost them gets new ones when they are asked for.
    """
    modules = list(dict.fromkeys(module for model in models for module in model.modules()))
    before = [(module._forward_hooks.copy(), vars(module).pop(CAPTURES, None)) for module in modules]
    for module, (hooks, _) in zip(modules, before, strict=True):
        for number, hook in hooks.items():
            if "<locals>" in getattr(hook, "__qualname__", ""):
                del module._forward_hooks[number]
    try:
        yield
    finally:
        for module, (hooks, captures) in zip(modules, before, strict=True):
            module._forward_hooks = hooks
            if captures is not None:
                vars(module)[CAPTURES] = captures


def join_group(store: Path, rank: int, size: int) -> None:
    """Join a training's group. store: the file that its processes meet by. Raises RuntimeError if they do not within
    JOIN_SECONDS.
    """
    os.environ.update(LOOPBACK)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    where = FileStore(str(store), size)
    dist.init_process_group(backend, store=where, rank=rank, world_size=size, timeout=timedelta(seconds=JOIN_SECONDS))
    _set_pg_timeout(timedelta(seconds=COLLECTIVE_SECONDS))


def abort_group() -> None:
    """Have what waits in a collective of the group fail."""
    if dist.group.WORLD is not None:
        dist.group.WORLD.abort()


def leave_group(*, whole: bool) -> None:
    """Leave the group, if there is one. whole: all its processes do; otherwise nothing waits for those that have ended."""
    if dist.is_initialized():
        if whole:
            dist.destroy_process_group()
        else:
            _abort_process_group()


def serve(spec: RankSpec) -> int:
    """Do this process's part of each training that standard input names; return the exit code when it ends.

    What fails ends the process at once: a card's group waits for its peers where it is left, and they for this process.
    """
    channel = process.private_channel()
    process.keep_freed_memory()
    device = torch.device("cpu") if spec.device == "cpu" else torch.device(spec.device, spec.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(spec.threads)
    channel.write(READY.decode())
    try:
        for line in sys.stdin:
            _take_part(Path(line.strip()), spec, device, channel)
    except Exception as problem:
        lacks = isinstance(failures.typed(problem), OutOfMemory)
        if lacks:
            sys.stderr.write(f"process {spec.rank} of the training ran out of memory: {problem}\n")
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(OUT_OF_MEMORY if lacks else 1)
    return 0


def place(device: torch.device, storage: Any, location: str) -> Any:
    """Return where a process opens the storage of a tensor: on its own device what was on the first one's."""
    return storage.to(device=device) if location.startswith("cuda") else storage


def _take_part(path: Path, spec: RankSpec, device: torch.device, channel: TextIO) -> None:
    # The engine wrote it: whoever could change it could change the engine's folder.
    work: Work = torch.load(path, map_location=partial(place, device), weights_only=False, mmap=device.type == "cpu")
    for model in (work.model, *work.hooks.asked):
        if isinstance(model, PreTrainedModel):
            with torch.device("meta"):  # transformers learns what a class can capture when one is made, and pickle makes none
                type(model)(model.config)
    channel.write(READY.decode())
    join_group(path.with_suffix(".store"), spec.rank, spec.size)
    for _ in run(work, Sharded(work, device, spec.threads)):
        pass
    dist.destroy_process_group()
