"""A browser that is driven by WebDriver (https://www.w3.org/TR/webdriver2/), with nothing but the standard library."""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request

WAIT = 20


class Failed(Exception):
    """What the browser says of a command that failed."""


class Browser:
    def __init__(self, driver, options):
        command = [driver, "--port=0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.base = f"http://127.0.0.1:{line.rsplit(' ', 1)[1].strip().rstrip('.')}"
                break
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
        self.session = self.call("POST", "/session", {"capabilities": capabilities})["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise Failed(f"{value['error']}: {value['message']}") from None

    def do(self, method, path, body=None):
        return self.call(method, f"/session/{self.session}{path}", body)

    def open(self, url):
        self.do("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """The value of a script's `return`."""
        return self.do("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, what, script, *arguments):
        """Waits until a script returns something true, and returns that."""
        end = time.monotonic() + WAIT
        while True:
            value = self.run(script, *arguments)
            if value:
                return value
            if time.monotonic() > end:
                text = self.run("return document.body.innerText.slice(0, 3000)")
                raise AssertionError(f"{what}: not within {WAIT} s; the page says:\n{text}")
            time.sleep(0.05)

    def keys(self, text):
        """Types keys, as a person does."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self.do("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def press(self, x, y, seconds):
        """Presses the pointer at a place, for so long."""
        actions = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pause", "duration": int(seconds * 1000)},
            {"type": "pointerUp", "button": 0},
        ]
        self.do("POST", "/actions", {"actions": [{"type": "pointer", "id": "pointer", "actions": actions}]})

    def click(self, selector, text=""):
        script = """const [selector, text] = arguments;
            const found = [...document.querySelectorAll(selector)].find((one) => one.textContent.includes(text));
            if (found) found.click();
            return Boolean(found);"""
        self.until(f"{selector} with {text!r}", script, selector, text)

    def size(self, width, height):
        self.do("POST", "/window/rect", {"width": width, "height": height})

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.do("GET", "/screenshot")))

    def errors(self):
        """What the browser's console has of errors since the last look."""
        entries = self.do("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def close(self):
        try:
            self.do("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait()
