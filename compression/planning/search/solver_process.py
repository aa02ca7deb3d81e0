"""The process that answers targets for the service: a request a line on standard input, a reply a line on standard output, both
after the request's number.

It reads what engines wrote of strangers' models, and its solver may take long: so it has a limit of memory, and the service
ends it when its time is over. It never imports torch.
"""

import resource
import sys

from pydantic import ValidationError

from compression.planning.search.problem import OutOfTime
from compression.planning.search.solver_request import SolverReply, SolverRequest
from compression.planning.search.targets import Answerer
from compression.schema.errors import CompressionError
from compression.schema.solved_search import SolvedSearch, TablesCheckpoint
from compression.schema.target_answer import TargetQuestion
from compression.system.process import private_channel
from compression.system.sealed_folder import UnusableCheckpoint, unseal_text

MEMORY_BYTES = 4 << 30
"""Of addresses: the libraries alone take 0.3 GB."""


def reply(request: SolverRequest) -> SolverReply:
    """Answer a request."""
    try:
        tables = TablesCheckpoint.model_validate_json(unseal_text(request.tables, "the tables")).tables
        search = SolvedSearch.model_validate_json(unseal_text(request.search, "the search"))
    except (ValueError, TypeError, KeyError, UnusableCheckpoint, ValidationError) as problem:
        return SolverReply(unreadable=f"{type(problem).__name__}: {problem}"[:1000])
    if search.digest != tables.digest:
        return SolverReply(unreadable="the search was solved with other tables")
    answerer = Answerer(tables, search, request.device_table, request.scores, request.tokens, request.batch)
    try:
        if isinstance(request.asked, TargetQuestion):
            return SolverReply(answer=answerer.answer(request.asked, request.seconds))
        return SolverReply(front=answerer.front(request.asked, request.seconds))
    except CompressionError as problem:
        return SolverReply(refused=problem.as_dict())
    except OutOfTime:
        return SolverReply(late=True)
    except (ValueError, LookupError, ArithmeticError, MemoryError) as problem:  # of tables that no model has
        return SolverReply(unreadable=f"{type(problem).__name__}: {problem}"[:1000])


def main() -> None:
    """Answer until standard input ends, which it does with the service."""
    if sys.platform.startswith("linux"):  # elsewhere addresses have no limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    replies = private_channel()  # what HiGHS prints is no reply
    for line in sys.stdin.buffer:
        number, _, request = line.partition(b" ")
        found = reply(SolverRequest.model_validate_json(request))
        replies.write(f"{number.decode()} {found.model_dump_json()}\n")


if __name__ == "__main__":
    main()
