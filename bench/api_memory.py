"""Measure the memory of the API process during an upload of 1 GiB, against its memory when idle."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

SIZE, BLOCK = 1 << 30, bytes(1 << 20)
PORT = 18_321


def main() -> None:
    """Start the API on SQLite and a folder, upload, and print both figures."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "LATHE_HOME": folder}
        made = subprocess.run([sys.executable, "-m", "app.bootstrap"], env=env, capture_output=True, check=True)
        key = json.loads(made.stdout)["key"]
        command = [sys.executable, "-m", "app.server", "--port", str(PORT)]
        with (Path(folder) / "log").open("wb") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as api:
            try:
                upload(psutil.Process(api.pid), key)
            finally:
                api.terminate()


def upload(api: psutil.Process, key: str) -> None:
    """Send the file and watch the process."""
    digest = hashlib.sha256()
    for _ in range(SIZE // len(BLOCK)):
        digest.update(BLOCK)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", headers=headers, timeout=120) as http:
        for _ in range(100):
            try:
                http.get("/healthz/ready").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        body = {"name": "big", "files": [{"path": "model.safetensors", "size": SIZE, "sha256": digest.hexdigest()}]}
        place = http.post("/v1/models", json=body).json()["id"]
        idle = api.memory_info().rss
        most = idle

        def blocks() -> Iterator[bytes]:
            nonlocal most
            for _ in range(SIZE // len(BLOCK)):
                most = max(most, api.memory_info().rss)
                yield BLOCK

        http.put(f"/v1/models/{place}/files/model.safetensors", content=blocks()).raise_for_status()
    print(f"idle {idle / 2**20:.0f} MiB, at most {most / 2**20:.0f} MiB during the upload of 1 GiB ({most / idle:.2f}×)")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m bench.api_memory", description=__doc__).parse_args()
    main()
