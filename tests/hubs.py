"""A hub on this machine, which speaks what huggingface_hub asks of one: listings, downloads, commits, large files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

LARGE = (".weights", ".npy", ".npz")  # in large storage, as .gitattributes would have it
REPO = r"/(?P<repo>[^/]+/[^/]+)"
Tree = dict[str, bytes]


@dataclass
class Repository:
    """Commits in order; ``state`` is an error code with which everything is refused."""

    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    state: str = ""
    private: bool = False

    def commit(self, tree: Tree, branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(tree)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = dict(tree), sha
        return sha


class Hub(ThreadingHTTPServer):
    """Attributes:
    asked: methods and paths, in order.
    sent: content in place of a file's own, by path, that the listing does not tell of.
    cut: how often a file's transfer ends half way, by path.
    refusals: status and message by the end of a path (e.g. ``/create``) after that many answers.
    slow: seconds that a file's content takes, by name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.sent: Tree = {}
        self.cut: dict[str, int] = {}
        self.refusals: dict[str, tuple[int, str, int]] = {}
        self.slow: dict[str, float] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are none."""

    def add(self, name: str, folder: Path, inside: str = "") -> str:
        """A repository with a folder's files; its commit."""
        repository = self.repositories.setdefault(name, Repository())
        return repository.commit({inside + path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._dispatch()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.body = self._body()
        self.server.asked.append(f"{self.command} {unquote(url.path)}")
        for end, (status, text, after) in self.server.refusals.items():
            if url.path.endswith(end):
                if after <= 0:
                    self._refuse(status, "", text)
                    return
                self.server.refusals[end] = status, text, after - 1
        routes = {
            rf"HEAD|GET {REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": self._resolve,
            r"GET /large/(?P<sha>\w+)/(?P<path>.+)": self._large,
            rf"POST /api/models{REPO}/paths-info/(?P<revision>[^/]+)": self._paths_info,
            rf"GET /api/models{REPO}": self._info,
            rf"GET /api/models{REPO}/revision/(?P<revision>[^/]+)": self._info,
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": lambda: self._json({}),
            rf"POST /api/models{REPO}/branch/(?P<revision>[^/]+)": self._branch,
            rf"POST /api/models{REPO}/preupload/(?P<revision>[^/]+)": self._preupload,
            rf"POST {REPO}\.git/info/lfs/objects/batch": self._batch,
            r"PUT /large/(?P<sha>\w+)": self._put,
            rf"POST /api/models{REPO}/commit/(?P<revision>[^/]+)": self._commit,
        }
        for pattern, answer in routes.items():
            methods, _, path = pattern.partition(" ")
            found = re.fullmatch(path, url.path)
            if found and self.command in methods.split("|"):
                answer(**{name: unquote(value) for name, value in found.groupdict().items()})  # type: ignore[operator]
                return
        self._refuse(404, "", f"no {self.path} here")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _tree(self, repo: str, revision: str) -> tuple[str, Tree] | None:
        """The commit, or an answer has been given."""
        repository = self.server.repositories.get(repo)
        if repository is None or repository.state:
            code = repository.state if repository else "RepoNotFound"
            self._refuse(403 if code == "GatedRepo" else 404, code, "refused")
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound", "no such revision")
            return None
        return commit, repository.commits[commit]

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if not (found := self._tree(repo, revision)):
            return
        commit, tree = found
        if path not in tree:
            self._refuse(404, "EntryNotFound", "no such file", {"X-Repo-Commit": commit})
            return
        data, headers = tree[path], {"X-Repo-Commit": commit}
        if path.endswith(LARGE):
            sha = hashlib.sha256(data).hexdigest()
            self.server.blobs[sha] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha}"'}
            self._answer(302, b"", {**headers, "Location": f"http://localhost:{self.server.server_port}/large/{sha}/{path}"})
        else:
            self._data(data, path, {**headers, "ETag": f'"{git_sha(data)}"'})

    def _large(self, sha: str, path: str) -> None:
        self._data(self.server.blobs[sha], path, {})

    def _data(self, data: bytes, path: str, headers: dict[str, str]) -> None:
        if self.command == "GET":
            data = self.server.sent.get(path, data)
        status, begin = 200, 0
        if given := self.headers.get("Range"):
            status, begin = 206, int(given.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        cut = self.command == "GET" and self.server.cut.get(path, 0) > 0
        if cut:
            self.server.cut[path] -= 1
            self.close_connection = True
        self._answer(status, data[begin:], headers, half=cut)

    def _paths_info(self, repo: str, revision: str) -> None:
        if found := self._tree(repo, revision):
            paths = parse_qs(self.body.decode())["paths"]
            self._json([listed(path, found[1][path]) for path in paths if path in found[1]])

    def _info(self, repo: str, revision: str = "main") -> None:
        if found := self._tree(repo, revision):
            names = [{"rfilename": name} for name in found[1]]
            private = self.server.repositories[repo].private
            self._json({"id": repo, "sha": found[0], "siblings": names, "private": private, "tags": [], "downloads": 0})

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization')}/{asked['name']}"
        repository = self.server.repositories.setdefault(name, Repository())
        repository.private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repository.commit({".gitattributes": b"*.weights filter=lfs\n"})
        self._json({"url": f"{self.server.url}/{name}"})

    def _branch(self, repo: str, revision: str) -> None:
        branches = self.server.repositories[repo].branches
        branches[revision] = branches["main"]
        self._json({})

    def _preupload(self, repo: str, revision: str) -> None:
        if found := self._tree(repo, revision):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": oid(file["path"], found[1].get(file["path"])),
                }
                for file in json.loads(self.body)["files"]
            ]
            self._json({"files": modes})

    def _batch(self, repo: str) -> None:
        objects = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.server.blobs:
                one["actions"] = {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, sha: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == sha
        self.server.blobs[sha] = self.body
        self._answer(200, b"", {})

    def _commit(self, repo: str, revision: str) -> None:
        if not (found := self._tree(repo, revision)):
            return
        head, tree = found[0], dict(found[1])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", head) != head:
                self._refuse(412, "", "the branch has moved")
                return
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                tree[value["path"]] = self.server.blobs[value["oid"]]
            if line["key"] == "deletedFile":
                del tree[value["path"]]
        commit = self.server.repositories[repo].commit(tree, revision)
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, text: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": text, **(headers or {})})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], half: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            time.sleep(self.server.slow.get(urlsplit(self.path).path.rpartition("/")[2], 0.0))
            with suppress(ConnectionError):
                self.wfile.write(data[: len(data) // 2] if half else data)


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def oid(path: str, data: bytes | None) -> str | None:
    if data is None:
        return None
    return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else git_sha(data)


def listed(path: str, data: bytes) -> dict[str, Any]:
    one = {"type": "file", "path": path, "size": len(data), "oid": git_sha(data)}
    if path.endswith(LARGE):
        one["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return one


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub of this test, with a cache of its own; the client has read its settings long before."""
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    yield server
    server.shutdown()
    server.server_close()
