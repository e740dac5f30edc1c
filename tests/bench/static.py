#!/usr/bin/env python3
"""What the static agent costs beside the ordinary one: static.py [--rounds 5] [--seconds 4]

Builds nothing: `make build` and `make musl` come before. Visitors (wrk) ask the ordinary gateway, the agent that is
measured answers from nginx; both agents take turns, so that noise meets both. Memory is the agent's alone.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time

TUNNEL = "agent_550e8400-e29b-41d4-a716-446655440000_bench"
TICK = os.sysconf("SC_CLK_TCK")
LOADS = [("512 bytes, 64 visitors", "/small", 64), ("512 bytes, 256 visitors", "/small", 256), ("10 MB, 4 visitors", "/large", 4)]
ARCHITECTURES = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl", "armv7-unknown-linux-musleabihf",
                 "arm-unknown-linux-musleabihf", "riscv64gc-unknown-linux-musl"]


def cpu(pid):
    """Seconds of CPU that the process has used."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid, name):
    return int(re.search(rf"{name}:\s+(\d+) kB", open(f"/proc/{pid}/status").read())[1]) / 1024


class Site:
    """nginx with a small and a large file, on a port of its own."""

    def __init__(self, folder, port):
        with open(f"{folder}/small", "wb") as file:
            file.write(b"x" * 512)
        with open(f"{folder}/large", "wb") as file:
            file.write(os.urandom(1000) * 10_000)
        with open(f"{folder}/nginx.conf", "w") as file:
            file.write(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000; sendfile on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ root {folder}; }} }} }}""")
        os.chmod(folder, 0o755)
        self.process = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf"], stderr=subprocess.DEVNULL)


def wait_for(log, pattern):
    for _ in range(600):
        found = re.search(pattern, open(log).read())
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(f"no '{pattern}' in {open(log).read()}")


def measure(agent, gateway, site, load, seconds, folder):
    """CPU in µs a request and MiB at most, of a fresh agent under a load."""
    _, path, visitors = load
    log = f"{folder}/gateway.log"
    with open(log, "w") as file:
        server = subprocess.Popen([gateway, "--listen", "127.0.0.1:0"], stderr=file)
    address = wait_for(log, r"listening on http://([0-9.:]+)")[1]
    client = subprocess.Popen([agent, "--tunnel-id", TUNNEL, "--gateway", f"ws://{address}", "--local", f"http://127.0.0.1:{site}"],
                              stderr=subprocess.DEVNULL, env={**os.environ, "RUST_LOG": "warn"})
    wait_for(log, "connected, version")
    time.sleep(0.5)
    idle = memory(client.pid, "VmRSS")
    wrk = lambda time: subprocess.run(["wrk", "-t2", f"-c{visitors}", f"-d{time}", f"http://{address}{path}"],
                                      capture_output=True, text=True, check=True).stdout
    wrk(1)
    before = cpu(client.pid)
    said = wrk(seconds)
    used = cpu(client.pid) - before
    requests = int(re.search(r"(\d+) requests in", said)[1])
    peak = memory(client.pid, "VmHWM")
    for process in (client, server):
        process.send_signal(signal.SIGTERM)
        process.wait()
    return used / requests * 1e6, idle, peak, requests / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--site-port", type=int, default=18999)
    parser.add_argument("--target", default="target", help="where cargo builds")
    options = parser.parse_args()
    ordinary = f"{options.target}/release/agent"
    agents = {"ordinary": ordinary, "static": f"{options.target}/x86_64-unknown-linux-musl/small/agent"}
    for triple in ARCHITECTURES:
        sizes = [f"{options.target}/{triple}/small/{name}" for name in ("agent", "gateway")]
        if all(map(os.path.exists, sizes)):
            print(f"| `{triple}` | " + " | ".join(f"{os.path.getsize(size) / 1e6:.2f} MB" for size in sizes) + " |")
    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder, options.site_port)
        try:
            for load in LOADS:
                results = {name: [] for name in agents}
                for round in range(options.rounds):
                    order = list(agents) if round % 2 == 0 else list(agents)[::-1]
                    for name in order:
                        results[name].append(measure(agents[name], f"{options.target}/release/gateway", options.site_port,
                                                     load, options.seconds, folder))
                ratio = statistics.median(b[0] / a[0] for a, b in zip(results["ordinary"], results["static"]))
                for name, rows in results.items():
                    used, idle, peak, rate = (statistics.median(column) for column in zip(*rows))
                    print(f"{load[0]}: {name}: {used:.0f} µs of CPU a request, {rate:.0f} requests/s, "
                          f"idle {idle:.1f} MiB, at most {peak:.1f} MiB")
                print(f"{load[0]}: static / ordinary, CPU: {ratio:.2f} (median of the rounds)")
        finally:
            site.process.terminate()
            site.process.wait()


if __name__ == "__main__":
    main()
