"""A pause that the parent process asks for: raised where work can be taken up again."""


class Pause(Exception):
    """The parent asked us to stop; what can be kept is kept."""


def never() -> bool:
    """Nobody asks for a pause."""
    return False
