# SPDX-License-Identifier: Apache-2.0
"""Plays a scripted story over the interface of `daxfsctl serve`, to look at the page without a mount.

    python3 -B tests/page/mock_server.py [PORT]     prints the address to open
"""
import http.server
import json
import pathlib
import queue
import secrets
import socket
import sys
import threading
import time
import urllib.parse

from story import Story, lines

PAGE = pathlib.Path(__file__).resolve().parents[2] / "tools/ctl/page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'self'")
        self.end_headers()
        self.wfile.write(data)

    def allowed(self, query):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or query.get("token", [""])[0]
        if token == self.server.token:
            return True
        self.answer(401, {"error": "the token is wrong"})
        return False

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(address.query)
        name = address.path.lstrip("/") or "index.html"
        if address.path == "/api/snapshot":
            if self.allowed(query):
                self.snapshot(int(query.get("cells", ["4096"])[0]))
        elif address.path == "/events":
            if self.allowed(query):
                self.events()
        elif "/" not in name and (PAGE / name).is_file() and (PAGE / name).suffix in TYPES:
            self.answer(200, (PAGE / name).read_bytes(), TYPES[(PAGE / name).suffix])
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path != "/api/policy":
            self.answer(404, {"error": "no such page"})
        elif self.allowed({}):
            refused = self.server.story.set_policy(body)
            self.answer(400 if refused else 200, {"error": refused} if refused else {})

    def snapshot(self, cells):
        story = self.server.story
        with story.lock:
            story.snapshots += 1
            story.under_way += 1
            story.most_under_way = max(story.most_under_way, story.under_way)
        time.sleep(self.server.delay)
        try:
            self.answer(200, story.snapshot(cells))
        finally:
            with story.lock:
                story.under_way -= 1

    def events(self):
        story = self.server.story
        if not story.may_see_events:
            self.answer(403, {"error": "only root and the user who mounted may see events"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        listener = queue.Queue()
        with story.lock:
            story.listeners.append(listener)
        try:
            for line in lines(listener, self.server.ended):
                self.wfile.write(line.encode())
                self.wfile.flush()
        except OSError:
            pass  # the page was closed
        finally:
            story.listeners.remove(listener)
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, story, port=0, token=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.story, self.token, self.delay = story, token or secrets.token_urlsafe(16), 0.0
        self.ended = threading.Event()
        self.connections = set()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/#token={self.token}"

    def start(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass  # connections that the page or `stop` cuts off

    def stop(self):
        """As if the machine were gone: nothing listens, and open connections are cut."""
        self.ended.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.thread.join(5)


def main():
    story = Story()
    story.begin()
    server = Server(story, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    threading.Thread(target=story.play, daemon=True).start()
    print(server.address, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
