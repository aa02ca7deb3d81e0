"""Moves the constants of an OpenVINO file to multiples of 64 bytes. OpenVINO writes one directly behind the other, and maps the
file when it opens it.
"""

from pathlib import Path
from xml.etree import ElementTree

from compression.models.files.safetensors_layout import BOUNDARY


def align_constants(path: Path) -> None:
    """Rewrite PATH.bin with zeros between its constants, and their offsets in PATH.xml. Raises OSError.

    path: of the .xml. Constants that share their bytes go on sharing them. Nothing may have the files open.
    """
    graph, data = ElementTree.parse(path), path.with_suffix(".bin")  # noqa: S314 (OpenVINO wrote it of our own graph)
    constants = [layer.find("data") for layer in graph.iter("layer") if layer.get("type") == "Const"]
    moved: dict[tuple[int, int], int] = {}
    part = data.with_name(f".{data.name}")
    with data.open("rb") as source, part.open("xb") as target:
        for constant in constants:
            assert constant is not None, "OpenVINO states the place of each constant's data"  # noqa: S101
            here = int(constant.attrib["offset"]), int(constant.attrib["size"])
            if here not in moved:
                target.write(bytes(-target.tell() % BOUNDARY))
                moved[here] = target.tell()
                source.seek(here[0])
                target.write(source.read(here[1]))
            constant.set("offset", str(moved[here]))
    part.replace(data)
    graph.write(path, encoding="utf-8", xml_declaration=True)
