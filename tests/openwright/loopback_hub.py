"""The part of the Hugging Face Hub that its library talks to when it reads repositories, on loopback."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PAGE_ENTRIES = 40
LARGE_BYTES = 20_000
"""Files from this size on are listed with their sha256, as the Hub does for those in git-lfs."""


@dataclass
class Repository:
    """A repository with one commit, which every known revision names.

    Attributes:
        files: content by path.
        listed: size and sha256 that the listing gives by path, where it is not to be true.
        refuse: status and `X-Error-Code` for every request, such as (403, "GatedRepo").
        cut_after: bytes after which the connection breaks, by path; each file once.
        hold_after: bytes after which the server waits until `released` is set, by path; each file once.
    """

    files: dict[str, bytes]
    commit: str
    revisions: tuple[str, ...] = ("main",)
    listed: dict[str, tuple[int, str]] = field(default_factory=dict)
    refuse: tuple[int, str] | None = None
    cut_after: dict[str, int] = field(default_factory=dict)
    hold_after: dict[str, int] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def entries(self) -> list[dict[str, Any]]:
        """The tree as the Hub lists it."""
        return [self._entry(path) for path in sorted({*self.files, *self.listed})]

    def _entry(self, path: str) -> dict[str, Any]:
        data = self.files.get(path, b"")
        size, sha256 = self.listed.get(path, (len(data), hashlib.sha256(data).hexdigest()))
        entry = {"type": "file", "path": path, "size": size, "oid": git_blob_id(data)}
        is_large = size >= LARGE_BYTES or path in self.listed
        return entry | ({"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if is_large else {})


def git_blob_id(data: bytes) -> str:
    """The name that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def files_of(directory: Path) -> dict[str, bytes]:
    """Files of a directory by path; git's own besides, as on the Hub."""
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    return {**files, ".gitattributes": b"*.safetensors filter=lfs\n"}


@dataclass
class LoopbackHub:
    """Repositories by kind and name, such as `models/org/tiny`, and what was asked for.

    Attributes:
        requests: method and path.
        ranges: path in the repository and first byte of requests for the rest of a file.
    """

    url: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[tuple[str, int]] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """Bundle paths of the files that were sent."""
        found = set()
        for method, path in self.requests:
            head, marker, tail = path.partition("/resolve/")
            if method == "GET" and marker:
                kind = "dataset" if head.startswith("/datasets/") else "model"
                found.add(f"{kind}/{tail.partition('/')[2]}")
        return found


@contextmanager
def loopback_hub(repositories: dict[str, Repository]) -> Iterator[LoopbackHub]:
    """Serve repositories."""
    hub = LoopbackHub("", repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.respond()

        def do_HEAD(self) -> None:
            self.respond()

        def respond(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.requests.append((self.command, path))
            parts = path.strip("/").split("/")
            is_api = parts[0] == "api"
            parts = parts[1:] if is_api else parts if parts[0] == "datasets" else ["models", *parts]
            name, action, rest = "/".join(parts[:3]), parts[3:4], parts[4:]
            repository = hub.repositories.get(name)
            if repository is None:
                self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif repository.refuse:
                status, code = repository.refuse
                self.send(status, b"", {"X-Error-Code": code} if code else {})
            elif action in ([], ["revision"]):
                self.info(name, repository, rest)
            elif rest[0] != repository.commit:
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif action == ["tree"]:
                self.tree(repository, url.path, url.query)
            else:
                self.content(repository, "/".join(rest[1:]))

        def info(self, name: str, repository: Repository, revision: list[str]) -> None:
            if revision and revision[0] not in (*repository.revisions, repository.commit):
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            body = {"id": name.partition("/")[2], "sha": repository.commit, "siblings": [], "tags": []}
            self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def tree(self, repository: Repository, path: str, query: str) -> None:
            first = int(query.partition("cursor=")[2] or 0)
            entries = repository.entries()
            page = json.dumps(entries[first : first + PAGE_ENTRIES]).encode()
            headers = {"Content-Type": "application/json"}
            if first + PAGE_ENTRIES < len(entries):
                host = f"http://127.0.0.1:{self.server.server_address[1]}"
                headers["Link"] = f'<{host}{path}?recursive=True&cursor={first + PAGE_ENTRIES}>; rel="next"'
            self.send(200, page, headers)

        def content(self, repository: Repository, path: str) -> None:
            if path not in repository.files:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
                return
            data = repository.files[path]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repository.commit}
            first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if first:
                hub.ranges.append((path, first))
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            cut = repository.cut_after.pop(path, None) if self.command == "GET" else None
            if self.command == "GET" and path in repository.hold_after:
                self.hold(repository, data, headers, repository.hold_after.pop(path))
                return
            self.send(206 if first else 200, data[first:], headers, cut)

        def hold(self, repository: Repository, data: bytes, headers: dict[str, str], num_bytes: int) -> None:
            self.send(200, b"", {**headers, "Content-Length": str(len(data))})
            self.wfile.write(data[:num_bytes])
            self.wfile.flush()
            repository.released.wait(30)
            self.close_connection = True

        def send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for header, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])
            self.close_connection = cut is not None

        def log_message(self, *_: object) -> None:
            pass

    return Handler
