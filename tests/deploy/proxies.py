"""The shipped proxy file in a real nginx, before whatever listens on a port."""

import contextlib
import shutil
import ssl
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
    folder: Path
    http: int
    https: int
    trust: ssl.SSLContext  #: knows its certificate

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https}"

    def client(self, source: str = "127.0.0.1", key: str | None = None, **headers: str) -> httpx.Client:
        sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
        transport = httpx.HTTPTransport(verify=self.trust, local_address=source)
        return httpx.Client(base_url=self.url, headers=sent, transport=transport, timeout=30)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextlib.contextmanager
def running(api: int, https: int | None = None) -> Iterator[Proxy]:
    """Run it before an API's port. Its folder's name is short: sockets in it have names of 108 characters at most."""
    with tempfile.TemporaryDirectory(prefix="lathe-proxy-") as place:
        folder, http, https = Path(place), free_port(), https or free_port()
        with proxy.running(folder, api, http, https) as process:
            made = Proxy(folder, http, https, ssl.create_default_context(cafile=str(folder / "certificate.pem")))

            def ready() -> bool:
                assert process.poll() is None, made.log()
                return httpx.get(f"http://127.0.0.1:{http}/").status_code == 308

            wait_for(ready)
            yield made
