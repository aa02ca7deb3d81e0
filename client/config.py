"""The service and its key: LATHE_URL and LATHE_KEY, else $LATHE_HOME/client.json (mode 0600)."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from client.errors import BadConfig, NoKey

DEFAULT_URL = "http://127.0.0.1:8321"


def home() -> Path:
    """Return this user's Lathe folder."""
    return Path(os.environ.get("LATHE_HOME") or "~/.lathe").expanduser().absolute()


@dataclass(frozen=True)
class Config:
    """A service and the key for it."""

    url: str
    key: str | None = None

    def require_key(self) -> str:
        """Return the key. Raises NoKey."""
        if not self.key:
            raise NoKey(f"there is no key for {self.url}")
        return self.key


def load_file(folder: Path) -> Config | None:
    """Read the file alone; None if there is none. Raises BadConfig."""
    path = folder / "client.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        url, key = found["url"], found.get("key")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadConfig(f"{path} cannot be read: {error}", remedy=f"Correct or remove it: rm {path}") from error
    if not isinstance(url, str) or not (key is None or isinstance(key, str)):
        raise BadConfig(f"{path}: url and key must be strings", remedy=f"Correct or remove it: rm {path}")
    return Config(url.rstrip("/"), key)


def load(folder: Path | None = None) -> Config:
    """Read environment and file. The file's key goes only to the file's URL, never to another service."""
    stored = load_file(folder or home())
    url = os.environ.get("LATHE_URL", "").rstrip("/")
    key = os.environ.get("LATHE_KEY", "").strip() or None
    if stored is None:
        return Config(url or DEFAULT_URL, key)
    if url and url != stored.url:
        return Config(url, key)
    return Config(stored.url, key or stored.key)


def save(config: Config, folder: Path | None = None) -> Path:
    """Write the file, at no moment readable by others; return its path."""
    folder = folder or home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "client.json"
    part = folder / f".client.json.{os.getpid()}.part"
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump({"url": config.url, "key": config.key}, out, indent=2)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
    return path
