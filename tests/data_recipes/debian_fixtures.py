"""Tiny Debian source packages, made on the spot, and an archive on loopback that serves them."""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PACKERS = {".gz": lambda data: gzip.compress(data, mtime=0), ".xz": lzma.compress, ".bz2": bz2.compress}
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tiny

Files: *
Copyright: 2020 Ann Author
           2021 Bob Builder <bob@example.org>
License: GPL-2+

Files: docs/* README.md
Copyright: 2022 Cem Writer
License: Expat or CC-BY-SA-4.0

Files: docs/vendored/*.md
Copyright: nobody knows
License: odd-terms
 You may read this on Tuesdays.

Files: debian/*
Copyright: 2023 Deb Maintainer
License: Expat

License: GPL-2+
 On Debian systems the text is in /usr/share/common-licenses/GPL-2.
"""


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return plain.getvalue()


def package(
    upstream: dict[str, bytes], copyright_file: str | None = COPYRIGHT, *, suffix: str = ".xz", native: bool = False
) -> dict[str, bytes]:
    """Files of the source package tiny 1.0-1 (or 1.0, native) with their description, by name."""
    own = {} if copyright_file is None else {"debian/copyright": copyright_file.encode()}
    own["debian/README.md"] = b"# For maintainers\n"
    tree = {f"tiny-1.0/{path}": data for path, data in upstream.items()}
    if native:
        tree |= {f"tiny-1.0/{path}": data for path, data in own.items()}
        files = {f"tiny_1.0.tar{suffix}": PACKERS[suffix](tar(tree, {"tiny-1.0/link": "README.md"}))}
    else:
        files = {
            f"tiny_1.0.orig.tar{suffix}": PACKERS[suffix](tar(tree, {"tiny-1.0/link": "README.md"})),
            f"tiny_1.0-1.debian.tar{suffix}": PACKERS[suffix](tar(own)),
            "tiny_1.0.orig.tar.gz.asc": b"signature",
        }
    version = "1.0" if native else "1.0-1"
    return {**files, f"tiny_{version}.dsc": description(files, version, native=native)}


def description(files: dict[str, bytes], version: str = "1.0-1", *, native: bool = False, **changes: str) -> bytes:
    """A `.dsc`, signed as those of Debian are."""
    sums = "".join(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in sorted(files.items()))
    fields = {
        "Format": "3.0 (native)" if native else "3.0 (quilt)",
        "Source": "tiny",
        "Version": version,
        "Checksums-Sha256": "\n" + sums.rstrip("\n"),
        **changes,
    }
    body = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    return (
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{body}\n-----BEGIN PGP SIGNATURE-----\n\niQ\n"
        "-----END PGP SIGNATURE-----\n"
    ).encode()


def source_values(files: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    """The entry of a recipe for a package."""
    (name,) = (name for name in files if name.endswith(".dsc"))
    pin = {"filename": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "size_bytes": len(files[name])}
    return {
        "type": "debian",
        "package": "tiny",
        "version": name.removeprefix("tiny_").removesuffix(".dsc"),
        "directory": "pool/main/t/tiny",
        "dsc": pin,
        "as_of": "2026-11-25",
        **changes,
    }


@contextmanager
def debian_archive(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve the files of a package; yields the address above `pool/` and the names that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            folder, _, name = self.path.rpartition("/")
            asked.append(name)
            data = files.get(name) if folder == "/debian/pool/main/t/tiny" else None
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/debian", asked
    finally:
        server.shutdown()
        server.server_close()
