"""The two clients: the service's endpoints, and this machine's files on their way there and back."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from client.core.drivers import Awaiting, Operation
from client.core.endpoints import Endpoints, Service
from client.transfers.download import download
from client.transfers.folders import Local, Moved, local_model, manifest
from client.transfers.packing import dataset_to_send
from client.transfers.upload import add, until_ready
from client.types import Artifact, Dataset, Job, Model

Place = str | PathLike[str]
P = ParamSpec("P")
R = TypeVar("R")


def threaded(work: Callable[Concatenate[Any, P], R]) -> Operation[P, R, Coroutine[Any, Any, R]]:
    """Make a method that the async client runs in a thread of the sync one, since disks do not await.

    If the task is cancelled, the transfer ends with its next megabyte.
    """

    def blocking(self: "Lathe", *args: P.args, **kwargs: P.kwargs) -> R:
        return work(self, *args, **kwargs)

    async def awaiting(self: "AsyncLathe", *args: P.args, **kwargs: P.kwargs) -> R:
        stop, moved = threading.Event(), cast("Moved | None", kwargs.get("moved"))

        def report(path: str, amount: int) -> None:
            if stop.is_set():
                raise InterruptedError("cancelled")
            if moved:
                moved(path, amount)

        def run() -> R:
            with Lathe(self.url, self.key, timeout=self.timeout, attempts=self.attempts) as lathe:
                changed: Any = {**kwargs, "moved": report}
                return work(lathe, *args, **changed)

        try:
            return await asyncio.to_thread(run)
        finally:
            stop.set()

    result = work.__annotations__["return"]
    return Operation(work, blocking, awaiting, (result, result))


class _Files(Endpoints):
    def _add(self: Any, local: Local, moved: Moved | None, timeout: float) -> Model | Dataset:
        promised = manifest(local.files)
        return until_ready(self, local.kind, add(self, local.kind, local.body, promised, moved=moved), timeout=timeout)

    @threaded
    def add_model(
        self: Any, folder: Place, name: str | None = None, *, moved: Moved | None = None, timeout: float = 900.0
    ) -> Model:
        """Upload what save_pretrained() wrote, or resume what is there of it already; return it once it is checked.

        moved: is called with (path, bytes) as they go, from several threads; timeout: seconds that the check may take.
        Raises BadFolder, NotReady with the reasons, Problem, Unreachable.
        """
        return cast(Model, self._add(local_model(Path(folder), name), moved, timeout))

    @threaded
    def add_dataset(
        self: Any,
        place: Place,
        name: str | None = None,
        *,
        task: str = "text-classification",
        columns: Mapping[str, str] | None = None,
        moved: Moved | None = None,
        timeout: float = 900.0,
    ) -> Dataset:
        """Upload a file (train) or a folder of train.*, validation.*, test.*, unlabelled.*; return it once it is checked.

        For image-classification also a folder of images by class, or one of splits with such folders: it is packed first.
        columns: what the data calls `text`, `label` and the task's other columns. Raises as add_model does.
        """
        with dataset_to_send(Path(place), lambda *_: nullcontext(), name, task=task, columns=columns) as local:
            return cast(Dataset, self._add(local, moved, timeout))

    def _chosen(self: Any, job_id: str) -> list[Artifact]:
        """Return what the report says to take: one artifact, or one for each of several datasets."""
        names = self.report(job_id).to_run
        return [artifact for artifact in self.artifacts(job_id) if artifact.name in names]

    @threaded
    def download(self: Any, what: Job | Artifact | str, folder: Place, *, moved: Moved | None = None) -> list[Path]:
        """Fetch an artifact, or what a job's report says to take, into folder/<name of the artifact>; return those folders.

        Each file is checked against its SHA-256 before it gets its name; one that broke off is resumed where it broke.
        Raises WrongHash, BrokenTransfer, BadFolder, Problem.
        """
        artifacts = [what] if isinstance(what, Artifact) else self._chosen(what if isinstance(what, str) else what.id)
        return [download(self, artifact, Path(folder), moved=moved) for artifact in artifacts]


class Lathe(_Files, Service):
    """A service, the key that signs requests to it, and files. Safe to share between threads.

    with Lathe.from_config() as lathe:
        job = lathe.submit(model=lathe.add_model("model"), data=lathe.add_dataset("data"), recipe="quick")
        lathe.download(lathe.wait(job.id), "small")
    """


class AsyncLathe(_Files, Awaiting, Endpoints):
    """As Lathe, for asyncio: `async with AsyncLathe.from_config() as lathe: job = await lathe.submit(…)`."""
