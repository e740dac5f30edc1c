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

from sessions import AGENT, BUILT, GATEWAY, cpu, memory

STATIC = BUILT.parent / "x86_64-unknown-linux-musl/small/agent"
TUNNEL = "agent_550e8400-e29b-41d4-a716-446655440000_bench"
LOADS = [("512 bytes, 64 visitors", "/small", 64), ("512 bytes, 256 visitors", "/small", 256), ("10 MB, 4 visitors", "/large", 4)]


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


def measure(agent, site, load, seconds, folder):
    """CPU in µs a request and MiB at most, of a fresh agent under a load."""
    _, path, visitors = load
    log = f"{folder}/gateway.log"
    with open(log, "w") as file:
        server = subprocess.Popen([GATEWAY, "--listen", "127.0.0.1:0"], stderr=file)
    address = wait_for(log, r"listening on http://([0-9.:]+)")[1]
    client = subprocess.Popen([agent, "--tunnel-id", TUNNEL, "--gateway", f"ws://{address}", "--local", f"http://127.0.0.1:{site}"],
                              stderr=subprocess.DEVNULL, env={**os.environ, "RUST_LOG": "warn"})
    wait_for(log, "connected, version")
    time.sleep(0.5)
    idle = memory(client.pid) / 1024
    wrk = lambda time: subprocess.run(["wrk", "-t2", f"-c{visitors}", f"-d{time}", f"http://{address}{path}"],
                                      capture_output=True, text=True, check=True).stdout
    wrk(1)
    before = cpu(client.pid)
    said = wrk(seconds)
    used = cpu(client.pid) - before
    requests = int(re.search(r"(\d+) requests in", said)[1])
    peak = memory(client.pid, "VmHWM") / 1024
    for process in (client, server):
        process.send_signal(signal.SIGTERM)
        process.wait()
    return used / requests * 1e6, idle, peak, requests / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--site-port", type=int, default=18999)
    options = parser.parse_args()
    agents = {"ordinary": AGENT, "static": str(STATIC)}
    for agent in sorted(BUILT.parent.glob("*-linux-musl*/small/agent")):
        sizes = (agent, agent.with_name("gateway"))
        print(f"| `{agent.parent.parent.name}` | " + " | ".join(f"{size.stat().st_size / 1e6:.2f} MB" for size in sizes) + " |")
    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder, options.site_port)
        try:
            for load in LOADS:
                results = {name: [] for name in agents}
                for round in range(options.rounds):
                    order = list(agents) if round % 2 == 0 else list(agents)[::-1]
                    for name in order:
                        results[name].append(measure(agents[name], options.site_port, load, options.seconds, folder))
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
