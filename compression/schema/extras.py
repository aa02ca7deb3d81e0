"""How a user installs what an optional feature needs: the extras of pyproject.toml. Torch-free."""


def pip_install(extra: str) -> str:
    """Return the words of messages that say how an extra is installed.

    It is installed from the clone: on PyPI the name `lathe` is another project's, whose code pip would run.
    """
    return f"pip install '.[{extra}]' in the clone of Lathe"
