#!/usr/bin/env python3
"""What idle tunnels cost a gateway and its agents: memory, CPU, and the work of a session's opening.

    sessions.py [--sessions 768] [--seconds 60] [--tls] [--names 100000]

Starts a gateway and as many agents as it takes (256 sessions each), all on loopback, and reads /proc. With --tls both ends
speak TLS, with a certificate that openssl makes. With --names the gateway also reads a file of so many reserved names. The
programs are target/release/gateway and agent, or what GATEWAY and AGENT name. Linux only.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

HERE = pathlib.Path(__file__).resolve().parent.parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release"
GATEWAY = os.environ.get("GATEWAY", str(BUILT / "gateway"))
AGENT = os.environ.get("AGENT", str(BUILT / "agent"))
PER_AGENT = 256
TICKS = os.sysconf("SC_CLK_TCK")


def memory(pid, name="VmRSS"):
    """Memory in KiB: resident now, or at most (VmHWM)."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])


def cpu(pid):
    """User and system time in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def sessions(admin):
    with urllib.request.urlopen(f"http://{admin}/metrics") as page:
        return int(re.search(r"^tunnel_gateway_agents (\d+)", page.read().decode(), re.MULTILINE)[1])


def certificate(folder):
    paths = [str(folder / name) for name in ("key.pem", "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", paths[0], "-out", paths[1]],
        check=True, stderr=subprocess.DEVNULL,
    )
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=768, help="1,024 at most; default 768")
    parser.add_argument("--seconds", type=int, default=60, help="how long they are idle; default 60")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--names", type=int, default=0, help="lines of a file of names; default none")
    options = parser.parse_args()

    for program in (GATEWAY, AGENT):
        if not os.path.exists(program):
            sys.exit(f"there is no {program}: build it with `make build`, or name another one with GATEWAY and AGENT")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tunnel-sessions-"))
    arguments = [GATEWAY, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--hold", "0s"]
    trust = []
    if options.tls:
        key, cert = certificate(folder)
        arguments += ["--tls-cert", cert, "--tls-key", key]
        trust = ["--ca-file", cert]
    if options.names:
        lines = (f"name{number} = agent_{uuid.uuid4()}_n\n" for number in range(options.names))
        (folder / "names").write_text("".join(lines))
        arguments += ["--names", str(folder / "names")]
    began = time.monotonic()
    gateway = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    children, addresses = [gateway], []
    try:
        for line in gateway.stderr:
            addresses += re.findall(r"listening on \w+://([\d.:]+)|admin at http://([\d.:]+\d)", line)
            if len(addresses) == 2:
                break
        listen = next(first for first, _ in addresses if first)
        admin = next(second for _, second in addresses if second)
        # What it logs from now on is of no interest, and has to go somewhere.
        subprocess.Popen(["cat"], stdin=gateway.stderr, stdout=subprocess.DEVNULL)
        print(f"gateway: ready after {time.monotonic() - began:.2f} s, {memory(gateway.pid) / 1024:.1f} MiB")
        before, cpu_before = memory(gateway.pid), cpu(gateway.pid)
        scheme, port = ("wss" if options.tls else "ws"), listen.rsplit(":", 1)[1]
        began = time.monotonic()
        for number in range(0, options.sessions, PER_AGENT):
            count = min(PER_AGENT, options.sessions - number)
            tunnel = f"agent_550e8400-e29b-41d4-a716-44665544{number:04}_idle"
            children.append(subprocess.Popen(
                [AGENT, "9", "--tunnel-id", tunnel, "--config", "none", "--gateway", f"{scheme}://localhost:{port}",
                 "--connections", str(count), *trust],
                stderr=subprocess.DEVNULL,
            ))
        while sessions(admin) < options.sessions:
            time.sleep(0.05)
        took, spent = time.monotonic() - began, cpu(gateway.pid) - cpu_before
        count = options.sessions
        print(f"{count} sessions open after {took:.2f} s; the gateway's CPU for each {spent / count * 1e3:.2f} ms")
        time.sleep(2)
        agents = children[1:]
        spent = [cpu(child.pid) for child in children]
        time.sleep(options.seconds)
        spent = [cpu(child.pid) - first for child, first in zip(children, spent)]
        grown = memory(gateway.pid) - before
        print(f"gateway: {grown / count:.0f} KiB a session, "
              f"{spent[0] / options.seconds / count * 1e6:.0f} µs of CPU a second for each")
        of_agents = sum(memory(agent.pid) for agent in agents)
        print(f"agents: {of_agents / count:.0f} KiB a session, all that a process needs included, "
              f"{sum(spent[1:]) / options.seconds / count * 1e6:.0f} µs of CPU a second for each")
        return 0
    finally:
        for child in children:
            child.kill()


if __name__ == "__main__":
    sys.exit(main())
