#!/usr/bin/env python3
"""A fleet to look at: two gateways behind a real balancer, two agents at both, and visitors who never stop asking.

    fleet.py haproxy|nginx|caddy [--requests 100000] [--restarts 20]

Starts a small site, the gateways, the agents and the balancer with its file in src/manual/deploy/, all on loopback. Restarts
each gateway and each agent in turn while visitors ask, GET and POST: no request may fail. Then kills a gateway: only
requests that were under way may fail. Shows what happens, and how many failed, as it goes; ends with exit code 0 when
every other request was answered with what it asked for. The programs are target/release/gateway and agent, or what GATEWAY
and AGENT name.
"""

import argparse
import http.client
import http.server
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release"
GATEWAY = os.environ.get("GATEWAY", str(BUILT / "gateway"))
AGENT = os.environ.get("AGENT", str(BUILT / "agent"))
TUNNEL = "agent_550e8400-e29b-41d4-a716-446655440000_fleet"
VISITORS = 16
LIMIT = 30
SEEN_AFTER = 1
KILLED_FOR = 5


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Site(http.server.BaseHTTPRequestHandler):
    """Answers with the method, the path and the body."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = f"{self.command} {self.path} ".encode() + self.rfile.read(length)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def serve_site(port):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Site)
    server.daemon_threads = True
    server.serve_forever()


class Counts:
    """What all visitors together have seen. A request that was under way when a gateway was killed may fail."""

    def __init__(self):
        self.done, self.failed, self.cut = (multiprocessing.Value("q", 0) for _ in range(3))
        self.killed = multiprocessing.Value("d", 0.0)

    def record_failure(self, started):
        is_excused = started <= self.killed.value
        value = self.cut if is_excused else self.failed
        with value.get_lock():
            value.value += 1
        return is_excused


def visit(port, wanted, counts, complaints, ends):
    """Asks again and again, on a connection that is kept, until enough was asked and all is over."""
    connection = None
    while True:
        with counts.done.get_lock():
            if counts.done.value >= wanted and ends.is_set():
                return
            counts.done.value += 1
            number = counts.done.value
        post = number % 3 == 0
        body = f"{number} ".encode() * random.randrange(1, 600) if post else b""
        method = "POST" if post else "GET"
        started = time.monotonic()
        try:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.request(method, f"/{number}", body if post else None)
            response = connection.getresponse()
            answer = response.read()
            if response.will_close:
                connection.close()
                connection = None
            fault = None
            if response.status != 200:
                fault = f"{method} /{number}: {response.status} {answer[:200]}"
            elif answer != f"{method} /{number} ".encode() + body:
                fault = f"{method} /{number}: another answer: {answer[:60]}"
        except OSError as error:
            fault = f"{method} /{number}: {error!r}"
        except http.client.HTTPException as error:
            fault = f"{method} /{number}: {error!r}"
        if fault:
            if connection:
                connection.close()
            connection = None
            if not counts.record_failure(started):
                complaints.put(f"failed: {fault}")


class Program:
    """One of ours, which is started again and again."""

    def __init__(self, name, log, arguments):
        self.name, self.log, self.arguments = name, log, arguments
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.arguments, stderr=log)

    def restart(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT)
        if code != 0:
            sys.exit(f"{self.name} ended with exit code {code}")
        self.start()

    def kill(self):
        self.process.kill()
        self.process.wait(LIMIT)


class Display:
    """A line that tells what happens: over and over on a terminal, once for each step elsewhere."""

    def __init__(self, counts):
        self.counts, self.start, self.step = counts, time.monotonic(), ""
        self.is_terminal = sys.stdout.isatty()
        self.seen, self.seen_at = 0, self.start
        if self.is_terminal:
            threading.Thread(target=self.go_on, daemon=True).start()

    def line(self):
        now, done = time.monotonic(), self.counts.done.value
        # Of less than a moment nothing can be said.
        rate = (done - self.seen) / (now - self.seen_at) if now - self.seen_at > 0.1 else 0
        self.seen, self.seen_at = done, now
        cut = f", {self.counts.cut.value} cut" if self.counts.killed.value else ""
        numbers = f"{done:>8} requests  {rate:>6.0f}/s  {self.counts.failed.value} failed{cut}"
        return f"{now - self.start:6.1f} s  {numbers}  {self.step}"

    def go_on(self):
        while True:
            sys.stdout.write(f"\r\x1b[K{self.line()}")
            sys.stdout.flush()
            time.sleep(0.5)

    def show(self, step):
        self.step = step
        if self.is_terminal:
            sys.stdout.write("\n")
        else:
            print(self.line(), flush=True)


def print_all(complaints):
    while True:
        print(complaints.get(), flush=True)


def wait_until(what, holds):
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain until {what}")
        time.sleep(0.02)


def agents_of(port):
    """How many agents a gateway lists."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        connection.request("GET", "/.tunnel/connections", headers={"Connection": "close"})
        return connection.getresponse().read().count(b"connection_id")
    except OSError:
        return 0


def takes_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT).close()
        return True
    except OSError:
        return False


def start_balancer(name, folder, front, gateways):
    """Starts it with its file in src/manual/deploy/, at ports of our own."""
    file = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf", "caddy": "Caddyfile"}[name]
    text = (HERE / "src/manual/deploy" / file).read_text()
    ports = {"8080": front, "3000": gateways[0], "3001": gateways[1]}
    text = re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{ports[match[1]]}", text)
    path = folder / file
    path.write_text(text)
    log = open(folder / f"{name}.log", "wb")
    if name == "haproxy":
        return subprocess.Popen(["haproxy", "-db", "-f", str(path)], stdout=log, stderr=log)
    if name == "caddy":
        command = ["caddy", "run", "--config", str(path), "--adapter", "caddyfile"]
        return subprocess.Popen(command, stdout=log, stderr=log)
    command = ["nginx", "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    return subprocess.Popen(command, stdout=log, stderr=log)


def metrics_of(port, names):
    """The sums of a gateway's counters."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    connection.request("GET", "/metrics", headers={"Connection": "close"})
    page = connection.getresponse().read().decode()
    total = lambda name: sum(
        int(value) for value in re.findall(rf"^tunnel_gateway_{name}(?:{{.*}})? (\d+)$", page, re.MULTILINE)
    )
    return ", ".join(f"{name} {total(name)}" for name in names)


def restart_all(gateways, agents, options, display, all_there):
    for turn in range(options.restarts):
        for program in (gateways[turn % 2], agents[turn % 2]):
            display.show(f"restarting {program.name} ({turn + 1} of {options.restarts})")
            program.restart()
            wait_until(f"both agents are at both gateways after {program.name}", all_there)
            # The balancer finds out at its next check.
            time.sleep(SEEN_AFTER)


def kill_one(gateway, counts, display, all_there):
    display.show(f"killing {gateway.name}")
    # What is under way while it dies may fail. What begins later finds it dead, and has to be answered.
    counts.killed.value = float("inf")
    gateway.kill()
    counts.killed.value = time.monotonic()
    time.sleep(KILLED_FOR)
    display.show(f"starting {gateway.name} again")
    gateway.start()
    wait_until(f"both agents are at {gateway.name} again", all_there)
    time.sleep(SEEN_AFTER)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("balancer", choices=["haproxy", "nginx", "caddy"])
    parser.add_argument("--requests", type=int, default=0, help="at least so many; default as many as come")
    parser.add_argument("--restarts", type=int, default=20, help="of gateways, and of agents; default 20")
    options = parser.parse_args()
    if not shutil.which(options.balancer) and not os.path.exists(f"/usr/sbin/{options.balancer}"):
        sys.exit(f"there is no {options.balancer} on this machine: install it, or choose another balancer")
    os.environ["PATH"] += ":/usr/sbin"
    for program in (GATEWAY, AGENT):
        if not os.path.exists(program):
            sys.exit(f"there is no {program}: build it with `make build`, or name another one with GATEWAY and AGENT")

    folder = pathlib.Path(tempfile.mkdtemp(prefix="tunnel-fleet-"))
    site, front, *ports = (free_port() for _ in range(6))
    gateway_ports, admin_ports = ports[:2], ports[2:]
    multiprocessing.Process(target=serve_site, args=(site,), daemon=True).start()
    gateways = [
        Program(
            f"gateway {number + 1}",
            folder / f"gateway-{number + 1}.log",
            [GATEWAY, "--listen", str(port), "--admin", str(admin), "--trusted-proxies", "127.0.0.1"],
        )
        for number, (port, admin) in enumerate(zip(gateway_ports, admin_ports))
    ]
    names = [f"--gateway=ws://127.0.0.1:{port}" for port in gateway_ports]
    # The loss of a gateway is no reason to give it up, and the dial that finds it again is soon.
    patience = ["--max-retries", "0", "--backoff-max", "2s"]
    agents = [
        Program(
            f"agent {number + 1}",
            folder / f"agent-{number + 1}.log",
            [AGENT, str(site), "--tunnel-id", TUNNEL, "--config", "none", *names, *patience],
        )
        for number in range(2)
    ]
    balancer = start_balancer(options.balancer, folder, front, gateway_ports)
    counts, has_failed = Counts(), True
    try:
        all_there = lambda: all(agents_of(port) == 2 for port in gateway_ports)
        wait_until("both agents are at both gateways", all_there)
        wait_until("the balancer takes connections", lambda: takes_connections(front))
        time.sleep(1)

        complaints, ends = multiprocessing.SimpleQueue(), multiprocessing.Event()
        threading.Thread(target=print_all, args=(complaints,), daemon=True).start()
        arguments = (front, options.requests, counts, complaints, ends)
        def visitors():
            threads = [threading.Thread(target=visit, args=arguments) for _ in range(VISITORS // 4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        crowd = [multiprocessing.Process(target=visitors) for _ in range(4)]
        for process in crowd:
            process.start()

        display = Display(counts)
        print(f"{options.balancer} at http://127.0.0.1:{front}, {VISITORS} visitors; logs in {folder}")
        restart_all(gateways, agents, options, display, all_there)
        lost_to_restarts = counts.failed.value
        kill_one(gateways[0], counts, display, all_there)
        display.show("the visitors leave")
        ends.set()
        for process in crowd:
            process.join()
        # A gateway counts from its start.
        wanted = ["responses_total", "sessions_total", "sessions_lost_total"]
        for gateway, port in zip(gateways, admin_ports):
            print(f"{gateway.name} since its last start: {metrics_of(port, wanted)}")
        lost_to_kill = counts.failed.value - lost_to_restarts
        print(
            f"{options.balancer}: {counts.done.value} requests; restarts: {options.restarts} of gateways, "
            f"{options.restarts} of agents: {lost_to_restarts} failed; a gateway killed: {counts.cut.value} cut that "
            f"were under way, {lost_to_kill} others failed"
        )
        has_failed = counts.failed.value > 0 or counts.cut.value > VISITORS
        return 1 if has_failed else 0
    finally:
        balancer.terminate()
        for program in gateways + agents:
            program.process.kill()
            program.process.wait()
        balancer.wait()
        # The logs are of use where something went wrong.
        if not has_failed:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
