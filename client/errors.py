"""The client's errors. Each has its cause, what to do next, and its exit code."""

from typing import Any, ClassVar

import httpx

FAILED, USAGE, CANCELLED, TIMEOUT, UNREACHABLE, REFUSED, NOT_ACCEPTED, INTERRUPTED = 1, 2, 3, 4, 5, 6, 7, 130
EXITS = {
    0: "done; of a job that was waited for: it succeeded",
    FAILED: "the job, profile or prediction failed, or this machine could not do its part (a full disk, a wrong hash)",
    USAGE: "wrong usage: an option, a file, no key",
    CANCELLED: "the job was cancelled",
    TIMEOUT: "--timeout is over; what was waited for goes on",
    UNREACHABLE: "the service does not answer as Lathe does, or transfers keep breaking off",
    REFUSED: "the service refused: the message has its code, its cause and what to do",
    NOT_ACCEPTED: "--gate: the job succeeded, and its quality gate says regression or undecided",
    INTERRUPTED: "Ctrl-C; `up`, `serve` and `device run` end with 0",
}
"""Exit codes of every command, as `lathe --help` and docs/client.md list them."""


class ClientError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    code: ClassVar[str] = "client_error"
    exit_code: ClassVar[int] = FAILED
    remedy: ClassVar[str] = ""

    def __init__(self, cause: str, *, remedy: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy_text = self.remedy if remedy is None else remedy

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints under "error"."""
        return {"code": self.code, "cause": self.cause, "remedy": self.remedy_text}


class Problem(ClientError):
    """The service refused: an RFC 9457 problem document."""

    exit_code = REFUSED

    def __init__(
        self, cause: str, *, status: int, code: str, remedy: str, param: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(cause, remedy=remedy)
        self.status, self.problem_code, self.param, self.request_id = status, code, param, request_id
        self.quota: dict[str, Any] | None = None
        """The limit that was reached: its name, limit, use, what frees it and when."""

    @classmethod
    def of(cls, response: httpx.Response) -> "Problem":
        """Read an answer with an error status; it need not be a problem document, but a proxy's page."""
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = {}
        moved = response.headers.get("location") if response.is_redirect else None
        found = cls(
            str(body.get("cause") or body.get("detail") or f"HTTP {response.status_code} {response.reason_phrase}"),
            status=response.status_code,
            code=str(body.get("code") or f"http_{response.status_code}"),
            remedy=str(body.get("remedy") or (f"Point LATHE_URL at {moved}." if moved else "")),
            param=body.get("param"),
            request_id=body.get("request_id") or response.headers.get("x-request-id"),
        )
        found.quota = quota if isinstance(quota := body.get("quota"), dict) else None
        return found

    def as_dict(self) -> dict[str, Any]:
        """See ClientError."""
        return {
            "code": self.problem_code,
            "cause": self.cause,
            "remedy": self.remedy_text,
            "param": self.param,
            "status": self.status,
            "request_id": self.request_id,
            **({"quota": self.quota} if self.quota else {}),
        }


class BadAnswer(ClientError):
    """The address does not answer as a compatible Lathe service."""

    code = "bad_answer"
    exit_code = UNREACHABLE
    remedy = "Check LATHE_URL; if it is right, bring client and service to the same version."


class Unreachable(ClientError):
    """No answer came, or only a gateway's, after all attempts."""

    code = "unreachable"
    exit_code = UNREACHABLE
    remedy = "Start a service with `lathe up`, or point LATHE_URL at the one that runs."


class NoKey(ClientError):
    """There is no API key."""

    code = "no_key"
    exit_code = USAGE
    remedy = (
        "Set LATHE_KEY, or LATHE_HOME to the folder of a service that runs here; "
        "or start one with `lathe up`: it makes a key and keeps it for you."
    )


class NoGate(ClientError):
    """--gate was asked of a job that has no quality gate."""

    code = "no_gate"
    exit_code = USAGE
    remedy = "Submit it with one: lathe submit --target quality_gate=0.008; or wait without --gate."


class NoDevice(ClientError):
    """The key is not a registered device's."""

    code = "no_device"
    exit_code = USAGE
    remedy = "Set LATHE_KEY to the key that `lathe device register NAME` showed."


class BadConfig(ClientError):
    """The client's config file cannot be used."""

    code = "bad_config"
    exit_code = USAGE


class BadId(ClientError):
    """An id of a request has signs that no id has."""

    code = "bad_id"
    exit_code = USAGE
    remedy = "Give one id, as `lathe ls`, `lathe models ls` or `lathe datasets ls` prints it."


class BadNumber(ClientError):
    """A number of a request is none that JSON has."""

    code = "bad_number"
    exit_code = USAGE
    remedy = "Give a finite number."


class BadFolder(ClientError):
    """A local file or folder is no model or dataset."""

    code = "bad_folder"
    exit_code = USAGE


class BadRecipe(ClientError):
    """A recipe's file cannot be read, or there is no recipe of that name."""

    code = "bad_recipe"
    exit_code = USAGE
    remedy = "Begin with one that is right: lathe recipe init quick."


class NotReady(ClientError):
    """An upload was rejected, or its check did not end."""

    code = "not_ready"
    exit_code = REFUSED

    def __init__(self, cause: str, *, reasons: tuple[dict[str, Any], ...] = (), remedy: str | None = None) -> None:
        super().__init__(cause, remedy=remedy)
        self.reasons = reasons

    def as_dict(self) -> dict[str, Any]:
        """See ClientError."""
        return {**super().as_dict(), "reasons": list(self.reasons)}


class WrongHash(ClientError):
    """A download differs from its manifest; it was deleted."""

    code = "checksum_mismatch"
    remedy = "Download it again; if it comes out wrong again, the copy in the service's storage is damaged."


class BrokenTransfer(ClientError):
    """A download kept breaking off. The next attempt resumes it."""

    code = "transfer_broken"
    exit_code = UNREACHABLE
    remedy = "Run the same command again: it goes on where this one stopped."


class WaitedTooLong(ClientError):
    """The job, prediction or profile did not end in the time that the caller gave."""

    code = "timeout"
    exit_code = TIMEOUT
    remedy = "The job goes on by itself; look again with `lathe watch`, or stop it with `lathe cancel`."


class CannotStart(ClientError):
    """A part of `lathe up` could not be started."""

    code = "cannot_start"
