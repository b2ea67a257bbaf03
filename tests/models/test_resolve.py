import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

from rftfast.errors import UserError
from rftfast.models.resolve import fingerprint, resolve

from .conftest import make_model
from .test_gguf import write_gguf


def test_a_local_folder_is_itself(saved):
    _, folder = saved("llama2")
    assert resolve(str(folder)) == folder


def test_a_local_gguf_becomes_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", make_model("llama"))
    folder = resolve(str(tmp_path / "m.gguf"))
    assert (folder / "config.json").is_file()
    assert tmp_path / "cache" in folder.parents


def test_local_comes_before_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-instruct").mkdir()
    (tmp_path / "smollm2-135m-instruct" / "config.json").write_text("{}")
    assert resolve("smollm2-135m-instruct") == Path("smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", r"no such file or folder.*smollm2-135m-instruct.*owner/name"),
        ("./org/model", "no such file or folder"),
        ("/org/model", "no such file or folder"),
        ("missing/m.gguf", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("", "has no config"),
    ],
)
def test_names_that_lead_nowhere(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_places_that_are_no_model(tmp_path):
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(UserError, match="is not a model"):
        resolve(str(tmp_path / "m.txt"))
    with pytest.raises(UserError, match=r"has no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"name the one to use, as .*m\.gguf"):
        resolve(str(tmp_path))
    with pytest.raises(UserError, match="revision"):
        resolve(str(tmp_path), revision="main")


def hub_stub(monkeypatch, result):
    """Replace the Hub's download; ``result`` is returned, or raised when it is an exception."""
    import huggingface_hub

    calls = []

    def snapshot_download(name, **options):
        calls.append((name, options))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_the_hub_is_asked_for_safe_files_only(saved, monkeypatch, tmp_path):
    _, folder = saved("llama2")
    monkeypatch.chdir(tmp_path)
    calls = hub_stub(monkeypatch, folder)
    assert resolve("owner/model", revision="v2") == folder
    ((name, options),) = calls
    assert (name, options["revision"]) == ("owner/model", "v2")
    for file in ("pytorch_model.bin", "modeling.py", "model.pt", "x.h5", "consolidated.00.pth"):
        assert not any(Path(file).match(pattern) for pattern in options["allow_patterns"])
    for file in ("config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja"):
        assert any(Path(file).match(pattern) for pattern in options["allow_patterns"])
        assert not any(fnmatch(file, pattern) for pattern in options["ignore_patterns"])
    for file in (
        "original/model.safetensors",
        "consolidated.safetensors",
        "consolidated.00.safetensors",
    ):  # once is enough
        assert any(fnmatch(file, pattern) for pattern in options["ignore_patterns"])


def test_hub_failures_are_one_clear_line(monkeypatch, tmp_path):
    from huggingface_hub import errors

    monkeypatch.chdir(tmp_path)
    response = SimpleNamespace(request=None, headers={}, status_code=404)
    cases = [
        (errors.RepositoryNotFoundError("x\ny", response=response), "no such repository"),
        (errors.GatedRepoError("x", response=response), "is gated"),
        (errors.RevisionNotFoundError("x", response=response), "no revision 'r'"),
        (errors.LocalEntryNotFoundError("x"), "not on this machine.*named model"),
        (errors.HfHubHTTPError("bad\ngateway", response=response), "download failed.*bad gateway"),
        (errors.HTTPError("no route"), "download failed.*no route"),
        (OSError(28, "No space left on device"), "No space left"),
    ]
    for error, message in cases:
        hub_stub(monkeypatch, error)
        with pytest.raises(UserError, match=message) as caught:
            resolve("owner/model", revision="r")
        assert "\n" not in str(caught.value)


def test_offline_says_so(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError, match="not on this machine, and HF_HUB_OFFLINE is set"):
        resolve("owner/model")


def test_fingerprint_sees_config_weights_and_names(saved):
    _, folder = saved("llama2", max_shard_size="20KB")
    before = fingerprint(folder)
    assert fingerprint(str(folder)) == before
    file = sorted(folder.glob("*.safetensors"))[-1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    changed = fingerprint(folder)
    assert changed != before
    content[-1] ^= 1
    file.write_bytes(content)
    assert fingerprint(folder) == before
    (folder / "README.md").write_text("no part of the model")
    assert fingerprint(folder) == before
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert fingerprint(folder) not in (before, changed)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        fingerprint(folder)


def test_listing_models_loads_no_torch():
    code = "import sys; from rftfast.models.named import list_named; list_named(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
