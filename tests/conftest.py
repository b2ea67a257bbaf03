import os
from pathlib import Path

# Before torch is loaded: threads that wait sleep soon instead of starving their partners (see docs/lab-book.md).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# Before anything loads triton (parts of torch do): without an NVIDIA GPU, kernels run in Triton's interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The folder with GSM8K's train.jsonl and test.jsonl, where one is at hand (it is not part of this project)."""
    folder = Path(os.environ.get("RFTFAST_GSM8K", ROOT.parent / "shared" / "gsm8k"))
    if not (folder / "train.jsonl").is_file():
        pytest.skip("GSM8K is not here; set RFTFAST_GSM8K to a folder with train.jsonl and test.jsonl")
    return folder
