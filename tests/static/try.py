#!/usr/bin/env python3
"""Tries the two programs of a build, as a user would: try.py FOLDER [--runner qemu-aarch64-static]

Their versions, `agent check`, then through a tunnel a request, an upload with its checksum, a download and a WebSocket;
all of it plain, and again with TLS to the gateway and to the local server. Needs openssl, for a certificate.
"""

import argparse
import atexit
import base64
import hashlib
import http.client
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TUNNEL = "agent_550e8400-e29b-41d4-a716-446655440000_try"
LIMIT = 60  # seconds that one step may take, also where each instruction is emulated
LARGE = 8 << 20
ENVIRONMENT = {"PATH": os.environ["PATH"], "RUST_LOG": "info"}
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Site(BaseHTTPRequestHandler):
    """The local server: a text, a checksum of what comes, bytes, and a WebSocket that echoes one message."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo()
        elif self.path == "/download":
            self.answer(bytes(range(256)) * (LARGE // 256))
        else:
            self.answer(b"hello\n")

    def do_POST(self):
        digest = hashlib.sha256()
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, 65536))
            digest.update(piece)
            left -= len(piece)
        self.answer(digest.hexdigest().encode())

    def echo(self):
        key = self.headers["Sec-WebSocket-Key"] + GUID
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        header = self.rfile.read(6)
        mask, length = header[2:], header[1] & 127
        text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length)))
        self.wfile.write(bytes([0x81, length]) + text)
        self.close_connection = True


class Program:
    """A running program, whose log is read until it says what is waited for."""

    def __init__(self, command):
        self.command = command
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
        atexit.register(self.process.kill)
        self.log, self.changed = [], threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stderr:
            with self.changed:
                self.log.append(line)
                self.changed.notify_all()

    def wait_for(self, pattern):
        found = lambda: next(filter(None, (re.search(pattern, line) for line in self.log)), None)
        with self.changed:
            if not self.changed.wait_for(found, LIMIT):
                sys.exit(f"try: no '{pattern}' from {self.command}:\n{''.join(self.log)}")
            return found()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT)
        if code != 0:
            sys.exit(f"try: {self.command} ended with {code}:\n{''.join(self.log)}")


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"try: {what}: {found!r} instead of {wanted!r}")
    print(f"try: {what}")


def start_site(certificate, context):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    if certificate:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def chat(address, context):
    stream = socket.create_connection(address, LIMIT)
    if context:
        stream = context.wrap_socket(stream, server_hostname="127.0.0.1")
    key = base64.b64encode(os.urandom(16)).decode()
    head = f"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" \
           f"Sec-WebSocket-Key: {key}\r\n\r\n"
    stream.sendall(head.encode())
    reader = stream.makefile("rb")
    status = reader.readline().split()[1]
    while reader.readline() not in (b"\r\n", b""):
        pass
    stream.sendall(bytes([0x81, 0x80 | 5]) + b"\0\0\0\0" + b"hello")
    return status, reader.read(7)


def try_tunnel(agent, gateway, kind, certificate, key):
    server, client = None, None
    if certificate:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate, key)
        client = ssl.create_default_context(cafile=certificate)
    site = start_site(certificate, server)
    serve = [*gateway, "--listen", "127.0.0.1:0"] + (["--tls-cert", certificate, "--tls-key", key] if certificate else [])
    gateway = Program(serve)
    port = int(gateway.wait_for(r"listening on https?://127\.0\.0\.1:(\d+)")[1])
    trust = ["--ca-file", certificate, "--local-ca-file", certificate] if certificate else []
    s = "s" if certificate else ""
    options = ["--tunnel-id", TUNNEL, "--gateway", f"ws{s}://127.0.0.1:{port}", "--local", f"http{s}://127.0.0.1:{site}", *trust]
    checked = subprocess.run([*agent, "check", *options], capture_output=True, text=True, timeout=LIMIT, env=ENVIRONMENT)
    expect(f"{kind}: agent check", (checked.returncode, checked.stdout + checked.stderr if checked.returncode else ""), (0, ""))
    agent = Program([*agent, *options])
    gateway.wait_for("connected, version")

    def ask(method, path, body=None):
        connection = (http.client.HTTPSConnection("127.0.0.1", port, timeout=LIMIT, context=client) if certificate
                      else http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT))
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()

    expect(f"{kind}: a request", ask("GET", "/hello"), (200, b"hello\n"))
    sent = os.urandom(LARGE)
    expect(f"{kind}: an upload", ask("POST", "/upload", sent), (200, hashlib.sha256(sent).hexdigest().encode()))
    expect(f"{kind}: a download", ask("GET", "/download"), (200, bytes(range(256)) * (LARGE // 256)))
    expect(f"{kind}: a WebSocket", chat(("127.0.0.1", port), client), (b"101", b"\x81\x05hello"))
    agent.wait_for("POST /upload 200")
    agent.stop()
    gateway.stop()
    print(f"try: {kind}: both ended with exit code 0")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where agent and gateway are, or tunnel-agent and tunnel-gateway")
    parser.add_argument("--runner", default="", help="what runs programs for another CPU, such as qemu-aarch64-static")
    options = parser.parse_args()
    runner = shlex.split(options.runner)
    installed = os.path.exists(os.path.join(options.folder, "tunnel-agent"))
    agent, gateway = (runner + [os.path.join(options.folder, ("tunnel-" if installed else "") + name)]
                      for name in ("agent", "gateway"))
    for program in (agent, gateway):
        said = subprocess.run([*program, "--version"], capture_output=True, text=True, timeout=LIMIT, check=True).stdout
        expect(f"{said.strip()}", bool(re.fullmatch(r"(tunnel-)?(agent|gateway) \d+\.\d+\.\d+\n", said)), True)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=tunnel-agent test",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"], check=True, capture_output=True)
        try_tunnel(agent, gateway, "plain", None, None)
        try_tunnel(agent, gateway, "with TLS", certificate, key)


if __name__ == "__main__":
    main()
