"""Downloads from a hub on this machine: whole and checked, on from where a cut one ended, or not at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from app.cli.main import main
from weights import hub as hub_module
from weights.catalog import MODELS, ModelSpec, WeightSpec
from weights.fetch import fetch
from weights.hub import HuggingFace, RemoteFile, must_have_room, pull, pull_line, wanted
from weights.plain_files import CheckpointError
from weights.store import verify

BIG = save({"x": torch.arange(60_000, dtype=torch.float32)})
FILES = {
    "base.pt": BIG,
    "vae/config.json": b"{}",
    "vae/model.safetensors": save({"y": torch.ones(3)}),
    "README.md": b"hi",
}
BASE = WeightSpec("base", "transformer", "base.pt", "narrow, non-commercial", repo="me/mine", licence_tick=True)
VAE = WeightSpec("vae", "autoencoder", "vae", "free", repo="me/mine")


class Local(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a download needs: metadata, files, ranges, and a wire that can be cut."""

    cut_after: int | None = None
    lies = False
    ranges: list[str]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        kind = type(self)
        kind.asked.append(self.path)
        if self.path.startswith("/api/models/me/mine"):
            siblings = [
                {"rfilename": name, "size": len(data), "lfs": kind.lfs_of(name)} for name, data in FILES.items()
            ]
            return self.send(200, json.dumps({"id": "me/mine", "sha": "0" * 40, "siblings": siblings}).encode(), True)
        data = FILES.get(self.path.removeprefix("/me/mine/resolve/main/"))
        if data is None:
            return self.send(404, b"", with_body)
        begin = 0
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(found[1])
            kind.ranges.append(self.headers["Range"])
        return self.send(206 if begin else 200, data[begin:], with_body, begin=begin, whole=len(data))

    def send(self, code: int, body: bytes, with_body: bool, *, begin: int = 0, whole: int = 0) -> None:
        self.send_response(code)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(body)))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
        self.end_headers()
        if not with_body:
            return
        cut = type(self).cut_after
        if cut is not None and len(body) > cut:
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)

    @classmethod
    def lfs_of(cls, name: str) -> dict[str, Any]:
        return {"sha256": cls.sha_of(name), "size": len(FILES[name]), "pointerSize": 100}

    @classmethod
    def sha_of(cls, name: str) -> str:
        return hashlib.sha256(b"other" if cls.lies and name == "base.pt" else FILES[name]).hexdigest()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[type[Local], HuggingFace]]:
    """A hub of its own at an address of this machine, which huggingface_hub may ask."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # it keeps whole pieces of this size of what was cut
    sleeping = getattr(file_download, "time", None)
    if sleeping is not None:
        monkeypatch.setattr(sleeping, "sleep", lambda seconds: None)
    handler = type("OneHub", (Local,), {"ranges": [], "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield handler, HuggingFace(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_pull_brings_a_file_and_a_folder_with_progress_and_checksums(
    local: tuple[type[Local], HuggingFace], tmp_path: Path
) -> None:
    handler, hub = local
    told: list[tuple[str, int, int, float]] = []
    place = pull(BASE, tmp_path / "models", hub, licence_accepted=True, report=lambda *each: told.append(each))
    assert place.read_bytes() == BIG
    assert told[-1][:3] == ("base.pt", len(BIG), len(BIG))
    assert verify(BASE, tmp_path / "models").sound is True
    folder = pull(VAE, tmp_path / "models", hub, licence_accepted=False)
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}, "only what it consists of"
    handler.asked.clear()
    assert pull(BASE, tmp_path / "models", hub, licence_accepted=False) == place
    assert fetch(VAE, tmp_path / "models", offline=True) == folder
    assert handler.asked == [], "what is here is not asked for"
    place.write_bytes(BIG[:-1] + b"x")
    assert verify(BASE, tmp_path / "models").sound is False


def test_a_cut_download_goes_on_where_it_ended(local: tuple[type[Local], HuggingFace], tmp_path: Path) -> None:
    handler, hub = local
    handler.cut_after = 50_000
    with pytest.raises(FileNotFoundError, match=r"could not be fetched.*what came so far stays") as error:
        pull(BASE, tmp_path / "models", Failing(hub, handler), licence_accepted=True)
    assert "\n" not in str(error.value)
    assert fetch_here(tmp_path) is None
    (part,) = (tmp_path / "models" / "me" / "mine").glob(".*.part")
    assert BIG.startswith(part.read_bytes())
    handler.cut_after = None
    handler.ranges.clear()
    assert pull(BASE, tmp_path / "models", hub, licence_accepted=True).read_bytes() == BIG
    assert [int(each.removeprefix("bytes=").removesuffix("-")) for each in handler.ranges] == [50_000 // 4096 * 4096]
    assert [path.name for path in (tmp_path / "models" / "me" / "mine").iterdir() if path.is_file()] == ["base.pt"]


def test_without_a_folder_of_its_own_a_pull_lands_in_the_cache_of_huggingface_hub(
    local: tuple[type[Local], HuggingFace], tmp_path: Path
) -> None:
    _, hub = local
    place = pull(BASE, None, hub, licence_accepted=True)
    assert place.is_relative_to(tmp_path / "cache")
    assert place.read_bytes() == BIG


class Failing:
    """The hub, whose wire stays cut: what huggingface_hub tries again by itself fails as well."""

    def __init__(self, hub: HuggingFace, handler: type[Local]) -> None:
        self.hub, self.handler = hub, handler

    def files(self, repo: str) -> Any:
        return self.hub.files(repo)

    def fetch(self, repo: str, path: str, folder: Path | None, report: Any) -> Path:
        self.handler.cut_after = 50_000
        original = Local.send

        def once(request: Any, code: int, body: bytes, with_body: bool, **more: Any) -> None:
            if more.get("begin"):
                return original(request, 503, b"", with_body)
            return original(request, code, body, with_body, **more)

        self.handler.send = once
        try:
            return self.hub.fetch(repo, path, folder, report)
        finally:
            self.handler.send = original


def fetch_here(root: Path) -> Path | None:
    from weights.here import here

    return here(BASE, root / "models")


def test_a_file_with_other_bytes_than_the_hub_says_is_thrown_away(
    local: tuple[type[Local], HuggingFace], tmp_path: Path
) -> None:
    handler, hub = local
    handler.lies = True
    with pytest.raises(CheckpointError, match=r"came with other bytes.*thrown away"):
        pull(BASE, tmp_path / "models", hub, licence_accepted=True)
    assert fetch_here(tmp_path) is None


def test_nothing_is_fetched_without_a_licence_or_onto_a_full_disk(
    local: tuple[type[Local], HuggingFace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, hub = local
    with pytest.raises(PermissionError, match=r"non-commercial.*--accept_licence base"):
        pull(BASE, tmp_path / "models", hub, licence_accepted=False)
    assert handler.asked == []
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**28 + 10})())
    with pytest.raises(CheckpointError, match=r"needs .* GB on the disk.*--models_dir"):
        pull(BASE, tmp_path / "models", hub, licence_accepted=True)
    assert not (tmp_path / "models").exists()
    must_have_room("small", [RemoteFile("a", 5, None)], tmp_path)
    with pytest.raises(CheckpointError, match=r"me/mine has no nothing\.pt"):
        wanted(WeightSpec("n", "transformer", "nothing.pt", "", repo="me/mine"), hub.files("me/mine"))


def test_the_line_of_huggingface_hub_fetches_the_same(tmp_path: Path) -> None:
    assert pull_line(BASE, None) == "hf download me/mine base.pt"
    assert pull_line(VAE, Path("/m"), "http://mirror") == (
        "HF_ENDPOINT=http://mirror hf download me/mine --include 'vae/*' --local-dir /m/me/mine"
    )


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    spec = ModelSpec("mine", "for tests", BASE, VAE, WeightSpec("text", "text_encoder", "vae", "free", repo="me/mine"))
    monkeypatch.setitem(MODELS, "mine", spec)
    return spec


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_model_is_pulled_listed_verified_and_removed_by_its_name(
    local: tuple[type[Local], HuggingFace], mine: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, hub = local
    where = ["--models_dir", str(tmp_path / "models")]
    pulled = ["models", "pull", "mine", "--endpoint", str(hub.endpoint), *where]
    assert main(pulled) == 2
    assert "base: narrow, non-commercial" in capsys.readouterr().err
    assert main([*pulled, "--dry_run"]) == 0
    assert not (tmp_path / "models").exists()
    capsys.readouterr()
    assert main([*pulled, "--accept_licence", "mine"]) == 0
    told = capsys.readouterr().out
    assert "base: 0.2 MB from https://huggingface.co/me/mine" in told
    assert "base.pt: 0.2 MB of 0.2 MB" in told
    assert main(["models", "list", "--json", *where]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "mine")
    assert (row["state"], row["licence_tick"]) == ("here", True)
    assert main(["models", "verify", "mine", *where]) == 0
    assert "proven: base" in capsys.readouterr().out
    (tmp_path / "models" / "me" / "mine" / "base.pt").write_bytes(b"damaged")
    assert main(["models", "verify", "mine", *where]) == 1
    assert "WRONG: base" in capsys.readouterr().out
    assert main(["models", "remove", "mine", *where]) == 2
    assert (tmp_path / "models" / "me" / "mine" / "base.pt").exists()
    assert main(["models", "remove", "mine", "--yes", *where]) == 0
    assert not (tmp_path / "models" / "me" / "mine" / "base.pt").exists()
    assert not (tmp_path / "models" / "me" / "mine" / "vae").exists()


def test_what_needs_no_network_asks_none(
    no_network: None, mine: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--models_dir", str(tmp_path / "models"), "--offline"]
    for command in (["list"], ["show", "mine"], ["path", "mine"], ["path"], ["verify"], []):
        assert main(["models", *command, *(where if command else [])]) == 0, command
    assert "hf download me/mine base.pt" in capsys.readouterr().out
    assert main(["models", "pull", "mine", *where]) == 2
    assert main(["render", "a fox", "--model", "mine", "-o", str(tmp_path / "f.mp4"), *where]) == 2
    assert "not on this machine" in capsys.readouterr().err


def test_a_file_that_came_another_way_is_put_where_its_model_looks(
    mine: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick, models = tmp_path / "any name.safetensors", tmp_path / "models"
    stick.write_bytes(save({"model.patch_embedding.weight": torch.ones(2, 2)}))
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(save({"blocks.0.lora_A.weight": torch.ones(2)}))
    assert main(["models", "import", str(stick), "--as", "mine"]) == 2
    assert "--models_dir" in capsys.readouterr().err
    assert main(["models", "import", str(stick), "--as", "mine", "--models_dir", str(models)]) == 0
    assert fetch(BASE, models, offline=True).read_bytes() == stick.read_bytes()
    assert main(["models", "import", str(stick), "--as", "mine", "--models_dir", str(models)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["models", "import", str(wrong), "--as", "mine", "--models_dir", str(models)]) == 2
    assert "a lora, which mine does not take" in capsys.readouterr().err
    assert [path.name for path in (models / "me" / "mine").iterdir()] == ["base.pt"], "nothing half-written"
