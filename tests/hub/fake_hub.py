# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A Hub on the loopback interface: as much of the Hub's HTTP API as pushing and loading models needs, kept in memory.

    with FakeHub() as hub:
        subprocess.run([sys.executable, "push.py"], env=os.environ | hub.environment(cache_folder))
        assert "config.json" in hub.files("someone/model")

huggingface_hub reads its endpoint once, when imported, so its user has to be another process than the one that tests.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
REPO = r"([^/]+/[^/]+)"


class StoredFile(NamedTuple):
    """The content of a file and whether it went through Git LFS, which decides what its identity is."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        """The identity that LFS goes by."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_id(self) -> str:
        """The identity that Git goes by."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


Files = dict[str, StoredFile]


@dataclass
class Repository:
    """Commits by id, oldest first, and what branches and tags point at."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: Files) -> str:
        """Add a commit of all `files` on `branch` and return its id."""
        commit_id = hashlib.sha1(f"{len(self.commits)} {branch} {message}".encode()).hexdigest()
        self.commits[commit_id], self.refs[branch] = files, commit_id
        self.messages.append(message)
        return commit_id

    def resolve(self, revision: str) -> str:
        """Return the id of the commit that a branch, a tag or an id names."""
        commit_id = self.refs.get(revision, revision)
        if commit_id not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit_id


class HubError(Exception):
    """An answer that huggingface_hub turns into an exception of the kind that `code` names."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = Response({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


class Request(NamedTuple):
    """What the handlers below look at."""

    url: str
    query: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON; an empty body is an empty object."""
        return json.loads(self.body or b"{}")


class Response(NamedTuple):
    """Bytes are sent as they are, everything else as JSON."""

    payload: Any
    status: int = 200
    headers: dict[str, str] = {}


class FakeHub:
    """The server. Repositories are in `repositories`, the requests served so far in `requests`."""

    def __init__(self, user: str = "someone", token: str = "hf_fake") -> None:
        self.user, self.token = user, token
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (RequestHandler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        """Return the environment variables that point a process at this Hub, with `cache` as its HF_HOME."""
        # The newer upload protocol, Xet, is not emulated; without it clients fall back to Git LFS.
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the content of every file of a repository by its path."""
        repository = self.repositories[repo_id]
        return {path: file.content for path, file in repository.commits[repository.resolve(revision)].items()}

    def repository(self, repo_id: str) -> Repository:
        """Return a repository, or answer that there is none."""
        if repo_id not in self.repositories:
            raise HubError(404, "RepoNotFound", "Repository Not Found")
        return self.repositories[repo_id]

    def answer(self, method: str, path: str, request: Request, authorization: str | None) -> Response:
        """Serve one request by the first route that matches."""
        self.requests.append(f"{method} {path}")
        if method == "POST" and authorization != f"Bearer {self.token}":
            return HubError(401, "Unauthorized", "Invalid credentials").response
        try:
            for methods, pattern, handler in ROUTES:
                if method in methods and (match := pattern.fullmatch(path)):
                    return handler(self, request, *match.groups())
        except HubError as error:
            return error.response
        return HubError(501, "", f"the fake Hub does not know {method} {path}").response


class RequestHandler(BaseHTTPRequestHandler):
    """Translation between HTTP and `FakeHub.answer`."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args: object) -> None:
        """Keep test output clean; `FakeHub.requests` has the log."""

    def read_body(self) -> bytes:
        """Return the body, whether its length is announced or it comes in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def serve(self) -> None:
        """Answer one request of any method."""
        url = urlsplit(self.path)
        request = Request(self.hub.url, parse_qs(url.query), self.read_body())
        with self.hub.lock:
            response = self.hub.answer(self.command, unquote(url.path), request, self.headers.get("Authorization"))
        payload = response.payload if isinstance(response.payload, bytes) else json.dumps(response.payload).encode()
        self.send_response(response.status)
        for name, value in {"Content-Length": str(len(payload)), **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    do_GET = do_HEAD = do_POST = do_PUT = serve


ROUTES: list[tuple[tuple[str, ...], re.Pattern[str], Callable[..., Response]]] = []


def route(methods: str, pattern: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Register a handler for paths that match `pattern`; it is called with the hub, the request and the groups."""

    def register(handler: Callable[..., Response]) -> Callable[..., Response]:
        ROUTES.append((tuple(methods.split()), re.compile(pattern), handler))
        return handler

    return register


@route("GET", "/api/whoami-v2")
def whoami(hub: FakeHub, request: Request) -> Response:
    """Say whose token it is."""
    token = {"displayName": "test", "role": "write"}
    return Response({"type": "user", "name": hub.user, "orgs": [], "auth": {"accessToken": token}})


@route("POST", "/api/validate-yaml")
def validate_card(hub: FakeHub, request: Request) -> Response:
    """Accept every model card; the rules are the real server's."""
    return Response({"errors": [], "warnings": []})


@route("POST", "/api/repos/create")
def create_repository(hub: FakeHub, request: Request) -> Response:
    """Create a repository with one commit."""
    details = request.json
    repo_id = f"{details.get('organization') or hub.user}/{details['name']}"
    answer = {"url": f"{request.url}/{repo_id}", "id": repo_id, "name": repo_id}
    if repo_id in hub.repositories:
        return Response(answer | {"error": "You already created this model repo"}, 409)
    private = bool(details.get("private")) or details.get("visibility") == "private"
    repository = hub.repositories[repo_id] = Repository(private)
    repository.commit("main", "initial commit", {})
    return Response(answer)


@route("POST", rf"/api/models/{REPO}/branch/(.+)")
def create_branch(hub: FakeHub, request: Request, repo_id: str, branch: str) -> Response:
    """Start a branch at the revision asked for, or at main."""
    repository = hub.repository(repo_id)
    if branch in repository.refs:
        raise HubError(409, "", "Reference already exists")
    repository.refs[branch] = repository.resolve(request.json.get("startingPoint") or "main")
    return Response({})


@route("POST", rf"/api/models/{REPO}/preupload/(.+)")
def choose_upload_modes(hub: FakeHub, request: Request, repo_id: str, revision: str) -> Response:
    """Say which files are to go through LFS."""
    hub.repository(repo_id).resolve(revision)
    modes = {True: "lfs", False: "regular"}
    files = [
        {"path": file["path"], "uploadMode": modes[file["path"].endswith(LFS_SUFFIXES)], "shouldIgnore": False}
        for file in request.json["files"]
    ]
    return Response({"files": files})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
def offer_uploads(hub: FakeHub, request: Request, repo_id: str) -> Response:
    """Give an address to upload each object to, unless it is there already."""
    objects = request.json["objects"]
    for item in objects:
        if item["oid"] not in hub.uploads:
            item["actions"] = {"upload": {"href": f"{request.url}/lfs/{item['oid']}", "header": {}}}
    answer = {"transfer": "basic", "objects": objects}
    return Response(answer, headers={"Content-Type": "application/vnd.git-lfs+json"})


@route("PUT", "/lfs/([0-9a-f]{64})")
def upload(hub: FakeHub, request: Request, sha256: str) -> Response:
    """Take an LFS object whose content is what its name says."""
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, "", "sha256 mismatch")
    hub.uploads[sha256] = request.body
    return Response(b"")


@route("POST", rf"/api/models/{REPO}/commit/(.+)")
def commit(hub: FakeHub, request: Request, repo_id: str, branch: str) -> Response:
    """Add a commit: one JSON object a line, first the message, then the operations."""
    repository = hub.repository(repo_id)
    files = dict(repository.commits[repository.resolve(branch)])
    header, *operations = (json.loads(line) for line in request.body.splitlines())
    for operation in operations:
        apply_operation(files, operation["key"], operation["value"], hub.uploads)
    commit_id = repository.commit(branch, header["value"]["summary"], files)
    return Response(
        {"success": True, "commitOid": commit_id, "commitUrl": f"{request.url}/{repo_id}/commit/{commit_id}"}
    )


def apply_operation(files: Files, key: str, value: dict[str, Any], uploads: dict[str, bytes]) -> None:
    """Add a file to, or delete it from, the `files` of a commit in the making."""
    if key == "file":
        files[value["path"]] = StoredFile(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile" and value["oid"] in uploads:
        files[value["path"]] = StoredFile(uploads[value["oid"]], lfs=True)
    elif key == "deletedFile":
        files.pop(value["path"], None)
    else:
        raise HubError(400, "", f"cannot apply {key} {value['path']}")


@route("GET", rf"/api/models/{REPO}(?:/revision/(.+))?")
def model_info(hub: FakeHub, request: Request, repo_id: str, revision: str | None) -> Response:
    """Describe a repository: commit, files, and the metadata of its model card."""
    repository = hub.repository(repo_id)
    commit_id = repository.resolve(revision or "main")
    files = repository.commits[commit_id]
    card = card_metadata(files["README.md"].content.decode()) if "README.md" in files else {}
    answer = {"id": repo_id, "sha": commit_id, "private": repository.private, "cardData": card}
    answer |= {"pipeline_tag": card.get("pipeline_tag"), "library_name": card.get("library_name")}
    answer |= {"tags": card.get("tags", []), "siblings": [{"rfilename": path} for path in sorted(files)]}
    return Response(answer)


def card_metadata(text: str) -> dict[str, Any]:
    """Return the YAML block that a model card starts with."""
    match = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    return yaml.safe_load(match[1]) if match else {}


@route("GET", rf"/api/models/{REPO}/tree/([^/]+)")
def list_files(hub: FakeHub, request: Request, repo_id: str, revision: str) -> Response:
    """List all files of a revision; clients that push and load models ask for no single folder."""
    repository = hub.repository(repo_id)
    files = repository.commits[repository.resolve(revision)]
    return Response([describe(path, file) for path, file in sorted(files.items())])


def describe(path: str, file: StoredFile) -> dict[str, Any]:
    """Return a file's entry in a listing."""
    size = len(file.content)
    lfs = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 130}} if file.lfs else {}
    return {"type": "file", "path": path, "size": size, "oid": file.git_id, **lfs}


@route("GET HEAD", rf"(?:/api/resolve-cache/models)?/{REPO}/resolve/([^/]+)/(.+)")
def download(hub: FakeHub, request: Request, repo_id: str, revision: str, path: str) -> Response:
    """Send a file, with the commit it is from and its identity for the client's cache."""
    repository = hub.repository(repo_id)
    commit_id = repository.resolve(revision)
    file = repository.commits[commit_id].get(path)
    if file is None:
        answer = HubError(404, "EntryNotFound", "Entry not found").response
        return answer._replace(headers=answer.headers | {"X-Repo-Commit": commit_id})
    etag = file.sha256 if file.lfs else file.git_id
    return Response(file.content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": commit_id})
