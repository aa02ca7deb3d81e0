"""Writes an artifact's config.json, recipe, licence, and manifest of all files."""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedModel

from compression.export.exporter import exporter_of
from compression.export.provenance import Origin
from compression.models.architectures import heads
from compression.models.architectures.families import needed_files
from compression.schema.artifact_formats import Kind
from compression.schema.manifest import MANIFEST, Interface, Manifest
from compression.schema.report.report import File
from compression.system.sealed_folder import file_in, list_files


def write_config(model: PreTrainedModel, folder: Path, labels: tuple[str, ...], max_length: int, kind: Kind) -> int:
    """Write a format's config.json with the labels; return the id of the padding token."""
    exporter = exporter_of(kind)
    config = exporter.config(model, folder, max_length)
    if labels:
        config = exporter.labelled(config, labels)
    if config.get("model_type") == model.config.model_type:  # a stock form of it names its own class
        config["architectures"] = [type(model).__name__]
    for name in ("attn_implementation", "_attn_implementation"):
        config.pop(name, None)  # the uploader's attention kernel, which other machines may lack
    # Always written, because a stock config leaves out its family's default. A language model without padding keeps none:
    # token 0 is text, and stock code would no longer train it, nor accept it as a text's last token.
    padding = int(getattr(model.config, "pad_token_id", None) or 0)
    generates = heads.of_architecture(type(model).__name__) is heads.LANGUAGE
    if "tokenizer.json" in needed_files(model.config.model_type):
        config["pad_token_id"] = model.config.pad_token_id if generates else padding
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(as_json(config), "utf-8")
    return padding


def write_origin(origin: Origin, folder: Path) -> None:
    """Write the whole recipe beside the weights, and copy the model's licence files."""
    (folder / "recipe.json").write_text(as_json(origin.recipe.model_dump(mode="json")), "utf-8")
    for path in origin.licenses:
        shutil.copyfile(path, folder / path.name)


def write_manifest(folder: Path, kind: Kind, interface: Interface | None) -> tuple[File, ...]:
    """Write manifest.json: every file with its size and sha256, and what is read and answered; return the list of files,
    the manifest included.
    """
    files, manifest = list_files(folder), folder / MANIFEST
    manifest.write_text(as_json(Manifest(kind=kind, files=files, interface=interface).model_dump(mode="json")), "utf-8")
    return (*files, file_in(folder, manifest))


def as_json(value: object) -> str:
    """Return a value as indented JSON that ends with a line feed."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
