"""The models by name, and how their weights come to this disk: from here, from the hub, or not at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from weights.catalog import MODELS, WeightSpec
from weights.fetch import fetch
from weights.find import get_model
from weights.load import CheckpointError


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_where_its_weights_are_and_under_which_licence(name: str) -> None:
    spec = get_model(name)
    assert spec.name == name
    assert {part.kind for part in spec.weights} >= {"transformer", "autoencoder", "text_encoder"}
    for part in spec.weights:
        assert part.licence
        assert part.page
        assert (part.where == "hub") == bool(part.repo)
        assert part.where != "local"


def test_weights_whose_licence_nobody_has_verified_or_that_is_narrow_ask_for_a_tick() -> None:
    reasons = ("no licence text", "academic use only", "non-commercial")
    parts = [part for spec in MODELS.values() for part in spec.weights]
    assert any(part.licence_tick for part in parts)
    assert all(part.licence_tick == any(reason in part.licence for reason in reasons) for part in parts)


def test_an_unknown_model_names_the_choices_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'longlive-1\.3b'") as error:
        get_model("longlive-1.3")
    assert all(name in str(error.value) for name in MODELS)


def test_a_local_folder_is_a_model(tmp_path: Path) -> None:
    model = tmp_path / "mine"
    (model / "transformer").mkdir(parents=True)
    (model / "transformer" / "config.json").write_text("{}")
    spec = get_model(str(model))
    assert spec.name == "mine"
    assert fetch(spec.transformer, offline=True) == model / "transformer"
    with pytest.raises(FileNotFoundError, match="autoencoder"):
        fetch(spec.autoencoder)


def test_a_file_in_place_of_a_models_folder_is_named_as_what_it_is(tmp_path: Path) -> None:
    gguf, one, empty = tmp_path / "wan-Q4.gguf", tmp_path / "wan.safetensors", tmp_path / "empty"
    gguf.write_bytes(b"GGUF" + bytes(40))
    empty.mkdir()
    header = json.dumps({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    one.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="is a single safetensors file, and a model is a file with a Wan transformer"):
        get_model(str(one))
    with pytest.raises(ValueError, match="no complete GGUF file"):
        get_model(str(gguf))
    with pytest.raises(
        ValueError, match=r"no transformer and no transformer/config\.json: give a folder with.*embedded"
    ):
        get_model(str(empty))


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, weights.catalog, weights.fetch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_offline_and_unaccepted_weights_are_not_downloaded(tmp_path: Path) -> None:
    spec = get_model("self-forcing-1.3b").transformer
    command = f"rivulet models pull self-forcing-1.3b --models_dir {tmp_path}"
    with pytest.raises(FileNotFoundError, match=f"not on this machine.*{command}"):
        fetch(spec, tmp_path, offline=True)
    with pytest.raises(PermissionError, match=f"licence.*{command} --accept_licence self-forcing-1.3b"):
        fetch(spec, tmp_path)
    place = tmp_path / spec.repo / spec.file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    assert fetch(spec, tmp_path, offline=True) == place, "what is there already needs neither network nor tick"


def test_a_component_cut_off_in_the_middle_of_its_download_is_not_taken_for_whole(tmp_path: Path) -> None:
    spec = get_model("wan-1.3b").transformer
    folder = tmp_path / spec.repo / spec.file
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / shards["a"]).touch()
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        fetch(spec, tmp_path, offline=True)
    (folder / shards["b"]).touch()
    assert fetch(spec, tmp_path, offline=True) == folder


def test_a_file_with_another_sha256_is_refused(tmp_path: Path) -> None:
    good = hashlib.sha256(b"this").hexdigest()
    spec = WeightSpec("mine", "transformer", "a.pt", "none", repo="me/mine", sha256=good)
    place = tmp_path / "me" / "mine" / "a.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="sha256") as error:
        fetch(spec, tmp_path, offline=True)
    assert str(place) in str(error.value)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as one file needs."""

    content = b"eight bytes and some more"

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(self.content)

    def answer(self, body: bytes) -> None:
        known = self.path == "/me/mine/resolve/main/a.pt"
        if self.path.startswith("/api/models/me/mine"):
            told = {"id": "me/mine", "sha": "0" * 40, "siblings": [{"rfilename": "a.pt", "size": len(self.content)}]}
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200 if known else 404)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.content) if known else 0))
        self.end_headers()
        if known:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_download_lands_in_models_dir_and_a_failed_one_is_one_sentence(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    code = (
        "import sys; from weights.catalog import WeightSpec; from weights.fetch import fetch\n"
        "print(fetch(WeightSpec('m', 'transformer', sys.argv[1], 'none', repo='me/mine'), sys.argv[2]))"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path / "home"),
    }

    def run(file: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, file, str(tmp_path / "models")]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    try:
        done, failed = run("a.pt"), run("b.pt")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert done.returncode == 0, done.stderr
    place = tmp_path / "models" / "me" / "mine" / "a.pt"
    assert done.stdout.strip() == str(place)
    assert place.read_bytes() == Hub.content
    assert failed.returncode == 1
    assert "CheckpointError: me/mine has no b.pt; look at https://huggingface.co/me/mine" in failed.stderr
    assert "0.00 of 0.00 GB" in done.stderr  # how far it is, and no bar
