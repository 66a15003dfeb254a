"""nginx with `ssl_conf_command Options KTLS` and sendfile: two workers, kept connections."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.ports import free_port
from tests.run.programs import Program, make_certificate, started, under_run

BIG = 200 * 1024 * 1024
SMALL = 2000
CONFIGURATION = """
daemon off;
worker_processes 2;
pid {where}/pid;
error_log {where}/error.log debug;
events {{ worker_connections 512; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  client_body_temp_path {where}/t1; proxy_temp_path {where}/t2; fastcgi_temp_path {where}/t3;
  uwsgi_temp_path {where}/t4; scgi_temp_path {where}/t5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate cert.pem; ssl_certificate_key key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_conf_command Options KTLS;
    root {where}/www;
  }}
}}
"""


def written(where: Path, port: int) -> Path:
    """Certificates, files to serve, and nginx.conf; what nginx serves may be seen by all."""
    make_certificate(where)
    (where / "key.pem").chmod(0o644)
    small = where / "www" / "small"
    small.mkdir(parents=True)
    for number in range(SMALL):
        (small / str(number)).write_bytes(os.urandom(1 + number * 37 % 20000))
    block = os.urandom(1 << 20)
    with (where / "www" / "big").open("wb") as big:
        for number in range(BIG >> 20):
            big.write(number.to_bytes(4) + block[4:])
    where.chmod(0o755)
    (where / "nginx.conf").write_text(CONFIGURATION.format(where=where, port=port))
    return where / "nginx.conf"


def curl(where: Path, version: str, url: str, output: str) -> None:
    command = ["curl", "-fsSk", "--retry-connrefused", "--retry", "60", "--retry-delay", "1"]
    command += [f"--tlsv{version}", "--tls-max", version, url, "-o", output]
    environment = {**os.environ, "OPENSSL_CONF": "/dev/null"}
    seconds = patience(60)
    subprocess.run(command, cwd=where, env=environment, check=True, timeout=seconds)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_large_file_and_many_small_ones(tmp_path: Path) -> None:
    """To curl by TLS 1.3 and 1.2, and to openssl s_client."""
    port = free_port()
    configuration = written(tmp_path, port)
    url = f"https://127.0.0.1:{port}"
    command = [*under_run(), "nginx", "-c", str(configuration)]
    with started(Program(command, tmp_path, ktls=False)) as nginx:
        for version in ("1.3", "1.2"):
            curl(tmp_path, version, f"{url}/big", "big")
            subprocess.run(["cmp", "big", "www/big"], cwd=tmp_path, check=True)
        (tmp_path / "small").mkdir()
        curl(tmp_path, "1.3", f"{url}/small/[0-{SMALL - 1}]", "small/#1")
        subprocess.run(["diff", "-rq", "small", "www/small"], cwd=tmp_path, check=True)
        asking = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-ign_eof"]
        with started(Program(asking, tmp_path, ktls=False)) as client:
            client.say(b"GET /small/7 HTTP/1.0\r\n\r\n")
            assert client.end().endswith((tmp_path / "www/small/7").read_bytes())
        nginx.process.terminate()
        assert nginx.process.wait(patience(20)) == 0
    log = (tmp_path / "error.log").read_text(errors="replace")
    assert "SSL_sendfile" in log
    assert re.findall(r".*\[(?:error|crit|alert|emerg)\].*", log) == []
    totals = nginx.figures["totals"]
    assert totals["bytes_tx"] > 2 * BIG
    assert totals["records_tx"] > 2 * BIG // 16384 + SMALL
