#!/usr/bin/env python3
"""The inspector's page in a real browser: try.py [SCREENSHOTS]. Needs chromium and chromedriver (Debian: chromium, chromium-driver).

Starts a gateway, a site and an agent with --inspect, sends requests through the tunnel, and looks at what the page shows of
them. AGENT and GATEWAY name other programs than those of `cargo build`. With a folder, leaves screenshots of the views in it.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from browser import Browser

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILT = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "debug")
AGENT = os.environ.get("AGENT", os.path.join(BUILT, "agent"))
GATEWAY = os.environ.get("GATEWAY", os.path.join(BUILT, "gateway"))
TUNNEL = "agent_550e8400-e29b-41d4-a716-446655440000_inspected"
SCRIPT = "<script>window.hacked = true</script><img src=x onerror='window.hacked = true'>"


class Program:
    """A program whose lines on standard error are waited for."""

    def __init__(self, *command, stream="stderr"):
        self.process = subprocess.Popen(command, text=True, **{stream: subprocess.PIPE})
        self.lines = getattr(self.process, stream)

    def find(self, pattern):
        for line in self.lines:
            found = re.search(pattern, line)
            if found:
                return found.group(1)
        raise AssertionError(f"{self.process.args[0]} ended before it said {pattern}")

    def end(self):
        self.process.terminate()
        self.process.wait()


class Tunnel:
    """A site, a gateway and an agent that records."""

    def __init__(self, *options):
        self.site = Program(sys.executable, os.path.join(HERE, "site.py"), stream="stdout")
        site = self.site.find(r"^(\d+)$")
        self.gateway = Program(GATEWAY, "--listen", "127.0.0.1:0")
        self.port = int(self.gateway.find(r"listening on http://127\.0\.0\.1:(\d+)"))
        self.agent = Program(
            AGENT, "--config", "none", "--tunnel-id", TUNNEL, "--gateway", f"ws://127.0.0.1:{self.port}", "--local", site,
            "--inspect", "--admin", "127.0.0.1:0", *options,
        )
        self.page = self.agent.find(r"shows what passes at (http://\S+/)")
        self.agent.find(r"( is open )")

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def speak(self, messages):
        """Sends texts over a WebSocket, and waits for the answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as stream:
            key = base64.b64encode(os.urandom(16)).decode()
            stream.sendall(
                f"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            answers = stream.makefile("rb")
            while answers.readline().strip():
                pass
            for message in messages:
                data, mask = message.encode(), os.urandom(4)
                masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
                length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
                stream.sendall(b"\x81" + length + mask + masked)
                head = answers.read(2)
                size = head[1] if head[1] < 126 else int.from_bytes(answers.read(2), "big")
                answers.read(size)
            stream.sendall(b"\x88\x80\0\0\0\0")
            answers.read(2)

    def end(self):
        for program in (self.agent, self.gateway, self.site):
            program.end()


def say(text):
    print(f"inspector: {text}", flush=True)


def row(browser, path, what="the row"):
    script = """return [...document.querySelectorAll('.row')].some((row) => row.querySelector('.path').textContent === arguments[0])"""
    browser.until(f"{what} of {path}", script, path)


def open_row(browser, path):
    row(browser, path)
    browser.run("[...document.querySelectorAll('.row')].find((row) => row.querySelector('.path').textContent === arguments[0]).click()", path)
    browser.until(f"{path} in detail", "return (document.querySelector('#detail h2') || {}).textContent?.endsWith(' ' + arguments[0])", path)


def text(browser):
    return browser.run("return document.getElementById('detail').innerText")


def see(browser, what):
    browser.until(f"{what!r} in the detail", "return document.getElementById('detail').innerText.includes(arguments[0])", what)


def paths(browser):
    return browser.run("return [...document.querySelectorAll('.row .path')].map((path) => path.textContent)")


def type_search(browser, words):
    browser.run("const field = document.getElementById('search'); field.value = arguments[0]; field.dispatchEvent(new Event('input'))", words)

def search(browser, words, expected):
    type_search(browser, words)
    script = "return JSON.stringify([...document.querySelectorAll('.row .path')].map((path) => path.textContent)) === arguments[0]"
    browser.until(f"{expected} for {words!r}", script, json.dumps(expected, separators=(",", ":")))


def shot(browser, folder, name):
    if folder:
        for width, height in ((1280, 860), (400, 800)):
            browser.size(width, height)
            time.sleep(0.3)
            browser.screenshot(os.path.join(folder, f"{name}-{width}.png"))
        browser.size(1280, 860)


def check_list_and_search(browser, tunnel, folder):
    browser.open(tunnel.page)
    browser.until("the connection", "return document.getElementById('live').classList.contains('on')")
    shot(browser, folder, "empty")
    tunnel.request("GET", "/json?q=1", cookie="session=s3cret", authorization="Bearer s3cret")
    row(browser, "/json?q=1", "the live row")
    tunnel.request("POST", "/order", "name=Jane+Doe&note=a%26b", content_type="application/x-www-form-urlencoded")
    tunnel.request("GET", "/missing")
    tunnel.request("GET", "/broken")
    tunnel.request("GET", "/secret/x")
    tunnel.request("GET", "/gzip")
    tunnel.request("GET", "/image")
    tunnel.request("GET", "/large")
    row(browser, "/large")
    search(browser, "status:5xx", ["/broken"])
    search(browser, "method:post", ["/order"])
    search(browser, "body:jane", ["/order", "/json?q=1"])
    search(browser, "header:x-seen order", ["/order"])
    search(browser, "filtered", [])
    search(browser, "status:403", ["/secret/x"])
    search(browser, "", ["/large", "/image", "/gzip", "/secret/x", "/broken", "/missing", "/order", "/json?q=1"])
    say("live list and search")


def check_views(browser, tunnel, folder):
    open_row(browser, "/json?q=1")
    browser.until("folded JSON", "return document.querySelector('.json details')")
    see(browser, "Jane's")
    assert "s3cret" not in browser.run("return document.documentElement.outerHTML"), "a masked value is shown"
    see(browser, "masked")
    shot(browser, folder, "json")
    open_row(browser, "/order")
    browser.click(".tabs button", "Request")
    see(browser, "Jane Doe")
    see(browser, "a&b")
    open_row(browser, "/gzip")
    browser.click(".tabs button", "Response")
    see(browser, "<h1>packed</h1>")
    open_row(browser, "/image")
    browser.until("the image", "return (document.querySelector('.body img') || {}).naturalWidth === 8")
    open_row(browser, "/large")
    see(browser, "The first 66 kB of 300 kB are kept.")
    open_row(browser, "/secret/x")
    see(browser, "filtered")
    boundary = "XyZ"
    parts = f"--{boundary}\r\ncontent-disposition: form-data; name=\"note\"\r\n\r\nhello parts\r\n--{boundary}--\r\n"
    tunnel.request("POST", "/upload", parts, content_type=f"multipart/form-data; boundary={boundary}")
    open_row(browser, "/upload")
    browser.click(".tabs button", "Request")
    see(browser, "hello parts")
    see(browser, 'form-data; name="note"')
    browser.click(".body-bar button", "hex")
    see(browser, "000000  2d 2d 58 79 5a")
    browser.click(".tabs button", "Response")
    say("bodies by their types")


def check_keys(browser):
    browser.run("document.activeElement.blur()")
    browser.keys("\ue00c")
    browser.until("the list alone", "return document.querySelector('#detail .empty')")
    first, second = paths(browser)[:2]
    browser.keys("j")
    see(browser, first)
    browser.keys("j")
    browser.until("the second", "return document.querySelector('#detail h2')?.textContent.endsWith(arguments[0])", second)
    browser.keys("k")
    browser.until("the first again", "return document.querySelector('#detail h2')?.textContent.endsWith(arguments[0])", first)
    browser.keys("/")
    browser.until("the search", "return document.activeElement.id === 'search'")
    browser.keys("\ue00c")
    browser.keys("s")
    browser.until("the status", "return !document.getElementById('status').hidden")
    browser.keys("s")
    say("keys")


def check_replay(browser, tunnel, folder):
    tunnel.request("POST", "/echo?n=1", "first body", authorization="Bearer s3cret", content_type="text/plain")
    open_row(browser, "/echo?n=1")
    browser.keys("r")
    see(browser, "Replay of")
    browser.until("the comparison", "return document.querySelector('.comparison')")
    see(browser, "was answered as request")
    assert "without authorization" in browser.run("return document.getElementById('toast').textContent")
    browser.keys("e")
    browser.until("the editor", "return document.querySelector('.editor')")
    shot(browser, folder, "editor")
    browser.run("""const form = document.querySelector('.editor');
        form.url.value = '/echo?n=2'; form.body.value = 'another body';
        form.headers.value += '\\nx-more: yes\\nauthorization: Bearer mine';
        form.requestSubmit();""")
    browser.until("the changed one", "return document.querySelector('#detail h2')?.textContent === 'POST /echo?n=2'")
    see(browser, hashlib.sha1(b"another body").hexdigest())
    browser.until("what differs", "return document.querySelector('.diff .add') && document.querySelector('.diff .del')")
    shot(browser, folder, "compare")
    open_row(browser, "/large")
    browser.click("#detail .actions button", "Replay")
    # Rules count for replays, too.
    open_row(browser, "/json?q=1")
    browser.keys("e")
    browser.until("the editor", "return document.querySelector('.editor')")
    browser.run("const form = document.querySelector('.editor'); form.url.value = '/secret/y'; form.requestSubmit()")
    browser.until("the refusal", "return document.getElementById('toast').textContent.startsWith('Not sent: ')")
    browser.keys("\ue00c\ue00c")
    say("replay, edit, comparison")


def check_unedited(browser, tunnel):
    """A body that is not edited is sent as it was."""
    body = b"\xef\xbb\xbfone\r\ntwo\n"
    tunnel.request("POST", "/unedited", body, content_type="text/plain")
    open_row(browser, "/unedited")
    browser.keys("e")
    browser.until("the editor", "return document.querySelector('.editor')")
    browser.run("const form = document.querySelector('.editor'); form.url.value = '/unedited?2'; form.requestSubmit()")
    browser.until("the changed one", "return document.querySelector('#detail h2')?.textContent === 'POST /unedited?2'")
    see(browser, hashlib.sha1(body).hexdigest())
    say("a body that is not edited")


def check_clicks(browser, tunnel):
    """Rows can be clicked, and the search be changed, while requests come."""
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            tunnel.request("GET", "/tick")
            time.sleep(0.03)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        row(browser, "/tick")
        for _ in range(5):
            browser.run("document.activeElement.blur()")
            browser.keys("\ue00c")
            browser.press(200, 250, 0.15)
            browser.until("a row that was pressed", "return document.querySelector('#detail h2')")
        type_search(browser, "status:5xx")
        browser.until("the search", "return document.querySelectorAll('.row').length === 1")
        type_search(browser, "")
        browser.until("no search", "return document.querySelectorAll('.row').length > 5")
    finally:
        stop.set()
        thread.join()
    say("clicks and searches while requests come")


def check_export(browser, downloads):
    open_row(browser, "/order")
    browser.click("#detail .actions button", "HAR")
    end = time.monotonic() + 20
    while not [name for name in os.listdir(downloads) if name.endswith(".har")]:
        assert time.monotonic() < end, "no HAR was saved"
        time.sleep(0.05)
    with open(os.path.join(downloads, next(name for name in os.listdir(downloads) if name.endswith(".har")))) as file:
        log = json.load(file)["log"]
    entry = log["entries"][0]
    assert log["version"] == "1.2" and log["creator"]["name"] == "tunnel-agent"
    for name in ("startedDateTime", "time", "request", "response", "cache", "timings"):
        assert name in entry, name
    for name in ("method", "url", "httpVersion", "cookies", "headers", "queryString", "headersSize", "bodySize"):
        assert name in entry["request"], name
    for name in ("status", "statusText", "httpVersion", "cookies", "headers", "content", "redirectURL", "headersSize", "bodySize"):
        assert name in entry["response"], name
    assert entry["request"]["postData"]["text"] == "name=Jane+Doe&note=a%26b" and entry["response"]["status"] == 200
    say("HAR")


def check_curl(browser, tunnel):
    evil = "it's $(touch hacked) `touch hacked` \"; touch hacked; '"
    tunnel.request("PUT", "/a'b/{c}[1]?x=$(touch%20hacked)", evil, x_evil=evil)
    browser.until("the request", "return [...document.querySelectorAll('.row .method')].some((method) => method.textContent === 'PUT')")
    browser.run("[...document.querySelectorAll('.row')].find((row) => row.querySelector('.method').textContent === 'PUT').click()")
    browser.until("it", "return document.querySelector('#detail h2')?.textContent.startsWith('PUT')")
    # The clipboard of a browser without a window is not there.
    browser.run("Object.defineProperty(navigator, 'clipboard', { value: { writeText: (text) => { window.copied = text; return Promise.resolve(); } } })")
    browser.keys("c")
    line = browser.until("a line", "return window.copied")
    host = re.search(r"http://([^/:']+):", line).group(1)
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(["sh", "-c", f"{line} -sS --resolve {host}:{tunnel.port}:127.0.0.1"], cwd=folder, capture_output=True, text=True, timeout=30)
        assert os.listdir(folder) == [], f"the line ran something else: {line}"
    assert ran.stdout.startswith("PUT /a'b/{c}[1]?x=$(touch%20hacked) "), (line, ran)
    assert ran.stdout.endswith(f"{len(evil)} bytes"), ran
    # Control characters that a terminal obeys are not in the line.
    tunnel.request("POST", "/paste", "hello\x03\ntouch hacked\n",)
    open_row(browser, "/paste")
    browser.run("window.copied = null")
    browser.keys("c")
    line = browser.until("a line", "return window.copied")
    assert "base64 -d" in line and "\x03" not in line, repr(line)
    say("curl")


def check_messages(browser, tunnel, folder):
    tunnel.request("GET", "/events")
    open_row(browser, "/events")
    browser.until("messages", "return document.querySelectorAll('.message').length === 4")
    see(browser, "event tick")
    tunnel.speak(["hello", "it is " + "long " * 40])
    open_row(browser, "/chat")
    see(browser, "you said hello")
    see(browser, "from the visitor")
    browser.until("all messages", "return document.querySelectorAll('.message.visitor').length === 3")
    shot(browser, folder, "messages")
    say("WebSocket messages and events")


def check_scripts(browser, tunnel):
    """What visitors send is text, wherever it is."""
    raw = SCRIPT.encode()
    with socket.create_connection(("127.0.0.1", tunnel.port), timeout=20) as stream:
        path = "/" + SCRIPT.replace(" ", "%20")
        stream.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Evil: {SCRIPT}\r\nContent-Type: text/html\r\nContent-Length: {len(raw)}\r\nConnection: close\r\n\r\n".encode() + raw)
        while stream.recv(65536):
            pass
    tunnel.request("GET", "/xss")
    tunnel.request("POST", "/j", json.dumps({SCRIPT: SCRIPT}), content_type="application/json")
    tunnel.request("POST", "/f", f"{SCRIPT}={SCRIPT}", content_type="application/x-www-form-urlencoded")
    tunnel.request("POST", "/m", f"--b\r\nx: {SCRIPT}\r\n\r\n{SCRIPT}\r\n--b--\r\n", content_type="multipart/form-data; boundary=b")
    tunnel.request("POST", "/s", SCRIPT, content_type="image/svg+xml")
    tunnel.speak([SCRIPT])
    row(browser, "/s")
    for id in browser.run("return [...document.querySelectorAll('.row')].slice(0, 9).map((row) => row.id)"):
        browser.run("document.getElementById(arguments[0])?.click()", id)
        browser.until("it", "return document.querySelector('#detail .content')?.childElementCount")
        for name in browser.run("return [...document.querySelectorAll('.tabs button')].map((tab) => tab.dataset.tab)"):
            browser.run("document.querySelector(`.tabs button[data-tab=${arguments[0]}]`).click()", name)
            browser.until("it", "return document.querySelector('#detail .content')?.childElementCount")
            time.sleep(0.05)
    type_search(browser, SCRIPT)
    time.sleep(0.5)
    assert not browser.run("return Boolean(window.hacked)"), "a script of a visitor ran"
    assert browser.run("return document.querySelectorAll('script').length") == 1, "there is another script"
    search(browser, "/nothing-has-this-path", [])
    type_search(browser, "")
    say("scripts in every field")


def check_security(tunnel):
    """What pages of other origins could send."""
    host, port = re.search(r"http://([^:/]+):(\d+)/", tunnel.page).groups()

    def ask(method, path, **headers):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request(method, path, None, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers

    assert ask("GET", "/api/exchanges")[0] == 200
    assert ask("GET", "/api/exchanges", host="evil.example")[0] == 421
    assert ask("GET", "/", host="evil.example")[0] == 421
    assert ask("GET", "/api/exchanges", origin="http://evil.example")[0] == 403
    assert ask("GET", "/api/exchanges", sec_fetch_site="cross-site")[0] == 403
    assert ask("POST", "/api/exchanges/1/replay")[0] == 403
    assert ask("DELETE", "/api/exchanges")[0] == 403
    assert ask("DELETE", "/api/exchanges", x_tunnel_inspector="1", origin="null")[0] == 403
    status, headers = ask("GET", "/api/exchanges/1/body?of=response")
    assert status == 200 and headers["content-type"] == "application/octet-stream", headers
    assert headers["content-disposition"] == "attachment" and headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    say("requests of other pages")


def check_many(browser, tunnel):
    """10,000 exchanges do not make the page slow."""
    connection = http.client.HTTPConnection("127.0.0.1", tunnel.port, timeout=20)
    for number in range(10_000):
        connection.request("HEAD", f"/many/{number}")
        connection.getresponse().read()
    connection.close()
    # The site answers to HEAD without a body; each record is small.
    browser.until("the last", "return document.querySelector('.row .path')?.textContent === '/many/9999'")
    browser.until("nearly all", "return Number(document.getElementById('count').textContent.split(' ')[0]) > 9000")
    rows = browser.run("return document.querySelectorAll('.row').length")
    assert rows < 60, f"{rows} rows are drawn"
    took = browser.run("""const list = document.getElementById('list'); const start = performance.now();
        for (let step = 0; step < 20; step++) { list.scrollTop = step * 20000; list.dispatchEvent(new Event('scroll')); document.body.offsetHeight; }
        return performance.now() - start;""")
    assert took < 1000, f"scrolling takes {took} ms"
    browser.open(tunnel.page)
    browser.until("all again", "return Number(document.getElementById('count').textContent.split(' ')[0]) > 9000")
    say("10,000 exchanges")


def check_token(options, folder):
    """With a token the page asks for it, and the API wants it."""
    with tempfile.NamedTemporaryFile("w", suffix=".token") as file:
        file.write("t0ken-of-operators")
        file.flush()
        tunnel = Tunnel("--admin-token-file", file.name)
        browser = Browser(shutil.which("chromedriver"), options)
        try:
            tunnel.request("GET", "/with-a-token")
            browser.open(tunnel.page)
            browser.until("the question", "return document.querySelector('dialog[open] input')")
            shot(browser, folder, "token")
            browser.run("const form = document.querySelector('dialog form'); form.querySelector('input').value = 't0ken-of-operators'; form.requestSubmit()")
            row(browser, "/with-a-token")
        finally:
            browser.close()
            tunnel.end()
    say("token")


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    downloads = tempfile.mkdtemp()
    options = {
        "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,860"],
        "prefs": {"download.default_directory": downloads},
    }
    if os.environ.get("DARK"):
        options["args"].append("--force-dark-mode")
    tunnel = Tunnel("--deny", "/secret/**", "--inspect-memory", "64MiB")
    browser = Browser(shutil.which("chromedriver"), options)
    try:
        browser.size(1280, 860)
        check_list_and_search(browser, tunnel, folder)
        check_views(browser, tunnel, folder)
        check_keys(browser)
        check_replay(browser, tunnel, folder)
        check_unedited(browser, tunnel)
        check_export(browser, downloads)
        check_curl(browser, tunnel)
        check_messages(browser, tunnel, folder)
        check_scripts(browser, tunnel)
        check_security(tunnel)
        browser.keys("s")
        browser.until("the graphs", "return document.querySelectorAll('#status svg').length >= 5")
        shot(browser, folder, "status")
        browser.keys("s")
        check_clicks(browser, tunnel)
        check_many(browser, tunnel)
        errors = [line for line in browser.errors() if "status of 403" not in line and "status of 409" not in line]
        assert not errors, errors
    finally:
        browser.close()
        tunnel.end()
        shutil.rmtree(downloads)
    check_token(options, folder)
    say("all well")


main()
