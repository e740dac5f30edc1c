#!/usr/bin/env python3
"""Restarts gateways and agents under load, behind a real balancer, and counts what visitors lose.

    rolling.py haproxy|nginx|caddy [--requests 100000] [--restarts 20]

Starts a small site, two gateways, two agents and the balancer with its file in src/manual/deploy/, all on loopback; restarts
each gateway and each agent in turn while visitors ask, GET and POST; and ends with exit code 0 when every request was
answered with what it asked for. The programs are target/release/gateway and agent, or what GATEWAY and AGENT name.
"""

import argparse
import http.client
import http.server
import multiprocessing
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
GATEWAY = os.environ.get("GATEWAY", str(HERE / "target/release/gateway"))
AGENT = os.environ.get("AGENT", str(HERE / "target/release/agent"))
TUNNEL = "agent_550e8400-e29b-41d4-a716-446655440000_rolling"
VISITORS = 16
LIMIT = 30
SEEN_AFTER = 1


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


def visit(port, wanted, done, failed, complaints, ends):
    """Asks again and again, on a connection that is kept, until enough was asked and all restarts are over."""
    connection = None
    while True:
        with done.get_lock():
            if done.value >= wanted and ends.is_set():
                return
            done.value += 1
            number = done.value
        post = number % 3 == 0
        body = f"{number} ".encode() * random.randrange(1, 600) if post else b""
        method = "POST" if post else "GET"
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
            with failed.get_lock():
                failed.value += 1
            complaints.put(f"{time.strftime('%H:%M:%S')} {fault}")


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("balancer", choices=["haproxy", "nginx", "caddy"])
    parser.add_argument("--requests", type=int, default=100_000, help="at least so many; default 100000")
    parser.add_argument("--restarts", type=int, default=20, help="of gateways, and of agents; default 20")
    options = parser.parse_args()

    folder = pathlib.Path(tempfile.mkdtemp(prefix="tunnel-rolling-"))
    site, front, *gateway_ports = (free_port() for _ in range(4))
    children = [multiprocessing.Process(target=serve_site, args=(site,), daemon=True)]
    children[0].start()
    gateways = [
        Program(
            f"gateway {number}",
            folder / f"gateway-{number}.log",
            [GATEWAY, "--listen", f"127.0.0.1:{port}", "--trusted-proxies", "127.0.0.1"],
        )
        for number, port in enumerate(gateway_ports)
    ]
    names = [f"--gateway=ws://127.0.0.1:{port}" for port in gateway_ports]
    agents = [
        Program(
            f"agent {number}",
            folder / f"agent-{number}.log",
            [AGENT, "--tunnel-id", TUNNEL, "--local", f"http://127.0.0.1:{site}", *names],
        )
        for number in range(2)
    ]
    balancer = start_balancer(options.balancer, folder, front, gateway_ports)
    try:
        all_there = lambda: all(agents_of(port) == 2 for port in gateway_ports)
        wait_until("both agents are at both gateways", all_there)
        wait_until("the balancer takes connections", lambda: takes_connections(front))
        time.sleep(1)

        done, failed = multiprocessing.Value("q", 0), multiprocessing.Value("q", 0)
        complaints, ends = multiprocessing.SimpleQueue(), multiprocessing.Event()
        threading.Thread(target=print_all, args=(complaints,), daemon=True).start()
        arguments = (front, options.requests, done, failed, complaints, ends)
        def visitors():
            threads = [threading.Thread(target=visit, args=arguments) for _ in range(VISITORS // 4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        crowd = [multiprocessing.Process(target=visitors) for _ in range(4)]
        for process in crowd:
            process.start()

        start = time.monotonic()
        for turn in range(options.restarts):
            for program in (gateways[turn % 2], agents[turn % 2]):
                program.restart()
                wait_until(f"both agents are at both gateways after {program.name}", all_there)
                # The balancer finds out at its next check.
                time.sleep(SEEN_AFTER)
            print(f"restart {turn + 1} of {options.restarts}: {done.value} requests, {failed.value} lost", flush=True)
        ends.set()
        for process in crowd:
            process.join()
        seconds = time.monotonic() - start
        print(
            f"{options.balancer}: {options.restarts} restarts of gateways and {options.restarts} of agents in "
            f"{seconds:.0f} s: {done.value} requests, {failed.value} lost; logs in {folder}"
        )
        return 1 if failed.value else 0
    finally:
        balancer.terminate()
        for program in gateways + agents:
            program.process.kill()


if __name__ == "__main__":
    sys.exit(main())
