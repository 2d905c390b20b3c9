"""Models on the Hugging Face hub, against a stand-in of its HTTP interface on this machine. Each command runs in a
process of its own, as the client reads HF_ENDPOINT when it is imported."""

import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from captioner import Captioner
from captioner.checkpoint.card import with_metadata
from captioner.checkpoint.hub import download, is_address, upload
from captioner.checkpoint.manifest import find_checkpoint

pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).parents[1]
SHIPPED = find_checkpoint("flickr8k")
PART = 5_000_000  # bytes of a large file that are uploaded at a time
PHOTO = ROOT / "datasets" / "sample" / "dog.jpg"


class Stored(NamedTuple):
    """A large file in the Xet store."""

    sha256: str
    size: int
    xet_hash: str


class Hub:
    """One repository, owner/name: its commits, the newest last, and the requests it was sent. Files of more than
    `largest` bytes are not part of a commit but uploaded before it. A client without Xet uploads them by the protocol
    of Git LFS, in parts if they are larger than `PART`; on the way back the hub sends the client elsewhere for them. A
    client with Xet asks for a token and puts them into `store` itself, a folder that stands for the Xet servers, and
    takes them from there. `refused` are requests, by part of their path, that are answered with an error: status,
    code, message."""

    def __init__(self, store: Path):
        self.store = store
        self.commits: list[dict[str, bytes | Stored]] = []
        self.requests: list[str] = []
        self.largest = 10**9
        self.uploads: dict[str, list[bytes]] = {}  # by SHA-256: parts
        self.full = False
        self.refused: dict[str, tuple[int, str, str]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.get(self)

            do_HEAD = do_GET

            def do_POST(self):
                hub.post(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_PUT(self):
                hub.put(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.elsewhere = f"http://localhost:{self.server.server_port}"  # another host, to the client
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def sha(self, number):
        return f"{number:040x}"

    def find(self, revision):
        """The number of a commit, by branch or hash."""
        names = {self.sha(number): number for number in range(len(self.commits))}
        return len(self.commits) - 1 if revision == "main" else names.get(revision)

    def refuses(self, request, path):
        """Whether the request was answered with an error."""
        self.requests.append(path)
        for part, (status, code, message) in self.refused.items():
            if part in path:
                answer(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})
                return True
        return False

    def get(self, request):
        path = request.path.partition("?")[0]
        if self.refuses(request, path):
            return
        if path.startswith("/large/"):
            return answer(request, 200, b"".join(self.uploads[path.removeprefix("/large/")]), {})
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/owner/name/xet-"):
            return answer_token(request, f"local://{self.store}")
        if "owner/name" not in path or not self.commits:
            return answer(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if parts[0] == "api" and len(parts) == 4:
            parts += ["revision", "main"]
        kind, revision = (parts[4], parts[5]) if parts[0] == "api" else (parts[2], parts[3])
        number = self.find(revision)
        if number is None:
            return answer(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files, sha = self.commits[number], self.sha(number)
        if kind == "revision":
            entries = [{"rfilename": name} for name in files]
            return answer_json(request, {"id": "owner/name", "modelId": "owner/name", "sha": sha, "siblings": entries})
        if kind == "tree":
            return answer_json(request, [self.entry(*file) for file in files.items()])
        assert kind == "resolve"
        content = files[parts[4]]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{self.entry(parts[4], content)["oid"]}"'}
        if large := self.entry(parts[4], content).get("lfs"):
            headers |= {"X-Linked-ETag": f'"{large["oid"]}"', "X-Linked-Size": str(large["size"])}
            if isinstance(content, Stored):
                token = f"{self.url}/api/models/owner/name/xet-read-token/{sha}"
                headers |= {"X-Xet-Hash": content.xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
            return answer(request, 302, b"", headers | {"Location": f"{self.elsewhere}/large/{large['oid']}"})
        return answer(request, 200, content, headers)

    def entry(self, name, content):
        """A file in the list of the repository's files."""
        if isinstance(content, Stored):
            known = {"lfs": {"oid": content.sha256, "size": content.size}, "xetHash": content.xet_hash}
        elif len(content) > self.largest:
            known = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}}
        else:
            return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        pointer = json.dumps(known).encode()  # what Git has of it
        known["lfs"]["pointerSize"] = len(pointer)
        oid = hashlib.sha1(pointer).hexdigest()
        return {"type": "file", "path": name, "size": known["lfs"]["size"], "oid": oid, **known}

    def post(self, request, body):
        path = request.path.partition("?")[0]
        if self.refuses(request, path):
            return
        if path == "/api/repos/create":
            made = {"url": f"{self.url}/owner/name", "name": "owner/name"}
            return answer_json(request, made, status=409 if self.commits else 200)
        if path == "/api/validate-yaml":
            return answer_json(request, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            sizes = {each["path"]: each["size"] for each in json.loads(body)["files"]}
            modes = {name: "lfs" if size > self.largest else "regular" for name, size in sizes.items()}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return answer_json(request, {"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            if "xet" in json.loads(body)["transfers"]:  # older clients ask which protocol to take
                return answer_json(request, {"transfer": "xet", "objects": json.loads(body)["objects"]})
            return answer_json(request, {"objects": [self.lfs(each) for each in json.loads(body)["objects"]]})
        if path.startswith("/large/"):  # all parts are there
            return answer_json(request, {})
        assert path == "/api/models/owner/name/commit/main"
        entries = [json.loads(line) for line in body.splitlines()]
        files = {e["value"]["path"]: base64.b64decode(e["value"]["content"]) for e in entries if e["key"] == "file"}
        for large in (e["value"] for e in entries if e["key"] == "lfsFile"):
            if large["oid"] in self.uploads:
                files[large["path"]] = content = b"".join(self.uploads[large["oid"]])
                assert hashlib.sha256(content).hexdigest() == large["oid"]
            else:
                files[large["path"]] = Stored(large["oid"], large["size"], xet_hashes(self.store)[large["oid"]])
        self.commits.append(files)
        sha = self.sha(len(self.commits) - 1)
        return answer_json(request, {"commitUrl": f"{self.url}/owner/name/commit/{sha}", "commitOid": sha})

    def lfs(self, wanted):
        """Where an object is to be put."""
        oid, size = wanted["oid"], wanted["size"]
        if self.full:
            return wanted | {"error": {"code": 403, "message": "Private storage limit reached."}}
        address = f"{self.url}/large/{oid}"
        parts = [f"{address}/{n}" for n in range(-(-size // PART))]
        self.uploads[oid] = [b""] * len(parts)
        if len(parts) == 1:
            return wanted | {"actions": {"upload": {"href": parts[0]}}}
        header = {"chunk_size": str(PART), **{str(n): part for n, part in enumerate(parts, 1)}}
        return wanted | {"actions": {"upload": {"href": address, "header": header}}}

    def put(self, request, body):
        oid, number = request.path.split("/")[2:]
        self.uploads[oid][int(number)] = body
        return answer(request, 200, b"", {"ETag": f'"{number}"'})


def answer(request, status, content, headers):
    request.send_response(status)
    for name, value in (headers | {"Content-Length": str(len(content))}).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


def answer_json(request, content, status=200):
    answer(request, status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def answer_token(request, store):
    """What the client needs to reach the Xet servers: as JSON for hf_xet, as headers for huggingface_hub."""
    end = int(time.time()) + 3600
    content = json.dumps({"casUrl": store, "accessToken": "xet", "exp": end}).encode()
    headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(end)}
    answer(request, 200, content, headers | {"Content-Type": "application/json"})


def xet_hashes(store: Path) -> dict[str, str]:
    """The Xet hashes of the files in a store, by SHA-256, from its shards: https://huggingface.co/docs/xet/shard"""
    hashes = {}
    for shard in store.rglob("shards/*.mdb"):
        content = shard.read_bytes()
        records = iter(content[start : start + 48] for start in range(48, len(content), 48))
        for head in records:
            if head[:32] == b"\xff" * 32:  # the end of the files
                break
            flags, segments = struct.unpack("<II", head[32:40])
            *_, last = islice(records, segments * (1 + (flags >> 31)) + 1)  # where its bytes are, how to verify them
            sha256, xet_hash = ("".join(f"{n:016x}" for n in struct.unpack("<4Q", each[:32])) for each in (last, head))
            hashes[sha256] = xet_hash
    return hashes


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path / "store")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def captioner(hub, tmp_path):
    """Runs the command line, whose hub is the stand-in; returns status, standard output, the last line of errors."""

    def run(*arguments, **environment):
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_x", "PYTHONPATH": str(ROOT)}
        own["NO_PROXY"] = "127.0.0.1,localhost"
        process = subprocess.run(
            [sys.executable, "-m", "captioner", *map(str, arguments)],
            env={**os.environ, **own, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
            capture_output=True,
            text=True,
        )
        lines = process.stderr.strip().splitlines()
        return process.returncode, process.stdout, lines[-1] if lines else ""

    return run


def test_what_is_pushed_is_loaded(hub, captioner, tmp_path):
    copy = shutil.copytree(SHIPPED, tmp_path / "model")
    (copy / "train.py").write_text("raise SystemExit\n")
    assert captioner("push", copy, "owner/name") == (0, "hf://owner/name\n", "")
    files = {"README.md", "config.json", "model.safetensors", "photo.onnx", "word.onnx"}
    assert set(hub.commits[0]) == files | {"attention.jpg"}  # the card shows a picture
    assert hub.commits[0]["model.safetensors"] == (SHIPPED / "model.safetensors").read_bytes()

    hub.commits[0]["modeling.py"] = hub.commits[0]["run.sh"] = b"exit 1\n"
    expected = f"{PHOTO}: {Captioner.load(SHIPPED).caption(PHOTO).text}\n"
    line = ("caption", PHOTO, "--backend", "onnx", "--checkpoint")
    assert captioner(*line, "hf://owner/name") == (0, expected, "")
    fetched = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert fetched == files
    assert not list((tmp_path / "home").rglob("*.py")) and not list((tmp_path / "home").rglob("*.sh"))

    before = len(hub.requests)  # from the cache, without a network
    assert captioner(*line, "hf://owner/name", HF_HUB_OFFLINE="1")[:2] == (0, expected)
    assert captioner(*line, f"hf://owner/name@{hub.sha(0)}", HF_HUB_OFFLINE="1")[:2] == (0, expected)
    assert len(hub.requests) == before

    hub.commits.append(hub.commits[0] | {"model.safetensors": bytes(len(hub.commits[0]["model.safetensors"]))})
    status, out, err = captioner(*line, "hf://owner/name")
    assert (status, out) == (2, "") and "model.safetensors is damaged or belongs to another checkpoint" in err
    assert captioner(*line, f"hf://owner/name@{hub.sha(0)}")[:2] == (0, expected)


@pytest.mark.parametrize(
    ("address", "environment", "message"),
    [
        ("hf://other/name", {}, "hf://other/name does not exist or is private. Check its name, or log in"),
        ("hf://owner/name@v2", {}, "hf://owner/name@v2 does not exist: the repository has no such revision."),
        ("hf://owner/name", {}, "hf://owner/name is not a model of captioner: it has none of config.json,"),
        (
            "hf://owner/name",
            {"HF_HUB_OFFLINE": "1"},
            "hf://owner/name is not in the cache, and the hub does not answer",
        ),
        ("hf://owner", {}, "'hf:/owner' is not an address of the hub; expected hf://owner/name[@revision]."),
    ],
)
def test_what_the_hub_has_not(hub, captioner, address, environment, message):
    hub.commits.append({"weights.bin": b"1"})
    status, out, err = captioner("caption", PHOTO, "--checkpoint", address, **environment)
    assert (status, out) == (2, "") and message in err


@pytest.mark.parametrize(
    ("verb", "paths", "refusal", "message"),
    [
        ("caption", "/resolve/ /xet-", (403, "GatedRepo", "You are not in the authorized list."), " is gated. Ask for"),
        ("caption", "/xet-", (401, "GatedRepo", "Please log in."), " is gated. Ask for"),
        ("caption", "/", (401, "RepoNotFound", "Invalid username or password."), " does not exist or is private."),
        ("caption", "/", (401, "", "Invalid credentials in Authorization header"), "header). Log in with a token that"),
        ("caption", "/", (503, "", "Service Unavailable"), " is not in the cache, and the hub does not answer."),
        ("push", "/preupload/", (403, "", "Forbidden: pass `create_pr=1`"), "permissions.). Log in with a token that"),
        ("push", "/commit/", (429, "", "Too many requests"), ": the transfer failed ("),
    ],
)
def test_what_the_hub_refuses(hub, captioner, verb, paths, refusal, message):
    hub.commits.append({"config.json": b"{}", "model.safetensors": Stored("0" * 64, 9, "0" * 64)})
    hub.refused = dict.fromkeys(paths.split(), refusal)
    rest = (SHIPPED, "owner/name") if verb == "push" else (PHOTO, "--checkpoint", "hf://owner/name")
    status, out, err = captioner(verb, *rest)
    assert (status, out) == (2, "") and err.startswith("captioner: hf://owner/name") and message in err
    assert len(hub.commits) == 1


def test_large_files_are_uploaded_before_the_commit(hub, captioner, tmp_path):
    """By Git LFS; and they are loaded with or without Xet."""
    hub.largest = 200_000
    lfs = {"HF_HUB_DISABLE_XET": "1"}
    assert captioner("push", SHIPPED, "owner/name", **lfs) == (0, "hf://owner/name\n", "")
    assert sorted(map(len, hub.uploads.values())) == [1, 1, 3]  # the photo graph, a picture, the weights
    for name, content in hub.commits[0].items():
        assert name == "README.md" or content == (SHIPPED / name).read_bytes()
    line = ("caption", PHOTO, "--backend", "onnx", "--checkpoint", "hf://owner/name")
    expected = f"{PHOTO}: {Captioner.load(SHIPPED).caption(PHOTO).text}\n"
    for home, environment in (("with", {}), ("without", lfs)):
        hub.requests.clear()
        assert captioner(*line, HF_HOME=str(tmp_path / home), **environment)[:2] == (0, expected)
        assert any(path.startswith("/large/") for path in hub.requests)


def test_large_files_go_through_xet(hub, captioner, tmp_path):
    """As the hub's client transfers them unless it is told otherwise."""
    pytest.importorskip("hf_xet")
    hub.largest = 200_000
    assert captioner("push", SHIPPED, "owner/name") == (0, "hf://owner/name\n", "")
    large = {name: content for name, content in hub.commits[0].items() if isinstance(content, Stored)}
    assert set(large) == {"model.safetensors", "photo.onnx", "attention.jpg"} and not hub.uploads
    for name, content in large.items():
        assert content.sha256 == hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest()
    expected = f"{PHOTO}: {Captioner.load(SHIPPED).caption(PHOTO).text}\n"
    line = ("caption", PHOTO, "--backend", "onnx", "--checkpoint", "hf://owner/name")
    assert captioner(*line) == (0, expected, "")
    assert captioner(*line, HF_HUB_OFFLINE="1") == (0, expected, "")
    assert any("/xet-write-token/" in path for path in hub.requests)
    assert any("/xet-read-token/" in path for path in hub.requests)
    assert not any(path.startswith("/large/") for path in hub.requests)


def test_a_full_store_is_told_in_one_line(hub, captioner):
    hub.largest, hub.full = 1_000_000, True
    status, _, err = captioner("push", SHIPPED, "owner/name", HF_HUB_DISABLE_XET="1")
    assert status == 2 and "hf://owner/name: the transfer failed (" in err and "storage limit reached" in err
    assert hub.commits == []


def test_a_damaged_model_is_not_pushed(hub, captioner, tmp_path):
    copy = shutil.copytree(SHIPPED, tmp_path / "model")
    (copy / "word.onnx").write_bytes(bytes((copy / "word.onnx").stat().st_size))
    status, _, err = captioner("push", copy, "owner/name")
    assert status == 2 and "word.onnx is damaged" in err and hub.requests == []


def test_a_copy_in_the_cache_is_not_changed(hub, captioner, tmp_path):
    for line in (("export", "hf://owner/name"), ("calibrate", "hf://owner/name", "--data", tmp_path)):
        status, _, err = captioner(*line)
        assert status == 2 and "a model on the Hub cannot be changed here. Download it first" in err
    assert hub.requests == []


def test_a_shipped_model_is_not_changed_by_its_name(captioner, tmp_path):
    for line in (("export", "everyday"), ("calibrate", "everyday", "--data", tmp_path)):
        status, _, err = captioner(*line)
        assert status == 2 and "everyday is a shipped model, which cannot be changed. Copy " in err


def test_addresses():
    assert is_address("hf://a/b") and is_address(Path("hf://a/b")) and not is_address("hf/a/b")
    for wrong in ("hf://a", "hf://a/b/c", "hf://a/b@", "hf://../b?x"):
        with pytest.raises(ValueError, match="is not an address of the hub"):
            download(wrong, ["config.json"])
    with pytest.raises(ValueError, match="'name' is not a repository; expected owner/name"):
        upload("name", {}, "")


def test_the_metadata_of_a_card():
    saved = json.loads((SHIPPED / "config.json").read_text())
    card = with_metadata("# card\n", saved)
    shipped = (SHIPPED / "README.md").read_text().split("---\n")[1]
    assert card == f"---\n{shipped.replace('license: other', 'license: unknown')}---\n\n# card\n"
    assert with_metadata(card, saved) == card
    assert "pipeline_tag: text-generation" in with_metadata("# card\n", {"kind": "language model"})
