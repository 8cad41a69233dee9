"""The page behind a real nginx: under a path, with HTTPS and a password, as the docs say, and as many have it."""

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import until, watch

DOCS = Path(__file__).resolve().parents[2] / "docs" / "search.md"
SITE = """
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name photos.localhost;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        {location}
    }}
"""
CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxied;
    fastcgi_temp_path unused1;
    uwsgi_temp_path unused2;
    scgi_temp_path unused3;
    {sites}
}}
"""
# The path taken off, the Host replaced by that of the server behind, a photo of any size.
SHORTEST = "client_max_body_size 0; location /photos/ { proxy_pass http://127.0.0.1:8765/; }"
# The same, and what the browser asked for in forwarded headers, as other proxies have it by default.
FORWARDED = SHORTEST.replace(
    "; }",
    "; proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; "
    "proxy_set_header X-Forwarded-For $remote_addr; }",
)


def documented() -> str:
    """What docs/search.md has to be put into nginx's configuration."""
    found = re.search(
        r"^    location /photos/ \{\n.*?^    \}\n", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def trusting(served: tuple[str, Path], running: Any) -> Iterator[str]:
    """Address of a server that believes the proxy's forwarded headers."""
    options = ("--root-path", "/photos", "--allow-host", "photos.localhost", "--proxy", "127.0.0.1")
    with running(served[1], *options) as address:
        yield address


@pytest.fixture(scope="module")
def nginx(
    behind: str, trusting: str, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[int]]:
    """Ports of nginx: with the documented configuration, with the shortest one, and with forwarded headers."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx: install Debian's nginx-light to run this test")
    folder = tmp_path_factory.mktemp("nginx")
    word = subprocess.run(["openssl", "passwd", "-apr1", "right"], check=True, capture_output=True, text=True).stdout
    (folder / "passwords").write_text(f"me:{word}")
    shown = ((documented(), behind), (SHORTEST, behind), (FORWARDED, trusting))
    ports = [free_port() for _ in shown]
    sites = ""
    for port, (location, server) in zip(ports, shown, strict=True):
        location = location.replace("127.0.0.1:8765", server.removeprefix("http://"))
        location = location.replace("/etc/nginx/passwords", str(folder / "passwords"))
        sites += SITE.format(port=port, certificate=certificate[0], key=certificate[1], location=location)
    (folder / "nginx.conf").write_text(CONFIGURATION.format(sites=sites))
    with open(folder / "log", "w") as log:
        command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for port in ports:
            wait_for(port, process, folder / "log")
        yield ports
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(200):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail(f"nginx does not listen: {log.read_text()}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_works_behind_nginx(browser: Any, nginx: list[int], served: tuple[str, Path], tmp_path: Path) -> None:
    """Photos that are larger than nginx takes unasked, marks, a zip, copies and the map; nothing is asked elsewhere."""
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    for port, credentials in zip(nginx, ({"username": "me", "password": "right"}, None, None), strict=True):
        context = browser.new_context(ignore_https_errors=True, http_credentials=credentials)
        page = context.new_page()
        address = f"https://photos.localhost:{port}/photos/"
        problems = watch(page, address)
        page.goto(address)
        page.wait_for_selector(".photo")
        until(page, "[...document.querySelectorAll('.photo img')].slice(0, 5).every(i => i.complete && i.naturalWidth)")
        page.locator("#file").set_input_files(str(tmp_path / "large.png"))
        page.wait_for_selector(".ranking .score")
        page.locator(".ranking button.open").first.click()
        until(page, "location.hash.includes('photo=') && !document.getElementById('results').inert")
        with page.expect_response(
            lambda answer: "/api/marks/" in answer.url and answer.request.method == "POST"
        ) as kept:
            page.locator(".mark.yes").first.click()
        assert kept.value.ok
        page.locator(".ranking .photo").first.hover()
        page.locator(".ranking .select").first.click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Zip of the files").click()
        assert Path(download.value.path()).read_bytes().startswith(b"PK")
        page.get_by_role("button", name="Near duplicates").click()
        page.wait_for_selector(".group", timeout=150_000)
        page.get_by_role("button", name="Map", exact=True).click()
        until(page, "document.getElementById('status').textContent.includes('on the map')")
        context.close()
        assert problems == []


@pytest.mark.slow
def test_without_the_password_nothing_is_shown(nginx: list[int]) -> None:
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("127.0.0.1", nginx[0], context=context)
    connection.request("GET", "/photos/api/about", headers={"host": "photos.localhost"})
    assert connection.getresponse().status == 401
    connection.close()
