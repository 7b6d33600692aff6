"""A Hugging Face hub on this machine: what huggingface_hub needs of its HTTP protocol to look up and fetch models.

Models are folders. Large files (`.bin`, `.safetensors`) are told by their sha256, as the hub does for LFS; all files
answer `Range`. A file can be made to stall or break off after some bytes, or to arrive damaged. Used by test_models.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "5" * 40


@dataclass
class Hub:
    """The models it serves, what it does to their files, and what it was asked for."""

    models: dict[str, Path] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)  # this many bytes of a file, then silence
    break_after: dict[str, int] = field(default_factory=dict)  # this many bytes, once, then the connection ends
    damaged: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def ranges(self, name: str) -> list[str | None]:
        """The `Range` of every GET of a file of that name."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{name}")]


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve on a free port of the loopback interface."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the test looks at `Hub.requests`."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path).strip("/")
        self.served.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.split("/")
        is_lookup = parts[:2] == ["api", "models"]
        for name, folder in self.served.models.items():
            rest = path.removeprefix("api/models/").removeprefix(name).strip("/").split("/")
            if not path.removeprefix("api/models/").startswith(name):
                continue
            if is_lookup and (rest == [""] or rest[0] == "revision"):
                if rest[-1] not in ("", "main", COMMIT):
                    return self._refuse("RevisionNotFound")
                return self._send_json(self._information(name, folder))
            if is_lookup and rest[0] == "tree":
                return self._send_json([_entry(folder, file) for file in _files(folder)])
            if rest[0] == "resolve" and (folder / "/".join(rest[2:])).is_file():
                return self._send_file(folder / "/".join(rest[2:]), with_body)
            return self._refuse("EntryNotFound")
        self._refuse("RepoNotFound")

    def _information(self, name: str, folder: Path) -> dict[str, object]:
        siblings = [{"rfilename": str(file.relative_to(folder))} for file in _files(folder)]
        return {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False}

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, file: Path, with_body: bool) -> None:
        content = file.read_bytes()
        etag = _hash(file)
        if file.name in self.served.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self._send_body(file.name, content[start:])

    def _send_body(self, name: str, content: bytes) -> None:
        try:
            if (stop := self.served.stall_after.pop(name, None)) is not None:
                self.wfile.write(content[:stop])
                self.wfile.flush()
                self.served.stalled.set()
                self.served.go_on.wait()
                self.close_connection = True
            elif (stop := self.served.break_after.pop(name, None)) is not None:
                self.wfile.write(content[:stop])
                self.close_connection = True
            else:
                self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client has gone, as it is meant to


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _hash(file: Path) -> str:
    """sha256 for large files, git's sha1 of a blob for the others."""
    content = file.read_bytes()
    if file.suffix in (".bin", ".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(folder: Path, file: Path) -> dict[str, object]:
    size = file.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": str(file.relative_to(folder)), "size": size, "oid": _hash(file)}
    if file.suffix in (".bin", ".safetensors"):
        entry["lfs"] = {"oid": _hash(file), "size": size, "pointerSize": 134}
    return entry
