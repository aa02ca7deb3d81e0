"""The shipped proxy file in a real nginx, before whatever listens on a port."""

import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from scripts import proxy
from tests.conftest import free_port, wait_for

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
INSTALLED = shutil.which("nginx") is not None and MODULE.exists()


@dataclass
class Proxy:
    """A proxy that runs."""

    folder: Path
    http: int
    https: int
    trust: ssl.SSLContext  #: knows its certificate

    @property
    def url(self) -> str:
        """Where callers reach the API."""
        return f"https://localhost:{self.https}"

    def client(self, source: str = "127.0.0.1", key: str | None = None, **headers: str) -> httpx.Client:
        """A client that asks from an address."""
        sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
        transport = httpx.HTTPTransport(verify=self.trust, local_address=source)
        return httpx.Client(base_url=self.url, headers=sent, transport=transport, timeout=30)

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text()


def sign(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that signs itself; return it and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    command = ["openssl", "req", *kind, *name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def running(api: int, https: int | None = None) -> Iterator[Proxy]:
    """Run it before an API's port. Its folder's name is short: sockets in it have names of 108 characters at most."""
    with tempfile.TemporaryDirectory(prefix="lathe-proxy-") as place:
        folder = Path(place)
        certificate, key = sign(folder)
        made = Proxy(folder, free_port(), https or free_port(), ssl.create_default_context(cafile=str(certificate)))
        command = [sys.executable, proxy.__file__, place, "--public-url", made.url]
        command += ["--certificate", str(certificate), "--key", str(key), "--api", f"127.0.0.1:{api}"]
        command += ["--http", str(made.http), "--https", str(made.https)]
        subprocess.run(command, check=True, capture_output=True)
        # Where we are root nginx would give its workers to another user, who cannot enter this folder.
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        with (folder / "log").open("wb") as out:
            process = subprocess.Popen(
                ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", directives], stdout=out, stderr=out
            )
        try:

            def ready() -> bool:
                assert process.poll() is None, made.log()
                return httpx.get(f"http://127.0.0.1:{made.http}/").status_code == 308

            wait_for(ready)
            yield made
        finally:
            process.terminate()
            process.wait()
