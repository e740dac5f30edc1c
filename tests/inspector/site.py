# A site with bodies of many kinds, on a port of its own, which it prints.
import base64, gzip, hashlib, http.server, json, socketserver, struct, sys, time, zlib
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAGUlEQVR4nGNgYGD4z4AVYBdFFmAYNhQAAJ0vAf/m1x8wAAAAAElFTkSuQmCC")
class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, body, kind="text/plain", status=200, **more):
        self.send_response(status); self.send_header("content-type", kind); self.send_header("content-length", str(len(body)))
        for name, value in more.items(): self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    def do_GET(self):
        n = int(self.headers.get("content-length") or 0); body = self.rfile.read(n)
        path = self.path.split("?")[0]
        if path == "/json": self.answer(json.dumps({"shop": "Jane's", "items": [{"id": i, "price": i * 1.5, "tags": ["a", None, True]} for i in range(5)], "time": time.time()}).encode(), "application/json", set_cookie="session=s3cret; HttpOnly")
        elif path == "/gzip": self.answer(gzip.compress(b"<h1>packed</h1>" * 50), "text/html; charset=utf-8", content_encoding="gzip")
        elif path == "/image": self.answer(PNG, "image/png")
        elif path == "/missing": self.answer(b"not here", status=404)
        elif path == "/broken": self.answer(b'{"error":"database"}', "application/json", status=500)
        elif path == "/slow": time.sleep(0.4); self.answer(b"slow")
        elif path == "/large": self.answer(b"x" * 300000, "application/octet-stream")
        elif path == "/events":
            self.send_response(200); self.send_header("content-type", "text/event-stream"); self.send_header("connection", "close"); self.end_headers()
            for i in range(4): self.wfile.write(b"event: tick\ndata: {\"n\": %d}\n\n" % i); self.wfile.flush(); time.sleep(0.05)
            self.close_connection = True
        elif path == "/xss": self.answer(b"<script>window.hacked=1</script><img src=x onerror=window.hacked=1>", "text/html", x_evil="<script>window.hacked=1</script>")
        elif path == "/chat":
            key = self.headers["sec-websocket-key"]
            accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
            self.send_response(101); self.send_header("upgrade", "websocket"); self.send_header("connection", "upgrade"); self.send_header("sec-websocket-accept", accept); self.end_headers()
            while True:
                head = self.rfile.read(2)
                if len(head) < 2: break
                length = head[1] & 127
                if length == 126: length = struct.unpack(">H", self.rfile.read(2))[0]
                mask = self.rfile.read(4); data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length)))
                if head[0] & 15 == 8: self.wfile.write(b"\x88\x00"); break
                text = b"you said " + data
                head = bytes([0x81, len(text)]) if len(text) < 126 else b"\x81\x7e" + len(text).to_bytes(2, "big")
                self.wfile.write(head + text); self.wfile.flush()
            self.close_connection = True
        else: self.answer(f"{self.command} {self.path} {len(body)} bytes".encode(), x_seen=hashlib.sha1(body).hexdigest())
    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True; request_queue_size = 256
server = Server(("127.0.0.1", 0), Site); print(server.server_port, flush=True); server.serve_forever()
