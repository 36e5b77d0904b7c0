"""Files with one small Wan in every form that people have, and damaged ones: written here, key by key as released."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.wan import CausalWanTransformer3DModel
from tests.tiny import widen
from weights.remap import to_original

CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 256,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}
"""The heads of a release, one of them; every row is a multiple of 32, as GGUF's blocks are."""

State = dict[str, Tensor]
_ONE = torch.ones(1)
Write = Callable[[State, Path], Path]
"""Writes tensors under diffusers' names in some form into an empty folder, and says what to load."""


def small_wan(**config: Any) -> CausalWanTransformer3DModel:
    model = CausalWanTransformer3DModel(**{**CONFIG, **config})
    widen(model, 4)
    return model.eval().requires_grad_(False)


def safetensors(
    name: str = "wan.safetensors",
    prefix: str = "",
    dtype: torch.dtype = torch.float32,
    *,
    original: bool = True,
    metadata: dict[str, str] | None = None,
) -> Write:
    def write(state: State, folder: Path) -> Path:
        spelled = to_original(state) if original else state
        save_file({prefix + k: v.to(dtype).contiguous() for k, v in spelled.items()}, str(folder / name), metadata)
        return folder / name

    return write


def pickled(
    entry: str | None = "generator",
    prefix: str = "model.",
    wrapper: str = "",
    *,
    name: str = "model.pt",
    dtype: torch.dtype = torch.float32,
    legacy: bool = False,
    **beside: Any,
) -> Write:
    def write(state: State, folder: Path) -> Path:
        inner = {}
        for key, value in to_original(state).items():
            key = prefix + key
            if wrapper:
                key = key.replace("blocks.0.", f"blocks.0.{wrapper}")
            inner[key] = value.to(dtype)
        content = inner if entry is None else {entry: inner, **beside}
        torch.save(content, folder / name, _use_new_zipfile_serialization=not legacy)
        return folder / name

    return write


def fp8(kind: torch.dtype = torch.float8_e4m3fn, prefix: str = "model.diffusion_model.") -> Write:
    """Raw: matrices of one byte without a scale, norms and biases as they were."""

    def write(state: State, folder: Path) -> Path:
        small = {k: v.to(kind) if v.ndim == 2 and "modulation" not in k else v for k, v in to_original(state).items()}
        save_file({prefix + k: v.contiguous() for k, v in small.items()}, str(folder / "wan_fp8.safetensors"))
        return folder / "wan_fp8.safetensors"

    return write


def scaled(
    ending: str = "scale_weight",
    *,
    rows: bool = False,
    column: bool = False,
    mark: bool = False,
    asides: tuple[str, ...] = (),
    form: str | None = None,
    kind: torch.dtype = torch.float8_e4m3fn,
    most: float = 448.0,
    prefix: str = "model.diffusion_model.",
) -> Write:
    def write(state: State, folder: Path) -> Path:
        out: State = {prefix + "scaled_fp8": torch.zeros(2).to(kind)} if mark else {}
        for name, value in to_original(state).items():
            if value.ndim != 2 or "modulation" in name:
                out[prefix + name] = value
                continue
            scale = value.abs().amax(1) / most if rows else value.abs().max() / most
            quantised = value / (scale[:, None] if rows else scale)
            stem = prefix + name.removesuffix(".weight")
            out[prefix + name] = quantised.round().to(kind) if kind == torch.int8 else quantised.to(kind)
            out[f"{stem}.{ending}"] = scale[:, None] if column else scale
            for aside in asides:
                out[f"{stem}.{aside}"] = torch.ones(())
            if form is not None:
                text = json.dumps({"format": form}).encode()
                out[f"{stem}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
        save_file({k: v.contiguous() for k, v in out.items()}, str(folder / "scaled.safetensors"))
        return folder / "scaled.safetensors"

    return write


def gguf(kind: str, *, five: bool = True, name: str = "wan.gguf", architecture: str = "wan") -> Write:
    """Matrices quantised, all else float32; the patch embedding with its five sides, or flat with them as a key."""

    def write(state: State, folder: Path) -> Path:
        from gguf import GGMLQuantizationType, GGUFWriter, quants

        writer = GGUFWriter(folder / name, architecture)
        writer.add_uint32("general.file_type", 1)
        writer.add_array("a.list.of.words", ["one", "two"])
        for key, value in to_original(state).items():
            array = value.numpy()
            if value.ndim == 2 and "modulation" not in key and kind not in ("F32", "F16"):
                which = GGMLQuantizationType[kind]
                writer.add_tensor(key, quants.quantize(array, which), raw_dtype=which)
            elif value.ndim == 5 and not five:
                writer.add_array(f"comfy.gguf.orig_shape.{key}", [int(side) for side in value.shape])
                writer.add_tensor(key, array.reshape(value.shape[0], -1))
            else:
                writer.add_tensor(key, array.astype(np.float16) if kind == "F16" and value.ndim > 1 else array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder / name

    return write


def diffusers_folder(*, shard: str | None = None, dtype: torch.dtype = torch.float32) -> Write:
    def write(state: State, folder: Path) -> Path:
        model = small_wan()
        model.load_state_dict(state)
        root = folder / "mine"
        model.to(dtype).save_pretrained(root / "transformer", **({} if shard is None else {"max_shard_size": shard}))
        return root

    return write


def original_folder(*, shards: bool) -> Write:
    """Wan-AI's own repository: shards with an index or one file, and a config.json of another class."""

    def write(state: State, folder: Path) -> Path:
        root = folder / "Wan2.1-T2V"
        root.mkdir()
        (root / "config.json").write_text(json.dumps({"_class_name": "WanModel", "dim": 128, "model_type": "t2v"}))
        tensors = {k: v.contiguous() for k, v in to_original(state).items()}
        if not shards:
            save_file(tensors, str(root / "diffusion_pytorch_model.safetensors"))
            return root
        names = sorted(tensors)
        parts = {f"diffusion_pytorch_model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
        for part, keys in parts.items():
            save_file({k: tensors[k] for k in keys}, str(root / part))
        index = {"weight_map": {k: part for part, keys in parts.items() for k in keys}}
        (root / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
        return root

    return write


def views(state: State, folder: Path) -> Path:
    """All tensors as parts of one flat storage, one of them transposed: what a gathered FSDP parameter looks like."""
    original = to_original(state)
    flat = torch.cat([value.reshape(-1) for value in original.values()])
    out, start = {}, 0
    for key, value in original.items():
        part = flat[start : start + value.numel()]
        out["model." + key] = part.view(value.shape)
        start += value.numel()
    key = "model.blocks.1.ffn.0.weight"
    out[key] = out[key].t().contiguous().t()
    torch.save({"generator": out}, folder / "flat.pt")
    return folder / "flat.pt"


def renamed(write: Write, name: str) -> Write:
    """The same bytes under another name: a form is told by what is inside."""
    return lambda state, folder: write(state, folder).rename(folder / name)


FORMS: dict[str, tuple[Write, float]] = {
    "diffusers folder": (diffusers_folder(), 0.0),
    "diffusers folder, shards": (diffusers_folder(shard="600KB"), 0.0),
    "diffusers folder, fp16": (diffusers_folder(dtype=torch.float16), 2e-3),
    "original folder": (original_folder(shards=False), 0.0),
    "original folder, shards": (original_folder(shards=True), 0.0),
    "original .safetensors": (safetensors(), 0.0),
    "original .safetensors, bf16": (safetensors(dtype=torch.bfloat16), 2e-2),
    "original .safetensors, fp16": (safetensors(dtype=torch.float16), 2e-3),
    "original .safetensors, fp64": (safetensors(dtype=torch.float64), 0.0),
    "diffusers names in one file": (safetensors(original=False), 0.0),
    "Self-Forcing, generator_ema": (pickled("generator_ema", step=700), 0.0),
    "Self-Forcing, generator": (pickled("generator"), 0.0),
    "Self-Forcing, compiled": (pickled("generator", "model._orig_mod."), 0.0),
    "LongLive base": (pickled("generator", dtype=torch.bfloat16), 2e-2),
    "LongLive base, model": (pickled("model"), 0.0),
    "LongLive 2, merged": (pickled(None), 0.0),
    "Rolling Forcing, EMA under FSDP": (pickled("generator_ema", "model.", "_fsdp_wrapped_module."), 0.0),
    "CausVid": (pickled("generator", "model._fsdp_wrapped_module.", "_fsdp_wrapped_module."), 0.0),
    "CausVid, checkpointed": (
        pickled("generator", "model.", "_fsdp_wrapped_module._checkpoint_wrapped_module."),
        0.0,
    ),
    "Causal-Forcing, chunk-wise": (pickled("generator_ema", critic={}), 0.0),
    "Causal-Forcing, frame-wise": (pickled("generator", "model.", name="framewise.ckpt"), 0.0),
    "DDP": (pickled("state_dict", "module.model."), 0.0),
    "flat, no prefix": (pickled(None, ""), 0.0),
    "flat, old format": (pickled(None, "", legacy=True), 0.0),
    "nested, old format": (pickled("generator", legacy=True), 0.0),
    "views of one storage": (views, 0.0),
    "ComfyUI": (safetensors(prefix="model.diffusion_model."), 0.0),
    "ComfyUI, bf16": (safetensors(prefix="model.diffusion_model.", dtype=torch.bfloat16), 2e-2),
    "ComfyUI, short prefix": (safetensors(prefix="diffusion_model."), 0.0),
    "ComfyUI, diffusers names": (safetensors(prefix="model.diffusion_model.", original=False), 0.0),
    "DiffSynth": (safetensors(prefix="pipe.dit."), 0.0),
    "with texts in the header": (safetensors(metadata={"format": "pt", "modelspec.title": "Wan"}), 0.0),
    "fp8 e4m3": (fp8(), 0.2),
    "fp8 e5m2": (fp8(torch.float8_e5m2), 0.4),
    "fp8 without prefix": (fp8(prefix=""), 0.2),
    "fp8 scaled": (scaled(mark=True), 0.2),
    "fp8 scaled, activations": (scaled(mark=True, asides=("scale_input",)), 0.2),
    "fp8 scaled, newer names": (scaled("weight_scale", asides=("input_scale",), form="float8_e4m3fn"), 0.2),
    "fp8 scaled, a row": (scaled("weight_scale", rows=True), 0.2),
    "fp8 scaled, a row as a column": (scaled("weight_scale", rows=True, column=True, prefix=""), 0.2),
    "fp8 scaled, e5m2": (scaled(mark=True, kind=torch.float8_e5m2, most=57344.0), 0.4),
    "int8, a row": (scaled("weight_scale", rows=True, kind=torch.int8, most=127.0, prefix=""), 0.05),
    "int8, tensor": (scaled("weight_scale", kind=torch.int8, most=127.0, form="int8_tensorwise"), 0.1),
    "GGUF F32": (gguf("F32"), 0.0),
    "GGUF F16": (gguf("F16"), 2e-3),
    "GGUF BF16": (gguf("BF16"), 2e-2),
    "GGUF Q8_0": (gguf("Q8_0"), 0.05),
    "GGUF Q5_1": (gguf("Q5_1"), 0.2),
    "GGUF Q5_0": (gguf("Q5_0"), 0.3),
    "GGUF Q4_1": (gguf("Q4_1"), 0.4),
    "GGUF Q4_0": (gguf("Q4_0"), 0.5),
    "GGUF, four sides at most": (gguf("Q8_0", five=False), 0.05),
    "safetensors named .pt": (renamed(safetensors(), "wan.pt"), 0.0),
    "a pickle named .bin": (renamed(pickled("generator"), "pytorch_model.bin"), 0.0),
    "a pickle named .pth": (renamed(pickled(None, ""), "wan.pth"), 0.0),
    "GGUF named .safetensors": (renamed(gguf("Q8_0"), "wan.safetensors"), 0.05),
}
"""What loads: how it is written, and the most that a number may be off by, as its type rounds."""


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def cut(write: Write, keep: float) -> Write:
    def damaged(state: State, folder: Path) -> Path:
        path = write(state, folder)
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))] if keep < 1 else data[: int(keep)])
        return path

    return damaged


def patched(write: Write, at: int, data: bytes) -> Write:
    def damaged(state: State, folder: Path) -> Path:
        path = write(state, folder)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
        return path

    return damaged


def changed(change: Callable[[State], State], write: Write | None = None) -> Write:
    """Other tensors, under diffusers' names, in an ordinary file."""
    return lambda state, folder: (write or safetensors(original=False))(change(dict(state)), folder)


def contents(data: bytes, name: str = "wan.safetensors") -> Write:
    def write(state: State, folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in names}


def plus(**more: Tensor) -> Callable[[State], State]:
    return lambda state: state | {key.replace("__", "."): value for key, value in more.items()}


def compressed(state: State, folder: Path) -> Path:
    path = pickled("generator")(state, folder)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "zipped.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return folder / "zipped.pt"


def bomb(state: State, folder: Path) -> Path:
    torch.save({"generator": {"model.x": Bomb(folder / "it ran")}}, folder / "model.pt")
    return folder / "model.pt"


def bare_bomb(state: State, folder: Path) -> Path:
    (folder / "model.pt").write_bytes(pickle.dumps(Bomb(folder / "it ran")))
    return folder / "model.pt"


def int8_alone(state: State, folder: Path) -> Path:
    save_file(state | {"proj_out.weight": torch.zeros(64, 128, dtype=torch.int8)}, str(folder / "int8.safetensors"))
    return folder / "int8.safetensors"


def lost_shard(state: State, folder: Path) -> Path:
    root = original_folder(shards=True)(state, folder)
    next(iter(sorted(root.glob("*-00002-of*")))).unlink()
    return root


def two_transformers(state: State, folder: Path) -> Path:
    for name in ("a", "b"):
        safetensors(f"{name}.safetensors")(state, folder)
    return folder


def same_twice(state: State, folder: Path) -> Path:
    root = original_folder(shards=True)(state, folder)
    first, second = sorted(root.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    return root


def two_names(state: State, folder: Path) -> Path:
    torch.save({f"model.{key}": value for key, value in state.items()} | {"proj_out.bias": _ONE}, folder / "two.pt")
    return folder / "two.pt"


def not_tensors(content: Any) -> Write:
    def write(state: State, folder: Path) -> Path:
        torch.save(content, folder / "other.pt")
        return folder / "other.pt"

    return write


def only(**tensors: Tensor) -> Write:
    """A file with these alone; `__` stands for a full stop."""
    return lambda state, folder: safetensors(original=False)(
        {k.replace("__", "."): v for k, v in tensors.items()}, folder
    )


def gguf_header(tensors: int, keys: int, body: bytes = b"") -> bytes:
    return b"GGUF" + (3).to_bytes(4, "little") + tensors.to_bytes(8, "little") + keys.to_bytes(8, "little") + body


def gguf_tensor(kind: int, sides: tuple[int, ...], offset: int = 0) -> bytes:
    name = b"patch_embedding.weight"
    told = len(name).to_bytes(8, "little") + name + len(sides).to_bytes(4, "little")
    told += b"".join(side.to_bytes(8, "little") for side in sides)
    return told + kind.to_bytes(4, "little") + offset.to_bytes(8, "little")


DAMAGED: dict[str, tuple[Write, str]] = {
    "empty": (contents(b""), "no header|0 bytes"),
    "a web page": (contents(b"<html>Access denied</html>"), "a web page"),
    "a pointer of Git LFS": (contents(b"version https://git-lfs.github.com/spec/v1\noid sha256:1"), "Git LFS"),
    "text": (contents(b"hello, this is no model at all"), "safetensors|damaged"),
    "cut in its header": (cut(safetensors(), 100), "no complete safetensors"),
    "cut in its numbers": (cut(safetensors(), 0.7), "no complete safetensors|behind its end"),
    "a header past the file": (patched(safetensors(), 0, (2**40).to_bytes(8, "little")), "longer than the file"),
    "a header of noise": (patched(safetensors(), 20, bytes(range(128, 160))), "no complete safetensors"),
    "a tensor of a tebibyte": (
        contents(header({"patch_embedding.weight": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}})),
        "behind its end",
    ),
    "a shape and no numbers": (
        contents(header({"patch_embedding.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 0]}})),
        "damaged",
    ),
    "a type nobody reads": (
        contents(header({"patch_embedding.weight": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}})),
        "as F4, which is not read",
    ),
    "a .pt cut in the middle": (cut(pickled("generator"), 0.5), "damaged or holds more than tensors"),
    "a .pt cut at its end": (cut(pickled("generator"), 0.999), "damaged or holds more than tensors"),
    "a .pt that runs code": (bomb, "was not run"),
    "a pickle that runs code": (bare_bomb, "was not run"),
    "a .pt, compressed": (compressed, "compressed"),
    "a .pt of an optimiser": (
        not_tensors({"step": 3, "lr": 0.1}),
        "no state dict under",
    ),
    "a .pt with a list": (
        not_tensors([torch.ones(1)]),
        "holds a list",
    ),
    "one name under two wrappers": (
        two_names,
        "twice once wrappers are dropped",
    ),
    "without a block's key": (changed(without("blocks.1.attn1.to_k.weight")), r"lacks blocks\.1\.attn1\.to_k\.weight"),
    "without its first block": (
        changed(lambda state: {k: v for k, v in state.items() if not k.startswith("blocks.0.")}),
        "no whole Wan transformer",
    ),
    "without its head": (changed(without("proj_out.weight")), "no whole Wan transformer.*proj_out"),
    "with a stranger": (changed(plus(blocks__0__extra__weight=_ONE)), r"unknown blocks\.0\.extra"),
    "a bias too long": (changed(plus(blocks__1__ffn__net__2__bias=torch.ones(9))), r"\[9\] where float32\[128\]"),
    "a width of no head": (
        lambda state, folder: safetensors(original=False)(small_wan(attention_head_dim=96).state_dict(), folder),
        "no multiple of the 128",
    ),
    "NaN": (changed(plus(proj_out__bias=torch.full((64,), float("nan")))), "NaN or infinite numbers in proj_out.bias"),
    "infinite": (changed(plus(proj_out__bias=torch.full((64,), float("inf")))), "NaN or infinite"),
    "image to video": (
        changed(plus(condition_embedder__image_embedder__norm1__weight=_ONE)),
        "starts from an image",
    ),
    "a fill-in model": (
        changed(plus(patch_embedding__weight=torch.zeros(128, 36, 1, 2, 2))),
        "reads 36 latent channels and makes 16",
    ),
    "VACE": (changed(plus(vace_blocks__0__after_proj__weight=_ONE)), "VACE"),
    "a scale without its weight": (
        changed(plus(blocks__7__ffn__0__scale_weight=_ONE)),
        "without the weight it scales",
    ),
    "a scale of another shape": (
        changed(plus(proj_out__weight_scale=torch.ones(7))),
        r"scales proj_out\.weight \[64, 128\] by \[7\]",
    ),
    "scales a block": (changed(plus(proj_out__weight_scale_inv=torch.ones(1, 1))), "a scale for every block"),
    "four bits by ComfyUI": (
        scaled("weight_scale", form="nvfp4"),
        "quantised as nvfp4",
    ),
    "int8 without a scale": (int8_alone, r"proj_out\.weight as int8\[64, 128\] where float32"),
    "bitsandbytes": (changed(plus(blocks__0__ffn__net__2__weight__absmax=_ONE)), "bitsandbytes"),
    "nunchaku": (changed(plus(blocks__0__ffn__net__2__wscales=_ONE)), "nunchaku"),
    "GPTQ": (changed(plus(blocks__0__ffn__net__2__qzeros=_ONE)), "GPTQ or AWQ"),
    "a pipeline in one file": (
        changed(lambda state: {f"model.diffusion_model.{k}": v for k, v in state.items()} | {"vae.encoder.x": _ONE}),
        "a whole pipeline",
    ),
    "a LoRA": (
        only(diffusion_model__blocks__0__ffn__0__lora_down__weight=_ONE),
        r"is a LoRA \(--lora takes it\)",
    ),
    "an autoencoder": (
        only(decoder__middle__0__residual__0__gamma=_ONE),
        r"is a Wan autoencoder \(--vae takes it\)",
    ),
    "a text encoder": (
        only(token_embedding__weight=_ONE),
        "is a text encoder",
    ),
    "another model": (
        only(double_blocks__0__img_attn__qkv__weight=_ONE),
        "a model is a file with a Wan transformer",
    ),
    "a lost shard": (lost_shard, "00002-of-00002.safetensors is missing|lacks"),
    "a shard twice": (same_twice, "again, as another shard does"),
    "an empty folder": (lambda state, folder: folder, "no transformer"),
    "two transformers": (
        two_transformers,
        "several transformers",
    ),
    "GGUF cut in its header": (cut(gguf("Q8_0"), 300), "no complete GGUF"),
    "GGUF cut in its numbers": (cut(gguf("Q8_0"), 0.8), "ends behind its end"),
    "GGUF of version 9": (patched(gguf("Q8_0"), 4, (9).to_bytes(4, "little")), "its version is 9"),
    "GGUF with 2^60 tensors": (contents(gguf_header(2**60, 0), "w.gguf"), "more than any model has"),
    "GGUF with 2^60 keys": (contents(gguf_header(1, 2**60), "w.gguf"), "more than any model has"),
    "GGUF with an endless text": (
        contents(gguf_header(1, 1, (2**62).to_bytes(8, "little")), "w.gguf"),
        "a text of it has",
    ),
    "GGUF with many sides": (contents(gguf_header(1, 0, gguf_tensor(0, (1,) * 9)), "w.gguf"), "9 sides"),
    "GGUF of an unknown type": (contents(gguf_header(1, 0, gguf_tensor(99, (32,))), "w.gguf"), "unknown type 99"),
    "GGUF of half a block": (contents(gguf_header(1, 0, gguf_tensor(8, (31,))), "w.gguf"), "whole number of blocks"),
    "GGUF of a tebibyte": (contents(gguf_header(1, 0, gguf_tensor(0, (2**38,))), "w.gguf"), "ends behind its end"),
    "GGUF of two bits": (
        contents(gguf_header(1, 0, gguf_tensor(16, (256, 1))) + bytes(32 + 66), "w.gguf"),
        "IQ2_XXS.*which diffusers does not read",
    ),
}
"""What is refused: how it is written, and what the sentence has to say."""
