"""The pause that the parent process requests: raised at points where work can resume."""


class Pause(Exception):
    """The parent requested a stop; everything that can be saved is saved."""


def never() -> bool:
    """Return False: no pause is requested."""
    return False
