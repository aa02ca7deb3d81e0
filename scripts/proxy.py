"""Write deploy/proxy/nginx.conf for a machine without Docker, as an nginx beside `lathe up` takes it, and what starts it.

    python scripts/proxy.py FOLDER --public-url https://lathe.example.com --certificate FILE --key FILE

The file stays as it is but for ports, places and the API's address. FOLDER gets it, what it includes, and what nginx writes.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "deploy" / "proxy" / "nginx.conf"
START = """#!/bin/sh
# Sockets that an nginx left which was killed would keep the next one from starting.
rm -f {run}/*.sock
exec nginx -e stderr -c {written} -g "daemon off; $*"
"""
PUBLIC = 'map "" $public_url {{ default "{url}"; }}\n'
"""What compose.yaml puts into /etc/lathe/public.conf."""


def write(folder: Path, public_url: str, certificate: Path, key: Path, *, api: str, http: str, https: str) -> Path:
    """Write the file into a folder; return its path. Raises ValueError if the shipped file lacks a place to fill."""
    folder = folder.resolve()
    for name in ("run", "acme"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "public.conf").write_text(PUBLIC.format(url=public_url.rstrip("/")), encoding="utf-8")
    text = SHIPPED.read_text(encoding="utf-8")
    places = {
        "listen 8080 ": f"listen {http} ",
        "listen 8443 ": f"listen {https} ",
        "server api:8321 ": f"server {api} ",
        # Links stay links: a renewal gives them other files.
        "/etc/lathe/tls/certificate.pem": str(certificate.absolute()),
        "/etc/lathe/tls/key.pem": str(key.absolute()),
        "/etc/lathe/public.conf": str(folder / "public.conf"),
        "/srv/acme": str(folder / "acme"),
        "/tmp/": f"{folder / 'run'}/",  # noqa: S108  # the container's
    }
    for shipped in places:
        if shipped not in text:
            raise ValueError(f"{SHIPPED} does not say {shipped!r} any more")
    written = folder / "nginx.conf"
    start = folder / "start"
    start.write_text(START.format(run=folder / "run", written=written), encoding="utf-8")
    start.chmod(0o755)
    found = "|".join(map(re.escape, places))
    written.write_text(re.sub(found, lambda match: places[match[0]], text), encoding="utf-8")
    return written


def sign(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for this machine, for trials; return it and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    command = ["openssl", "req", *kind, *name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def running(folder: Path, api: int, http: int, https: int) -> "Iterator[subprocess.Popen[bytes]]":
    """Run it on this machine with a self-signed certificate, for trials. Its output is in FOLDER/log."""
    certificate, key = sign(folder)
    places = {"api": f"127.0.0.1:{api}", "http": str(http), "https": str(https)}
    written = write(folder, f"https://localhost:{https}", certificate, key, **places)
    # Where we are root nginx would give its workers to another user, who cannot enter this folder.
    directives = ["user root;"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen([written.with_name("start"), *directives], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def main(arguments: Sequence[str]) -> None:
    """Write the file, and print how to run nginx."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of nginx's own; as short a path as /run/lathe-proxy")
    parser.add_argument("--public-url", required=True, help="the value of LATHE_PUBLIC_URL")
    parser.add_argument("--certificate", type=Path, required=True, help="PEM, with what signs it")
    parser.add_argument("--key", type=Path, required=True, help="PEM")
    parser.add_argument("--api", default="127.0.0.1:8321", help="where the API listens")
    parser.add_argument("--http", default="80", help="port, or address:port, of plain HTTP")
    parser.add_argument("--https", default="443", help="port, or address:port, of TLS")
    asked = parser.parse_args(arguments)
    places = {"api": asked.api, "http": asked.http, "https": asked.https}
    written = write(asked.folder, asked.public_url, asked.certificate, asked.key, **places)
    print(written.with_name("start"))


if __name__ == "__main__":
    main(sys.argv[1:])
