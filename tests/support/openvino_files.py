"""Where the constants of OpenVINO's files are."""

from pathlib import Path
from xml.etree import ElementTree


def openvino_constants(path: Path) -> list[tuple[int, int]]:
    """Return the offset and size of each constant of a .xml."""
    layers = ElementTree.parse(path).iter("layer")
    found = [layer.find("data") for layer in layers if layer.get("type") == "Const"]
    return [(int(one.attrib["offset"]), int(one.attrib["size"])) for one in found if one is not None]
