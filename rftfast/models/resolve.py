"""From the name a user gives to a folder with config.json, safetensors and a tokenizer."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

from rftfast.errors import UserError
from rftfast.models.cache import cache_folder
from rftfast.models.named import PACKAGED, NamedModel, list_named, pull
from rftfast.models.shapes import PREFIX, shape_folder

__all__ = ["NamedModel", "cache_folder", "fingerprint", "list_named", "pull", "resolve"]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
# Subfolders and Mistral's own format hold the weights a second time.
_UNWANTED = ["*/*", "consolidated*.safetensors"]
_BLOCKS, _BLOCK_BYTES = 16, 1 << 16


def resolve(name: str, *, revision: str | None = None) -> Path:
    """A ready folder for ``name``: a local folder or .gguf file, else a named model, else a Hugging Face repository.

    ``shape:NAME`` is a model of a published shape with random weights (``rftfast.models.shapes``).

    ``revision`` is a branch, tag or commit of the repository; it is refused for anything else. Raises ``UserError``
    when nothing of that name can be had.
    """
    if name.startswith(PREFIX):
        _refuse_revision(name, revision)
        return shape_folder(name.removeprefix(PREFIX))
    place = Path(name).expanduser()
    if place.exists():
        _refuse_revision(name, revision)
        return _local(place)
    if name in PACKAGED:
        _refuse_revision(name, revision)
        return pull(name)
    looks_local = name.startswith((".", "/", "~")) or name.endswith((".gguf", "/"))
    if not looks_local and _REPOSITORY.fullmatch(name):
        return _from_hub(name, revision)
    raise UserError(
        f"model {name!r}: no such file or folder, and no named model ({', '.join(PACKAGED)}); "
        "a Hugging Face repository is written owner/name"
    )


def fingerprint(folder: str | Path) -> str:
    """Hash (hex) that changes when the model does: config.json, and of each weight file name, size, header and samples.

    Reads at most 16 blocks of 64 KiB a file, so it takes milliseconds; a change between the samples goes unseen.
    """
    from rftfast.models.weights import weight_files  # loads torch, which resolving a folder must not

    folder = Path(folder)
    digest = hashlib.blake2b(digest_size=16)
    try:
        digest.update((folder / "config.json").read_bytes())
        for file in sorted(weight_files(folder)):
            size = file.stat().st_size
            digest.update(f"\0{file.name}\0{size}\0".encode())
            with file.open("rb") as held:
                prefix = held.read(8)
                length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
                digest.update(prefix + held.read(min(length, size)))
                for n in range(_BLOCKS):
                    held.seek(max(0, size - _BLOCK_BYTES) * n // (_BLOCKS - 1))
                    digest.update(held.read(_BLOCK_BYTES))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be read ({error.strerror}): download the model again"
        ) from None
    return digest.hexdigest()


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise UserError(f"model {name!r}: a revision ({revision!r}) can be given for Hugging Face repositories only")


def _local(place: Path) -> Path:
    if place.is_dir():
        if (place / "config.json").is_file():
            return place
        held = sorted(p.name for p in place.glob("*.gguf"))
        if held:
            raise UserError(f"{place}: holds GGUF files; name the one to use, as {place / held[0]}")
        raise UserError(f"{place}: has no config.json; give a Hugging Face model folder or a .gguf file")
    if place.suffix == ".gguf":
        from rftfast.models.gguf import folder_from_gguf

        return folder_from_gguf(place)
    raise UserError(f"{place}: is not a model; give a Hugging Face model folder or a .gguf file")


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub

    at = f" at revision {revision!r}" if revision else ""
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except hub.GatedRepoError:
        raise UserError(f"model {name!r}: is gated; accept its terms on its page, then run: hf auth login") from None
    except hub.RevisionNotFoundError:
        raise UserError(f"model {name!r}: the Hugging Face Hub has no revision {revision!r} of it") from None
    except hub.RepositoryNotFoundError:
        raise UserError(f"model {name!r}: no such repository on the Hugging Face Hub, or it is private") from None
    except hub.LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hugging Face Hub cannot be reached"
        raise UserError(
            f"model {name!r}{at}: not on this machine, and {why}: give a local folder or {_named()}"
        ) from None
    # hub.HTTPError is the root of the HTTP library in use (its name changes with the version of huggingface_hub).
    except (hub.HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model {name!r}{at}: download failed ({reason}): try again, or give a local folder") from None
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"model {name!r}: the repository has no config.json; it holds no transformers model")
    return Path(folder)


def _named() -> str:
    return f"a named model ({', '.join(PACKAGED)})"
