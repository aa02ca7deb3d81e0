"""Pin all images that compose.yaml and the Dockerfile name by tag to the digests of their registries, in an override file.

    python scripts/pin_images.py compose.pinned.yaml
    docker compose -f compose.yaml -f compose.pinned.yaml up --build

Needs Docker with buildx, and the registries. Nothing is written unless every digest was found.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ARGUMENT = re.compile(r"^ARG (\w+_IMAGE)=(\S+)$", re.MULTILINE)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def pinned(image: str) -> str:
    """Return an image's name with the digest that its registry has for it now."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Manifest}}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    digest = str(json.loads(told).get("digest"))
    if not DIGEST.fullmatch(digest):
        raise SystemExit(f"{image}: its registry names no digest")
    return f"{image}@{digest}"


def override(services: dict[str, Any], bases: dict[str, str]) -> dict[str, Any]:
    """Return the override that pins each service's image, or the images it is built from."""
    images = {*bases.values(), *(each["image"] for each in services.values() if "image" in each)}
    found = {image: pinned(image) for image in sorted(images)}
    arguments = {name: found[image] for name, image in bases.items()}
    return {
        name: {"image": found[each["image"]]} if "image" in each else {"build": {"args": arguments}}
        for name, each in services.items()
    }


def main(target: Path) -> None:
    """Write the override."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    bases = dict(ARGUMENT.findall((ROOT / "Dockerfile").read_text(encoding="utf-8")))
    text = yaml.safe_dump({"services": override(services, bases)}, sort_keys=False)
    target.write_text(f"# Made by `make pin`: what the tags of compose.yaml meant then.\n{text}", encoding="utf-8")
    print(f"docker compose -f compose.yaml -f {target} up --build")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the override file to write, as compose.pinned.yaml")
    main(parser.parse_args().target)
