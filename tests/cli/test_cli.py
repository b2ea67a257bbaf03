"""The commands as a user runs them: separate processes, exit statuses, one-line errors, kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rftfast.data.run_dir import RunDir
from tests.tiny_model import write_tiny_llama

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "rftfast.cli.main"]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def rftfast(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "q.jsonl"
    rows = [{"question": f"What is {i} and {i}?", "answer": f"#### {2 * i}"} for i in range(24)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def tiny(model: Path, questions: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--shots", "0", "--k", "6", "--max-tokens", "24", "--kv-memory", "64MiB", "--threads", "1"]
    return ["sample", "--model", str(model), "--questions", str(questions), "--out", str(out), *fixed, *more]


def test_help_is_quick() -> None:
    """Under half a second on a quiet machine; here it is enough that nothing heavy is imported."""
    code = (
        "import sys, rftfast.cli.main; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'rich.progress') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        shown = rftfast("--help", cwd=ROOT)
        times.append(time.perf_counter() - begin)
        assert shown.returncode == 0
        assert "sample" in shown.stdout
    assert min(times) < 2.0


def test_dry_run_writes_nothing(model: Path, questions: Path, tmp_path: Path) -> None:
    done = rftfast(*tiny(model, questions, tmp_path / "run", "--dry-run"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "KV pages" in done.stdout
    assert "144 samples" in done.stdout
    assert not (tmp_path / "run").exists()
    shown = rftfast(*tiny(model, questions, tmp_path / "run", "--dry-run", "--kv-cache-dtype", "fp8"), cwd=tmp_path)
    assert "+kv-fp8" in shown.stdout


def test_killed_and_started_again(model: Path, questions: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments; the run ends with the same samples and the same rft.jsonl as one left alone."""
    whole = rftfast(*tiny(model, questions, tmp_path / "whole"), cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    moments = random.Random(7)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            [*COMMAND, *tiny(model, questions, tmp_path / "cut")],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        samples = tmp_path / "cut" / "samples"
        before = len(list(samples.glob("part-*"))) if samples.exists() else 0
        deadline = time.monotonic() + 60
        # Wait until this process has stored something, then strike a little later.
        while process.poll() is None and time.monotonic() < deadline:
            if samples.exists() and len(list(samples.glob("part-*"))) > before:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    assert killed >= 1
    last = rftfast(*tiny(model, questions, tmp_path / "cut"), cwd=tmp_path)
    assert last.returncode == 0, last.stderr

    def content(run: str) -> list[tuple[str, int, str, float]]:
        rows = RunDir.read_samples(tmp_path / run)
        return sorted((r["question_id"], r["sample_index"], r["completion"], r["logprob"]) for r in rows)

    assert content("cut") == content("whole")
    assert len(content("whole")) == 24 * 6
    assert (tmp_path / "cut" / "rft.jsonl").read_bytes() == (tmp_path / "whole" / "rft.jsonl").read_bytes()


def test_other_configuration_is_refused(model: Path, questions: Path, tmp_path: Path) -> None:
    first = rftfast(*tiny(model, questions, tmp_path / "run", "--limit", "2"), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "run" / "rft.jsonl").read_bytes()
    second = rftfast(*tiny(model, questions, tmp_path / "run", "--limit", "2", "--temperature", "0.9"), cwd=tmp_path)
    assert second.returncode == 2
    assert "temperature" in second.stderr
    assert second.stderr.count("\n") == 1
    assert (tmp_path / "run" / "rft.jsonl").read_bytes() == before


def test_bad_input_gets_one_line_and_status_2(model: Path, questions: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"question": "a", "answer": "#### 1"}\n{"question": \n')
    unanswered = tmp_path / "unanswered.jsonl"
    unanswered.write_text('{"question": "a", "answer": "#### 1"}\n{"question": "b"}\n')
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "x" * 600, "answer": "#### 1"}) + "\n")
    cut = tmp_path / "cut"
    write_tiny_llama(cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    other = tmp_path / "other"
    write_tiny_llama(other)
    config = json.loads((other / "config.json").read_text()) | {"architectures": ["MambaForCausalLM"]}
    (other / "config.json").write_text(json.dumps(config))
    run = tmp_path / "run"
    cases = {
        "line 2": tiny(model, broken, run),
        "answer": tiny(model, unanswered, run),
        "context": tiny(model, long, run),
        "k is 0": tiny(model, questions, run, "--k", "0"),
        "MambaForCausalLM": tiny(other, questions, run),
        "model.safetensors": tiny(cut, questions, run),
        "one sequence needs": tiny(model, questions, run, "--kv-memory", "4k"),
        "nowhere": tiny(tmp_path / "nowhere", questions, run),
        "not an amount": tiny(model, questions, run, "--kv-memory", "much"),
    }
    for words, command in cases.items():
        done = rftfast(*command, cwd=tmp_path)
        assert done.returncode == 2, (words, done.returncode, done.stderr)
        assert words in done.stderr, (words, done.stderr)
        assert done.stderr.strip().count("\n") == 0, done.stderr


def test_doctor_and_models(tmp_path: Path) -> None:
    doctor = rftfast("doctor", cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stderr
    for word in ("torch", "attention", "features", "model cache", "gpu"):
        assert word in doctor.stdout
    models = rftfast("models", cwd=tmp_path)
    assert models.returncode == 0, models.stderr
    assert "smollm2-135m-instruct" in models.stdout
    assert rftfast("models", "pull", "no-such-model", cwd=tmp_path).returncode == 2
