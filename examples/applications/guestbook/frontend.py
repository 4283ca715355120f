#!/usr/bin/env python3
"""The guestbook's frontend: serves the page, and writes to the leader and reads from the followers for it."""

import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PAGE = Path(__file__).with_name("index.html").read_bytes()


def host(service):
    """The name of a Service for DNS, or its address from the environment."""
    if os.environ.get("GET_HOSTS_FROM") == "env":
        return os.environ[service.upper().replace("-", "_") + "_SERVICE_HOST"]
    return service


def redis(service, *words):
    """Sends a command to redis; returns the answer, None where there is none."""
    with socket.create_connection((host(service), 6379), timeout=5) as stream, stream.makefile("rwb") as file:
        words = [word.encode() for word in words]
        file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        file.flush()
        line = file.readline().decode().rstrip()
        if line.startswith("+"):
            return line[1:]
        if line.startswith("$"):
            return file.read(int(line[1:])).decode() if line != "$-1" else None
        raise OSError(f"{service}: {line or 'no answer'}")


class Handler(BaseHTTPRequestHandler):
    # A browser's spare connection must not keep the server from ending.
    timeout = 5

    def do_GET(self):
        query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query, True).items()}
        if "cmd" not in query:
            return self.answer(200, "text/html; charset=utf-8", PAGE)
        try:
            if query["cmd"] == "set":
                redis("redis-leader", "SET", query["key"], query["value"])
                code, answer = 200, {"message": "Updated"}
            else:
                code, answer = 200, {"data": redis("redis-follower", "GET", query["key"]) or ""}
        except KeyError as missing:
            code, answer = 400, {"error": f"no {missing}"}
        except OSError as error:
            code, answer = 502, {"error": str(error)}
        return self.answer(code, "application/json", json.dumps(answer).encode())

    def answer(self, code, mime, body):
        self.send_response(code)
        self.send_header("Content-Type", mime)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    # What was begun is finished before the process ends.
    daemon_threads = False


with Server(("", 80), Handler) as server:
    # `shutdown` waits for the loop, which the handler of the signal interrupts.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
