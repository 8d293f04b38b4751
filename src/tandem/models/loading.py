"""Where a model's weights come from: safetensors as they are, GGUF converted once, anything else refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tandem.artifacts.manifest import sha256_file
from tandem.artifacts.uris import cache_path, cached, resolve
from tandem.config.light_imports import skip_scipy
from tandem.errors import ModelError, NotFoundError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def model_path(uri: str, *, storage: Path) -> Path:
    """A folder that transformers and vLLM can load: config, safetensors and tokenizer.

    A GGUF file is de-quantised to float32 safetensors, once, into the cache.

    Args:
        uri: See `tandem.artifacts.uris`.
        storage: Where `artifact:` URIs are looked up.

    Raises:
        ModelError: There are no weights, or only pickled ones.
        NotFoundError, InputError, UnreachableError: From resolving the URI.
    """
    path = resolve(uri, storage=storage)
    if path.is_file() and path.suffix == ".gguf":
        return _converted(path)
    if path.is_file():
        raise ModelError(
            "a file that isn't a model", where=str(path), remedy="give a folder with safetensors, or a .gguf file"
        )
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        raise ModelError(
            "an adapter, not a base model" if adapter else "no config.json here",
            where=str(path),
            remedy="name the base model as `model`" if adapter else "give the folder of a transformers model",
        )
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        raise ModelError(
            f"only pickled weights ({pickled[0]}), which can run code when loaded"
            if pickled
            else "a model without weights",
            where=str(path),
            remedy="convert it to safetensors" if pickled else "give a folder with *.safetensors",
        )
    return path


def model_path_here(uri: str, *, storage: Path) -> Path | None:
    """As `model_path`, without any download or conversion: None for what isn't on this machine."""
    try:
        path = cached(uri, storage=storage)
    except NotFoundError:
        return None
    if path is not None and path.suffix == ".gguf":
        path = converted_path(path)
    return path if path is not None and (path / "config.json").is_file() else None


def adapter_path(uri: str, *, storage: Path) -> Path:
    """A folder with a PEFT adapter in safetensors.

    Raises:
        ModelError: It has no adapter_config.json or no adapter_model.safetensors.
    """
    path = resolve(uri, storage=storage)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (path / name).is_file():
            raise ModelError(
                f"not an adapter: {name} is missing", where=str(path), remedy="give what a LoRA finetune job made"
            )
    return path


def converted_path(gguf: Path) -> Path:
    """Where a GGUF file's conversion lies, or will lie."""
    # Keyed by content: the same weights under two names are converted once.
    return cache_path() / "converted" / f"{gguf.stem}-{sha256_file(gguf)[:16]}"


def _converted(gguf: Path) -> Path:
    target = converted_path(gguf)
    if target.is_dir():
        return target
    skip_scipy()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
        whole = Path(scratch) / "whole"  # a temporary folder is its owner's alone, and this one everybody's
        options = {"gguf_file": gguf.name, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
        )
        model.save_pretrained(whole)
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(whole)
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():  # else another process converted it meanwhile
                raise
    return target
