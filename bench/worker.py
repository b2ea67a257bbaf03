"""One engine's process: reads a job, measures it, writes the measure. Started by ``throughput.py``, not by hand.

python bench/worker.py JOB.json OUT.json
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path


def _import_bench() -> None:
    """Make this folder importable as ``bench`` without the checkout's root on the path (it has folders, such as
    ``kernels``, that other packages would take for modules of their own)."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    if "bench" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "bench", here / "__init__.py", submodule_search_locations=[str(here)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["bench"] = module
        spec.loader.exec_module(module)


def _device_memory() -> dict[str, float]:
    """What torch took of a GPU's memory at most, if one was used in this process."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"device_peak_mib": torch.cuda.max_memory_reserved() / 2**20}


def main() -> int:
    _import_bench()
    from bench.engines import measure
    from bench.job import Job
    from bench.skip import Skip
    from rftfast.errors import UserError

    job_file, out = Path(sys.argv[1]), Path(sys.argv[2])
    begin = time.perf_counter()
    try:
        found = measure(Job.read(job_file))
    except Skip as reason:
        answer: dict[str, object] = {"skipped": str(reason)}
    except UserError as error:
        answer = {"error": str(error)}
    except Exception as error:  # an engine that fails is a row of the table, whatever it fails with
        import traceback

        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        extra = {**found.extra, "process_s": time.perf_counter() - begin, **_device_memory()}
        answer = {"measure": asdict(replace(found, peak_memory_mib=peak, extra=extra))}
    out.write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
