# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A Hub on the loopback interface: as much of the Hub's HTTP API as pushing and loading models needs, kept in memory.

    with FakeHub() as hub:
        hub.inject(Fault("PUT /lfs/", status=503))
        subprocess.run([sys.executable, "push.py"], env=os.environ | hub.environment(cache_folder))
        assert "config.json" in hub.files("someone/model")

huggingface_hub reads its endpoint once, when imported, so its user has to be another process than the one that tests.

Emulated: accounts with tokens that read or write, private and gated repositories; repositories, branches, tags and
commits with their parent; files in Git, files in LFS (in one part, downloaded by way of a redirect, in ranges);
errors, slow answers and uploads, answers that are lost, connections that break and a server that dies and comes back
(`Fault`).
Not emulated: Xet, the protocol that clients prefer (`environment` turns it off), LFS uploads in several parts, pull
requests, rules for the metadata of cards, data sets and Spaces; rate limits only as a `Fault`.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

PIECE = 2**20
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

    @property
    def identity(self) -> str:
        """The one that clients compare their file's with."""
        return self.sha256 if self.lfs else self.git_id


Files = dict[str, StoredFile]


@dataclass
class Repository:
    """Commits by id, oldest first, what branches and tags point at, and who may read: its owner, if it is private,
    those of `readers`, if it is gated."""

    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: Files) -> str:
        """Add a commit of all `files` on `branch` and return its id."""
        commit_id = hashlib.sha1(f"{len(self.commits)} {branch} {message}".encode()).hexdigest()
        self.commits[commit_id], self.branches[branch] = files, commit_id
        self.messages.append(message)
        return commit_id

    def resolve(self, revision: str) -> str:
        """Return the id of the commit that a branch, a tag or an id names."""
        commit_id = (self.branches | self.tags).get(revision, revision)
        if commit_id not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit_id


class Account(NamedTuple):
    """Whose a token is, and whether it writes."""

    user: str
    writes: bool = True


@dataclass
class Fault:
    """
    What goes wrong with the next `times` requests whose "METHOD /path" starts like the regular expression `pattern`.

    Attributes:
        status: answered, and nothing is done.
        retry_after: seconds that such an answer asks to wait.
        delay: seconds before anything is done.
        pause: seconds before each piece of the body is read, `PIECE` bytes.
        cut_after: bytes of the body that are read before the connection is cut, and nothing is done.
        loses_answer: what was asked for is done, and the connection cut in place of an answer.
        dies: the server is gone with the connection, until `FakeHub.restart`.
        revokes: no token is valid from here on.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    retry_after: int | None = None
    delay: float = 0
    pause: float = 0
    cut_after: int | None = None
    loses_answer: bool = False
    dies: bool = False
    revokes: bool = False


class HubError(Exception):
    """An answer that huggingface_hub turns into an exception of the kind that `code` names."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = Response({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


class Request(NamedTuple):
    """What the handlers below look at; `account` is `None` without a token."""

    url: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None = None

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
    """
    The server.

    Attributes:
        accounts: by token. `token` is that of `user`, both arguments.
        repositories: by id.
        uploads: content of LFS objects by SHA-256.
        requests: those served so far, "METHOD /path".
    """

    def __init__(self, user: str = "someone", token: str = "hf_fake") -> None:
        self.user, self.token = user, token
        self.accounts = {token: Account(user)}
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.is_down = True
        self.port = 0
        self.restart()
        self.url = f"http://127.0.0.1:{self.port}"
        # Large files lie on a host of another name, which tokens are not for.
        self.storage = f"http://localhost:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.die()

    def restart(self) -> None:
        """Serve at the old address, with all that was finished before."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (RequestHandler,), {"hub": self}))
        self.port, self.is_down = self.server.server_port, False
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def die(self) -> None:
        """Serve no more: open connections are cut at their next request, new ones refused."""
        if not self.is_down:
            self.is_down = True
            self.server.shutdown()
            self.server.server_close()

    def inject(self, *faults: Fault) -> None:
        """Add faults to those to come; of several that match a request, the first counts."""
        with self.lock:
            self.faults += faults

    def count(self, pattern: str) -> int:
        """Number of requests so far that start like the regular expression."""
        return sum(bool(re.match(pattern, request)) for request in self.requests)

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """Return the environment variables that point a process at this Hub, with `cache` as its HF_HOME."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token if token is None else token,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            # Not emulated; without it clients fall back to Git LFS.
            "HF_HUB_DISABLE_XET": "1",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the content of every file of a repository by its path."""
        repository = self.repositories[repo_id]
        return {path: file.content for path, file in repository.commits[repository.resolve(revision)].items()}

    def readable(self, repo_id: str, account: Account | None) -> Repository:
        """Return a repository that `account` may know of, or answer that there is none."""
        repository = self.repositories.get(repo_id)
        if repository is None or (repository.private and not owns(account, repo_id)):
            raise HubError(404 if account else 401, "RepoNotFound", "Repository Not Found")
        return repository

    def writable(self, repo_id: str, account: Account | None) -> Repository:
        """Return a repository that `account` may change."""
        repository = self.readable(repo_id, account)
        if not owns(account, repo_id) or not account.writes:
            raise HubError(403, "", "You do not have the rights to write to this repository")
        return repository

    def take_fault(self, request: str) -> Fault | None:
        """The fault that is to befall a request; it counts as one of its times."""
        with self.lock:
            fault = next((fault for fault in self.faults if fault.times and re.match(fault.pattern, request)), None)
            if fault:
                fault.times -= 1
                if fault.revokes:
                    self.accounts.clear()
        return fault

    def answer(self, method: str, path: str, request: Request) -> Response:
        """Serve one request by the first route that matches."""
        self.requests.append(f"{method} {path}")
        try:
            request = request._replace(account=self.authenticate(request.headers.get("Authorization")))
            for methods, pattern, handler in ROUTES:
                if method in methods and (match := pattern.fullmatch(path)):
                    return handler(self, request, *match.groups())
        except HubError as error:
            return error.response
        return HubError(501, "", f"the fake Hub does not know {method} {path}").response

    def authenticate(self, authorization: str | None) -> Account | None:
        """Return the account of a token, `None` without one, or answer that it is not (or no more) valid."""
        if authorization is None:
            return None
        if (account := self.accounts.get(authorization.removeprefix("Bearer "))) is None:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return account


def owns(account: Account | None, repo_id: str) -> bool:
    """Whether a repository is that of `account`."""
    return account is not None and repo_id.startswith(f"{account.user}/")


class RequestHandler(BaseHTTPRequestHandler):
    """Translation between HTTP and `FakeHub.answer`, and the place where things go wrong."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args: object) -> None:
        """Keep test output clean; `FakeHub.requests` has the log."""

    def read_body(self, pause: float = 0) -> bytes:
        """Return the body, whether its length is announced or it comes in chunks."""
        body = b""
        if self.headers.get("Transfer-Encoding") != "chunked":
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                time.sleep(pause)
                body += self.rfile.read(min(left, PIECE))
                left -= min(left, PIECE)
            return body
        while length := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def cut(self, fault: Fault | None = None) -> None:
        """End the connection without an answer."""
        self.close_connection = True
        if fault and fault.dies:
            self.hub.die()
        self.connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Answer one request of any method."""
        url = urlsplit(self.path)
        path = unquote(url.path)
        fault = self.hub.take_fault(f"{self.command} {path}")
        if self.hub.is_down:
            return self.cut()
        if fault and fault.cut_after is not None:
            self.rfile.read(fault.cut_after)
            return self.cut(fault)
        request = Request(self.hub.url, parse_qs(url.query), self.headers, self.read_body(fault.pause if fault else 0))
        if fault:
            time.sleep(fault.delay)
        if fault and fault.status:
            refused = HubError(fault.status, "", "injected").response
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return self.send(refused._replace(headers=refused.headers | wait))
        with self.hub.lock:
            response = self.hub.answer(self.command, path, request)
        if fault and (fault.loses_answer or fault.dies):
            return self.cut(fault)
        return self.send(response)

    def send(self, response: Response) -> None:
        """Send an answer, without its content if that was not asked for."""
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
    account = authenticated(request)
    token = {"displayName": "test", "role": "write" if account.writes else "read"}
    return Response({"type": "user", "name": account.user, "orgs": [], "auth": {"accessToken": token}})


def authenticated(request: Request) -> Account:
    """Return the account that asks, or answer that a token is needed."""
    if request.account is None:
        raise HubError(401, "", "Invalid username or password.")
    return request.account


@route("POST", "/api/validate-yaml")
def validate_card(hub: FakeHub, request: Request) -> Response:
    """Accept every model card; the rules are the real server's."""
    return Response({"errors": [], "warnings": []})


@route("POST", "/api/repos/create")
def create_repository(hub: FakeHub, request: Request) -> Response:
    """Create a repository with one commit."""
    details, account = request.json, authenticated(request)
    repo_id = f"{details.get('organization') or account.user}/{details['name']}"
    if not owns(account, repo_id) or not account.writes:
        raise HubError(403, "", "You do not have the rights to create a model under this namespace")
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
    repository = hub.writable(repo_id, request.account)
    if branch in repository.branches:
        raise HubError(409, "", "Reference already exists")
    repository.branches[branch] = repository.resolve(request.json.get("startingPoint") or "main")
    return Response({})


@route("POST", rf"/api/models/{REPO}/tag/(.+)")
def create_tag(hub: FakeHub, request: Request, repo_id: str, revision: str) -> Response:
    """Name a revision; tags that exist stay where they are."""
    repository, tag = hub.writable(repo_id, request.account), request.json["tag"]
    if tag in repository.tags:
        raise HubError(409, "", "Tag reference exists already")
    repository.tags[tag] = repository.resolve(revision)
    return Response({})


@route("GET", rf"/api/models/{REPO}/refs")
def list_refs(hub: FakeHub, request: Request, repo_id: str) -> Response:
    """List branches and tags."""
    repository = hub.readable(repo_id, request.account)
    kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
    refs = {
        kind: [{"name": name, "ref": f"refs/{place}/{name}", "targetCommit": sha} for name, sha in found.items()]
        for kind, (place, found) in kinds.items()
    }
    return Response(refs | {"converts": []})


@route("POST", rf"/api/models/{REPO}/preupload/(.+)")
def choose_upload_modes(hub: FakeHub, request: Request, repo_id: str, revision: str) -> Response:
    """Say which files are to go through LFS, and what is there already."""
    repository = hub.writable(repo_id, request.account)
    there = repository.commits[repository.resolve(revision)]
    modes = {True: "lfs", False: "regular"}
    files = [
        {"path": path, "uploadMode": modes[path.endswith(LFS_SUFFIXES)], "shouldIgnore": False}
        | ({"oid": there[path].identity} if path in there else {})
        for path in (file["path"] for file in request.json["files"])
    ]
    return Response({"files": files})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
def offer_uploads(hub: FakeHub, request: Request, repo_id: str) -> Response:
    """Give an address to upload each object to, unless it is there already."""
    hub.writable(repo_id, request.account)
    objects = request.json["objects"]
    for item in objects:
        if item["oid"] not in hub.uploads:
            item["actions"] = {"upload": {"href": f"{hub.storage}/lfs/{item['oid']}", "header": {}}}
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
    """Add a commit, unless another one came before: one JSON object a line, first the message, then the operations."""
    repository = hub.writable(repo_id, request.account)
    head = repository.resolve(branch)
    files = dict(repository.commits[head])
    header, *operations = (json.loads(line) for line in request.body.splitlines())
    if header["value"].get("parentCommit", head) != head:
        raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
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
    repository = hub.readable(repo_id, request.account)
    commit_id = repository.resolve(revision or "main")
    files = repository.commits[commit_id]
    card = card_metadata(files["README.md"].content.decode()) if "README.md" in files else {}
    answer = {"id": repo_id, "sha": commit_id, "private": repository.private, "cardData": card}
    answer |= {"gated": "manual" if repository.gated else False}
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
    repository = hub.readable(repo_id, request.account)
    files = repository.commits[repository.resolve(revision)]
    return Response([describe(path, file) for path, file in sorted(files.items())])


def describe(path: str, file: StoredFile) -> dict[str, Any]:
    """Return a file's entry in a listing."""
    size = len(file.content)
    lfs = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 130}} if file.lfs else {}
    return {"type": "file", "path": path, "size": size, "oid": file.git_id, **lfs}


@route("GET HEAD", rf"(?:/api/resolve-cache/models)?/{REPO}/resolve/([^/]+)/(.+)")
def download(hub: FakeHub, request: Request, repo_id: str, revision: str, path: str) -> Response:
    """Send a file, or where in LFS it is, with the commit it is from and its identity for the client's cache."""
    repository = hub.readable(repo_id, request.account)
    knows = owns(request.account, repo_id) or (request.account and request.account.user in repository.readers)
    if repository.gated and not knows:
        raise HubError(403 if request.account else 401, "GatedRepo", f"Access to model {repo_id} is restricted.")
    commit_id = repository.resolve(revision)
    file = repository.commits[commit_id].get(path)
    if file is None:
        answer = HubError(404, "EntryNotFound", "Entry not found").response
        return answer._replace(headers=answer.headers | {"X-Repo-Commit": commit_id})
    headers = {"ETag": f'"{file.git_id}"', "X-Repo-Commit": commit_id}
    if not file.lfs:
        return Response(file.content, headers=headers)
    linked = {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    return Response(b"", 302, headers | linked | {"Location": f"{hub.storage}/lfs/{file.sha256}"})


@route("GET HEAD", "/lfs/([0-9a-f]{64})")
def download_object(hub: FakeHub, request: Request, sha256: str) -> Response:
    """Send an LFS object, from the byte on that is asked for."""
    content, headers = hub.uploads[sha256], {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    if match := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
        start = int(match[1])
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Response(content[start:], 206, headers | {"Content-Range": place})
    return Response(content, headers=headers)
