"""A server on this machine that plays the Hugging Face hub and a public bucket, with the faults of real ones.

    with serving() as server:
        server.hub["owner/name"] = {"folder/file.pth": content}
        server.bucket["bucket/folder"] = {"ckpt-1.index": content}

Files of the hub are sent by way of another address, as the hub does.
"""

import base64
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Files by name, the requests so far, and the faults to commit."""

    def __init__(self) -> None:
        self.hub: dict[str, dict[str, bytes]] = {}
        self.bucket: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: list[int] = []
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        """Sent with the content of files."""
        self.address = ""

    def asked(self, name: str) -> list[str | None]:
        """Ranges of the requests for the content of a file."""
        return [span for path, span in self.requests if path.startswith("/content/") and path.endswith(name)]

    def status(self, path: str) -> int:
        """The status that a path is to be answered with."""
        return next((status for part, status in self.statuses.items() if part in path), 200)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        self.files.requests.append((path, self.headers.get("Range")))
        status = self.files.status(path)
        if status != 200:
            return self._answer(status, b"no")
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").removesuffix("/tree/main")
            return self._json([_listed(*item) for item in self.files.hub.get(repo, {}).items()])
        if path.startswith("/storage/v1/b/"):
            return self._listing(path.split("/")[4], query["prefix"][0])
        if "/resolve/main/" in path:
            repo, _, file = path.lstrip("/").partition("/resolve/main/")
            if file not in self.files.hub.get(repo, {}):
                return self._answer(404, b"Entry not found")
            return self._answer(302, b"", Location=f"/content/{repo}//{urllib.parse.quote(file)}")
        self._content(path)

    def _listing(self, bucket: str, prefix: str) -> None:
        items = [
            {"name": f"{prefix}{name}", "size": str(len(content)), "md5Hash": _md5(content)}
            for name, content in self.files.bucket.get(f"{bucket}/{prefix.rstrip('/')}", {}).items()
        ]
        self._json({"items": items})

    def _content(self, path: str) -> None:
        repo, _, file = path.removeprefix("/content/").partition("//")
        if path.startswith("/content/"):
            body = self.files.hub[repo][file]
        else:
            folder, _, file = path.lstrip("/").rpartition("/")
            if file not in self.files.bucket.get(folder, {}):
                return self._answer(404, b"")
            body = self.files.bucket[folder][file]
        status, headers, span = 200, dict(self.files.headers), self.headers.get("Range")
        if span:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            status, headers["Content_Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        self._answer(
            status, body, self.files.break_after.pop(0) if self.files.break_after else None, **headers
        )

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode())

    def _answer(self, status: int, body: bytes, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = cut is not None or self.close_connection


def _listed(path: str, content: bytes) -> dict[str, object]:
    """A file as the hub lists it."""
    digest = hashlib.sha256(content).hexdigest()
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "lfs": {"oid": digest, "size": len(content), "pointerSize": 130},
    }


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server while the block runs."""
    files = FileServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"files": files}))
    files.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
