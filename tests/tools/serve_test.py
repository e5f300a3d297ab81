"""daxfsctl serve: what it answers, to whom, and how it ends.

serve_test.py BUILD_DIR [unittest's arguments]"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import urllib.parse

from mounted import Mounted, main

SECONDS = 60
MIB = 1 << 20


class Serve(Mounted):
    def serve(self, *arguments):
        """Also self.token and self.place."""
        process = self.spawn(self.tool("daxfsctl"), "serve", *arguments, self.mount)
        address = process.stdout.readline().strip()
        found = re.fullmatch(r"http://([\d.]+:\d+)/(?:#token=([0-9a-f]{32}))?", address)
        self.assertTrue(found, address)
        self.place, self.token = found.groups()
        return process

    def ask(self, method, path, body=None, token=None, **headers):
        connection = http.client.HTTPConnection(self.place, timeout=SECONDS)
        self.addCleanup(connection.close)
        token = self.token if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body, headers)
        return connection.getresponse()

    def snapshot(self, cells=256):
        answer = self.ask("GET", f"/api/snapshot?cells={cells}")
        self.assertEqual(answer.status, 200)
        return json.load(answer)

    def test_a_snapshot_has_holders_requests_and_the_map(self):
        self.serve()
        holder = self.hold("large", "--length", "4M", "--lease")
        puncher = self.spawn("fallocate", "--punch-hole", "--offset", "0", "--length", "1M", os.path.join(self.mount, "large"))
        while not (now := self.snapshot())["waiting"]:
            pass
        self.assertTrue(now["may_switch"])
        self.assertEqual(now["status"]["pins"]["long"], 1)
        self.assertEqual([(one["pid"], one["long"], one["bytes"], one["holds_up"]) for one in now["holders"]],
                         [(holder.pid, 1, 4 * MIB, 1)])
        self.assertEqual([(one["pid"], one["length"], one["breaking"]) for one in now["leases"]], [(holder.pid, 4 * MIB, False)])
        request = now["waiting"][0]
        self.assertEqual((request["request"], request["pid"], request["path"]), ("punch", puncher.pid, "/large"))
        self.assertEqual([one["pid"] for one in request["waits_for"]], [holder.pid])
        cells, size = now["map"]["cells"], now["map"]["cell_blocks"]
        self.assertLessEqual(len(cells), 256)
        self.assertEqual(len(cells), -(-now["map"]["blocks"] // size))
        self.assertEqual(sum(cell[1] for cell in cells), 1024)
        self.assertEqual({cell[4] for cell in cells if cell[1]}, {holder.pid})
        # Free, used by files, and in limbo are all that there is, but for what the filesystem itself has.
        used = sum(cell[0] for cell in cells)
        self.assertGreaterEqual(used, 1024)
        self.assertLessEqual(used * 4096, now["status"]["total"] - now["status"]["free"] + 64 * 4096)
        self.assertGreaterEqual(now["events"]["waiting"], 1)
        # Another policy, and what waited goes ahead.
        answer = self.ask("POST", "/api/policy", "pin_policy=defer")
        self.assertEqual((answer.status, json.load(answer)), (200, {}))
        self.assertEqual(puncher.wait(SECONDS), 0)
        now = self.snapshot()
        self.assertEqual(now["status"]["policy"]["pin_policy"], "defer")
        self.assertEqual(now["status"]["limbo"], MIB)
        self.assertEqual(sum(cell[2] for cell in now["map"]["cells"]), 256)
        self.assertEqual(now["limbo"]["pieces"], 1)
        self.assertEqual(len(self.snapshot(1)["map"]["cells"]), 1)

    def test_bad_requests_get_a_sentence(self):
        self.serve()
        for body in ("pin_policy=hope", "", "\0", "pin_policy=ignore", "x" * 900):
            answer = self.ask("POST", "/api/policy", body)
            self.assertEqual(answer.status, 400, body)
            self.assertGreater(len(json.load(answer)["error"]), 10)
        self.assertGreaterEqual(self.ask("POST", "/api/policy", "x" * 100_000).status, 400)
        self.assertEqual(self.ask("GET", "/api/snapshot?cells=nonsense").status, 200)
        self.assertEqual(self.ask("GET", "/etc/passwd").status, 404)
        self.assertEqual(self.ask("GET", "/../../../../etc/passwd").status, 404)
        self.assertEqual(self.ask("PUT", "/api/policy", "defer").status, 404)
        self.assertEqual(self.snapshot()["status"]["policy"]["pin_policy"], "wait")

    def test_without_the_token_nobody_gets_an_answer(self):
        self.serve()
        for method, path in (("GET", "/api/snapshot"), ("GET", "/events"), ("POST", "/api/policy")):
            for token in ("", "0" * 32, self.token[:-1], self.token + "0"):
                answer = self.ask(method, path, "defer", token=token)
                self.assertEqual(answer.status, 401)
                self.assertIn("daxfsctl serve", json.load(answer)["error"])
        self.assertEqual(self.snapshot()["status"]["policy"]["pin_policy"], "wait")

    def test_without_tokens_other_names_of_this_machine_get_none(self):
        self.serve("--no-token")
        self.assertEqual(self.ask("GET", "/api/snapshot").status, 200)
        # A page elsewhere, whose name leads here.
        port = self.place.partition(":")[2]
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhostx", "localhost:80.evil.example"):
            self.assertEqual(self.ask("GET", "/api/snapshot", Host=f"{name}:{port}").status, 401, name)
        self.assertEqual(self.ask("GET", "/api/snapshot", Host="localhost").status, 200)

    def test_without_tokens_pages_elsewhere_switch_nothing(self):
        self.serve("--no-token")
        for origin in ("http://evil.example", "null", f"https://{self.place}", f"http://{self.place}.evil.example"):
            self.assertEqual(self.ask("POST", "/api/policy", "defer", Origin=origin).status, 401, origin)
        self.assertEqual(self.snapshot()["status"]["policy"]["pin_policy"], "wait")
        self.assertEqual(self.ask("POST", "/api/policy", "defer", Origin=f"http://{self.place}").status, 200)
        self.assertEqual(self.snapshot()["status"]["policy"]["pin_policy"], "defer")

    def test_without_tokens_it_listens_on_this_machine_alone(self):
        process = self.spawn(self.tool("daxfsctl"), "serve", "--no-token", "--listen", "0.0.0.0:8080", self.mount)
        self.assertEqual(process.wait(SECONDS), 1)
        self.assertIn("127.0.0.1", process.stderr.read())

    def test_strangers_who_never_finish_a_request_keep_nobody_out(self):
        self.serve()
        host, port = self.place.split(":")
        for _ in range(100):
            stream = socket.create_connection((host, int(port)), timeout=SECONDS)
            self.addCleanup(stream.close)
            stream.sendall(f"POST /api/policy HTTP/1.1\r\nHost: {self.place}\r\nContent-Length: 900\r\n\r\nx".encode())
            self.assertIn(b" 401 ", stream.recv(4096))
        self.snapshot()

    def test_pages_that_listen_leave_threads_for_the_others(self):
        self.serve()
        host, port = self.place.split(":")
        answers = []
        for _ in range(40):
            stream = socket.create_connection((host, int(port)), timeout=SECONDS)
            self.addCleanup(stream.close)
            stream.sendall(f"GET /events?token={self.token} HTTP/1.1\r\nHost: {self.place}\r\n\r\n".encode())
            answers.append(stream.recv(4096).split()[1])
        self.assertEqual((answers.count(b"200"), answers.count(b"503")), (32, 8))
        self.snapshot()

    def test_it_keeps_no_mount_busy_and_finds_the_next_one(self):
        self.serve()
        self.snapshot()
        self.unmount()
        self.assertEqual(self.ask("GET", "/api/snapshot").status, 502)
        self.mount_again()
        self.snapshot()

    def test_it_does_not_go_on_where_nobody_can_read_its_address(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([self.tool("daxfsctl"), "serve", self.mount],
                                  stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=SECONDS)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output", done.stderr)

    def test_two_do_not_share_a_port(self):
        self.serve()
        second = self.spawn(self.tool("daxfsctl"), "serve", "--listen", self.place, self.mount)
        self.assertEqual(second.wait(SECONDS), 1)
        self.assertIn("port free", second.stderr.read())

    def test_the_page_is_in_the_program(self):
        self.serve()
        page = self.ask("GET", "/", token="")
        self.assertEqual(page.status, 200)
        self.assertEqual(page.getheader("Content-Security-Policy"), "default-src 'self'")
        text = page.read().decode()
        named = re.findall(r'(?:src|href)="([^"#:]+)"', text)
        self.assertTrue(named)
        for name in named:
            answer = self.ask("GET", urllib.parse.urljoin("/", name), token="")
            self.assertEqual(answer.status, 200, name)
            kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
            self.assertTrue(answer.getheader("Content-Type").startswith(kind), name)
            self.assertTrue(answer.read())

    def test_events_come_as_they_happen(self):
        self.serve()
        host, port = self.place.split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as stream:
            stream.sendall(f"GET /events?token={self.token} HTTP/1.1\r\nHost: {self.place}\r\n\r\n".encode())
            got = stream.recv(4096).decode()
            self.assertIn("text/event-stream", got)
            holder = self.hold("f", "--length", "64K")
            while f'"pid":{holder.pid}' not in got:
                part = stream.recv(4096).decode()
                self.assertTrue(part, got)
                got += part
        line = next(line for line in got.splitlines() if line.startswith("data: "))
        self.assertEqual(json.loads(line[6:])["event"], "pin")

    def test_it_ends_by_a_signal_also_while_somebody_listens(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            process = self.serve()
            host, port = self.place.split(":")
            with socket.create_connection((host, int(port)), timeout=SECONDS) as stream:
                stream.sendall(f"GET /events?token={self.token} HTTP/1.1\r\nHost: {self.place}\r\n\r\n".encode())
                self.assertIn(b"text/event-stream", stream.recv(4096))
                process.send_signal(number)
                self.assertEqual(process.wait(SECONDS), 0)

    def test_where_it_cannot_listen_or_there_is_no_mount_it_says_so(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for words, status, complaint in (
                (["--listen", f"127.0.0.1:{port}", self.mount], 1, "cannot listen there"),
                (["--listen", "127.0.0.1:99999", self.mount], 2, "no ADDRESS:PORT"),
                (["/"], 1, "not on a daxfs mount"),
            ):
                done = subprocess.run(
                    [self.tool("daxfsctl"), "serve", *words], capture_output=True, text=True, check=False, timeout=SECONDS)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(complaint, done.stderr)


if __name__ == "__main__":
    main()
