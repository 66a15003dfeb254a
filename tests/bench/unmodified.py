"""What unmodified programs reach under `umktls run`, each beside itself without it.

nginx seals by kernel TLS under it, and with OpenSSL in user space without it. Clients are on the
same machine, and are the same for both. git and gcc have nothing to do with TLS: what they cost
more is the filter.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.figures import Figure, alternate
from tests.bench.files import MEMORY
from tests.ports import free_port
from tests.run.programs import make_certificate
from umktls.errors import WorldError

REPETITIONS = 5
BIG = 200 << 20
REQUESTS, CONNECTIONS = 2000, 8
SIDES = ("run", "without")
# With 1.2 OpenSSL 3.0 has kernel TLS both ways. With 1.3 it has it for sending only, so no recvmsg
# of nginx comes to the supervisor.
VERSIONS = {ssl.TLSVersion.TLSv1_2: "TLS 1.2", ssl.TLSVersion.TLSv1_3: "TLS 1.3"}
CONFIGURATION = """
daemon off; worker_processes 2; pid {where}/{side}.pid; error_log {where}/{side}.log error;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {where}/t1; proxy_temp_path {where}/t2; fastcgi_temp_path {where}/t3;
  uwsgi_temp_path {where}/t4; scgi_temp_path {where}/t5;
  server {{
    listen 127.0.0.1:{port} ssl; root {where}/www;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate {where}/cert.pem; ssl_certificate_key {where}/key.pem; {option}
  }}
}}
"""


def measure() -> Iterator[Figure]:
    """Throughput and requests of nginx, then what git and gcc take."""
    with nginx() as ports:
        yield from served(
            "unmodified: nginx, 200 MiB by sendfile",
            "MiB/s",
            {side: partial(download, port) for side, port in ports.items()},
        )
        for version, name in VERSIONS.items():
            yield from served(
                f"unmodified: nginx, 1 KiB over {CONNECTIONS} kept connections, {name}",
                "/s",
                {side: partial(requests, port, version) for side, port in ports.items()},
            )
    yield from unrelated()


def served(name: str, unit: str, runs: dict[str, Callable[[], float]]) -> Iterator[Figure]:
    medians = alternate(REPETITIONS, runs)
    baseline = "OpenSSL in user space"
    yield Figure(name, medians["run"], unit, baseline, medians["without"], 0.5)


def unrelated() -> Iterator[Figure]:
    """Seconds of many git status, and of compiling, in a shell that runs already."""
    here = Path(__file__).parents[1] / "run" / "calls"
    work = {
        "git status x 100": "for i in $(seq 100); do git status >/dev/null; done",
        "gcc": f"gcc -O2 -D_GNU_SOURCE -pthread -o /dev/null {here}/*.c",
    }
    for name, script in work.items():
        medians = alternate(
            REPETITIONS,
            {
                "run": partial(seconds, [*under_run(), "bash", "-c", timed(script)]),
                "without": partial(seconds, ["bash", "-c", timed(script)]),
            },
        )
        yield Figure(
            f"unmodified: {name}", medians["run"], "s", "without", medians["without"], 1.1, True
        )


def timed(script: str) -> str:
    return f"TIMEFORMAT=%R; time {{ {script}; }}"


def seconds(command: Sequence[str]) -> float:
    """What the shell says that its work took."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stderr.split()[-1])


def under_run() -> list[str]:
    return [sys.executable, "-c", "from umktls.cli.main import main; main()", "run", "--"]


@contextmanager
def nginx() -> Iterator[dict[str, int]]:
    """One under `umktls run` and one without; their ports."""
    with ExitStack() as stack:
        memory = MEMORY if MEMORY.is_dir() else None
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        prepare(where)
        ports = {}
        for side in SIDES:
            port = ports[side] = free_port()
            option = "ssl_conf_command Options KTLS;" if side == "run" else ""
            text = CONFIGURATION.format(where=where, side=side, port=port, option=option)
            (where / f"{side}.conf").write_text(text)
            command = ["nginx", "-c", str(where / f"{side}.conf")]
            process = subprocess.Popen([*(under_run() if side == "run" else []), *command])
            stack.callback(process.wait)
            stack.callback(process.terminate)
            reach(port)
        yield ports


def prepare(where: Path) -> None:
    """A certificate and two files, which the user of nginx may read."""
    where.chmod(0o755)
    make_certificate(where)
    (where / "www").mkdir()
    (where / "www" / "small").write_bytes(os.urandom(1024))
    block = os.urandom(1 << 20)
    with (where / "www" / "big").open("wb") as big:
        for _ in range(BIG >> 20):
            big.write(block)


def reach(port: int) -> None:
    """Wait until a file can be had: curl tries again for about a minute. Raises WorldError."""
    command = ["curl", "-skf", f"https://127.0.0.1:{port}/small", "-o", "/dev/null"]
    done = subprocess.run([*command, "--retry", "6", "--retry-connrefused"], check=False)
    if done.returncode:
        raise WorldError(f"nginx did not come up: curl ended with {done.returncode}")


def connected(port: int, version: ssl.TLSVersion) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port)))


def download(port: int) -> float:
    """MiB of a second, by curl. Raises WorldError."""
    command = [
        "curl",
        "-sk",
        "--tls-max",
        "1.2",
        f"https://127.0.0.1:{port}/big",
        "-o",
        "/dev/null",
    ]
    command += ["-w", "%{size_download} %{time_total}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, taken = done.stdout.split()
    if int(size) != BIG:
        raise WorldError(f"nginx sent {size} bytes of {BIG}")
    return BIG / float(taken) / (1 << 20)


def requests(port: int, version: ssl.TLSVersion) -> float:
    """Requests of a second, over all connections together."""
    each = REQUESTS // CONNECTIONS

    def work() -> None:
        with connected(port, version) as sock:
            for _ in range(each):
                sock.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
                got = sock.recv(16384)
                while len(got.partition(b"\r\n\r\n")[2]) < 1024:
                    got += sock.recv(16384)

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return REQUESTS / (time.perf_counter() - began)
