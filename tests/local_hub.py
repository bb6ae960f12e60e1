"""A hub on 127.0.0.1 for the real clients, with repositories from folders and every way of failing."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
REVISIONS = ("main", "v1", COMMIT)
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/(.*))?)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
UPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
GATED = "Access to {} is restricted and you are not in the authorized list."


class LocalHub(ThreadingHTTPServer):
    """Serves `folders`, by kind and owner/name; an owner called gated, broken or cut fails so, and so does the revision `gone`."""

    daemon_threads = True

    def __init__(self, folders: dict[tuple[str, str], Path]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folders = folders
        self.requests: list[str] = []
        # What was pushed: by owner/name, then by the file's name.
        self.uploads: dict[str, dict[str, bytes]] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve(folders: dict[tuple[str, str], Path]):
    """Run a hub in a thread of its own."""
    hub = LocalHub(folders)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, format, *args):
        self.server.requests.append(f"{self.command} {self.path}")

    def send(self, status: int, body: bytes = b"", promised: int | None = None, **headers: str):
        """Answer; with `promised` bytes announced, of which fewer come, close the connection."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = promised is not None

    def send_json(self, content):
        self.send(200, json.dumps(content).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str, message: str):
        self.send(status, b"{}", X_Error_Code=code, X_Error_Message=message)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        asked_api = API.fullmatch(path)
        asked_file = FILE.fullmatch(path)
        if asked_api:
            kind, name, about, below = asked_api.groups()
        elif asked_file:
            kind, name = "datasets" if asked_file[1] else "models", asked_file[2]
        else:
            return self.refuse(404, "", "no such page")
        owner = name.partition("/")[0]
        folder = self.server.folders.get((kind, name))
        if owner == "gated":
            signed = "Authorization" in self.headers
            return self.refuse(403 if signed else 401, "GatedRepo", GATED.format(name))
        if owner == "broken":
            return self.refuse(500, "", "Internal Error")
        if folder is None:  # as the real hub answers somebody without a token
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        revision = asked_file[3] if asked_file else "main"
        if asked_api and about in ("revision", "tree"):
            revision = (below or "main").partition("/")[0]
        if revision not in REVISIONS:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if asked_api:
            return self.describe(folder, name, about, below or "")
        return self.give(folder / asked_file[4], owner == "cut")

    def do_POST(self):
        """What an upload asks for; every file goes as text into the commit itself."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if "Authorization" not in self.headers:
            return self.refuse(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "broken":
                return self.refuse(500, "", "Internal Error")
            self.server.uploads.setdefault(name, {})
            return self.send_json({"url": f"{self.server.endpoint}/{name}"})
        asked_upload = UPLOAD.fullmatch(path)
        if asked_upload is None:
            return self.refuse(404, "", "no such page")
        name, what = asked_upload.groups()
        if what == "preupload":
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(content)["files"]]  # fmt: skip
            return self.send_json({"files": files})
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                file = base64.b64decode(line["value"]["content"])
                self.server.uploads[name][line["value"]["path"]] = file
        address = f"{self.server.endpoint}/{name}/commit/{COMMIT}"
        return self.send_json({"commitUrl": address, "commitOid": COMMIT, "hookOutput": ""})

    def describe(self, folder: Path, name: str, about: str | None, below: str):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if about == "revision" and below == "gone":
            return self.refuse(404, "RevisionNotFound", "Invalid rev id: gone")
        if about == "tree":
            place = folder.joinpath(*below.split("/")[1:])
            if not place.is_dir():
                return self.refuse(404, "EntryNotFound", "Entry not found")
            return self.send_json(list_entries(folder, place))
        names = [{"rfilename": str(file.relative_to(folder))} for file in files]
        return self.send_json({"_id": "1" * 24, "id": name, "sha": COMMIT, "private": False,
                               "tags": [], "downloads": 1, "likes": 0, "siblings": names})  # fmt: skip

    def give(self, file: Path, cut: bool):
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = file.read_bytes()
        headers = {"ETag": f'"{sha256(content)}"', "X_Repo_Commit": COMMIT}
        if cut and self.command == "GET" and len(content) > 50_000:
            return self.send(200, content[:20_000], promised=len(content), **headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.send(200, content, Accept_Ranges="bytes", **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content_Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.send(206, content[start : end + 1], **headers)


def list_entries(folder: Path, place: Path) -> list[dict]:
    """What lies below a place in a repository, folders too, as where a listing of all is asked for."""
    entries = []
    for path in sorted(place.rglob("*")):
        if path.is_dir():
            name = str(path.relative_to(folder))
            entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
        else:
            entries.append(describe_file(folder, path))
    return entries


def describe_file(folder: Path, file: Path) -> dict:
    name = str(file.relative_to(folder))
    size = file.stat().st_size
    digest = sha256(file.read_bytes())
    lfs = {"oid": digest, "size": size, "pointerSize": 134}
    return {"type": "file", "oid": digest[:40], "size": size, "path": name, "lfs": lfs}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
