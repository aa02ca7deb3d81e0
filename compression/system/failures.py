"""Detects machine failures behind an exception: no memory, a broken device, a full disk. Torch-free.

Libraries wrap them in types of their own, often with the cause as text only, so causes and messages are read as well.
"""

import errno
from collections.abc import Iterator

from compression.schema.errors import CompressionError, DeviceError, DiskFull, OutOfMemory

LONGEST = 1000
"""Characters of a library's message that a cause quotes."""
NO_ROOM = ("No space left on device", "Disk quota exceeded")
NO_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",
    "Cannot allocate memory",  # the kernel, through any library
    "out of memory",  # CUDA, also in an error that is not an OutOfMemoryError
    "_STATUS_ALLOC_FAILED",  # cuBLAS and similar libraries
    "bad_alloc",  # C++
    "bad allocation",
    "Failed to allocate memory",  # ONNX Runtime
)
NO_PRIMITIVE = ("could not create a primitive", "could not create a memory object")
"""All that oneDNN says where an allocation fails: what it does not support names a descriptor as well."""
BROKEN = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error")


def typed(problem: BaseException) -> CompressionError | None:
    """Return the machine failure that `problem` is or was caused by; None if there is none.

    A CompressionError's message may quote the user's files, so only its causes are searched.
    """
    chain = list(causes(problem))
    for link in chain:
        if isinstance(link, OutOfMemory | DeviceError | DiskFull):
            return link
    found = [link for link in chain if not isinstance(link, CompressionError)]
    for link in found:
        if _says(link, NO_ROOM, errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"the worker's disk is full: {_words(link)}")
    for link in found:
        if isinstance(link, MemoryError) or _is(link, "OutOfMemoryError") or _lacks_memory(link):
            return OutOfMemory(_words(link) or "the machine's memory did not suffice", param="recipe.train")
    for link in found:
        if _is(link, "AcceleratorError") or (isinstance(link, RuntimeError) and _says(link, BROKEN)):
            return DeviceError(f"the device failed: {_words(link)}")
    return None


def causes(problem: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the exception that it was raised from, and so on."""
    seen: set[int] = set()
    link: BaseException | None = problem
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _says(problem: BaseException, words: tuple[str, ...], *numbers: int) -> bool:
    if isinstance(problem, OSError) and problem.errno is not None:
        return problem.errno in numbers
    text = str(problem)
    return any(word in text for word in words)


def _lacks_memory(problem: BaseException) -> bool:
    return _says(problem, NO_MEMORY, errno.ENOMEM) or str(problem).strip() in NO_PRIMITIVE


def _is(problem: BaseException, name: str) -> bool:
    # torch's types, by name: the processes that measure and validate never load torch.
    return any(kind.__name__ == name and kind.__module__.startswith("torch") for kind in type(problem).__mro__)


def _words(problem: BaseException) -> str:
    return str(problem)[:LONGEST]
