"""A package index on loopback that serves the archives of a cache directory (`<sha256>/<filename>`)."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve_archives(cache_dir: Path, without: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Serve every archive but those of the projects in `without`.

    Yields:
        The URL of the index, and the names of the archives that were downloaded, as they come.
    """
    archives = {path.name.rpartition("-")[0]: path for path in cache_dir.glob("*/*.tar.gz")}
    downloaded: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            folder, _, name = self.path.strip("/").partition("/")
            project = name.rpartition("-")[0] if folder == "files" else name
            if project not in archives or project in without:
                self.answer(404, b"none", "text/plain")
            elif folder == "files":
                downloaded.append(name)
                self.answer(200, archives[project].read_bytes(), "application/gzip")
            else:
                path = archives[project]
                entry = {"filename": path.name, "url": f"/files/{path.name}", "hashes": {"sha256": path.parent.name}}
                page = {"meta": {"api-version": "1.0"}, "name": project, "files": [entry]}
                self.answer(200, json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/", downloaded
    finally:
        server.shutdown()
        server.server_close()
