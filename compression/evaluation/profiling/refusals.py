"""Why an artifact could not be profiled, as a typed failure. Torch-free."""

import re

from compression.schema.errors import OutOfMemory
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.system import failures

SMALLER = "Ask for a smaller batch or a shorter length, or take a device with more memory."
UPDATE = "Update the runtime on the device to the version that the artifact's README.md names, or newer."
OTHER = "Profile the artifact of another format, or take a device whose runtime has what is missing."
AGAIN = "Download the artifact again; compare its files with manifest.json."
REPORT = "Profile again; if it fails again, report it with the device's log."
WORDS = (
    # ONNX Runtime, then OpenVINO. The files have their hashes, so what cannot be read is of another version.
    ("IR version", "version_mismatch", UPDATE),
    ("opset version", "version_mismatch", UPDATE),
    ("Unknown model file format version", "version_mismatch", UPDATE),
    ("unsupported opset", "version_mismatch", UPDATE),
    ("Unable to read the model", "version_mismatch", UPDATE),
    ("No Op registered for", "unsupported", OTHER),
    ("is not a registered function/op", "unsupported", OTHER),
    ("NOT_IMPLEMENTED", "unsupported", OTHER),
    ("doesn't contain the operation", "unsupported", OTHER),
    ("Protobuf parsing failed", "bad_artifact", AGAIN),
    ("NO_SUCHFILE", "bad_artifact", AGAIN),
)
"""What runtimes write, the code for it, and the remedy. The first that is found counts."""
LONGEST = 4000
SUBJECTS = {
    "unsupported": (
        r"No Op registered for (\w+)",
        r"implementation for (\w+)",
        r"([\w.:]+) is not a registered function/op",
        r"the operation with type: (\w+)",
    ),
    "version_mismatch": (r"(Opset \d+) is under", r"(IR version: \d+)", r"unsupported opset: (\w+)", r"(format version: \d+)"),
}
"""Where runtimes name the operator or version at fault, by code; the first that is found counts."""


class Refused(Exception):
    """A profile that cannot be taken, with the failure to answer."""

    def __init__(self, failure: ProfileFailure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def refused(
    code: str, detail: str, remedy: str, *, subject: str | None = None, request: ProfileRequest | None = None
) -> Refused:
    """Return a refusal. Long texts are cut. subject, request: see `ProfileFailure`."""
    facts = {"code": code, "detail": detail[:LONGEST], "remedy": remedy[:LONGEST], "subject": subject and subject[:500]}
    return Refused(ProfileFailure.model_validate({**facts, "request": request}))


def _subject(code: str, text: str) -> str | None:
    found = (re.search(pattern, text) for pattern in SUBJECTS.get(code, ()))
    return next((one.group(1) for one in found if one), None)


def refusal_of(problem: Exception) -> Refused:
    """Return the refusal that an exception of a runtime amounts to."""
    if isinstance(problem, Refused):
        return problem
    text = f"{type(problem).__name__}: {problem}"
    if isinstance(failures.typed(problem), OutOfMemory):
        return refused("out_of_memory", text, SMALLER)
    if isinstance(problem, ModuleNotFoundError):
        return refused(
            "unsupported",
            f"This device lacks the package {problem.name}.",
            f"Install it: pip install {problem.name}.",
            subject=problem.name,
        )
    found = next((one for one in WORDS if one[0] in text), ("", "failed", REPORT))
    return refused(found[1], text, found[2], subject=_subject(found[1], text))
