"""One trainer's process: reads a job, measures it, writes the measure. Started by ``train.py``, not by hand.

python bench/train_worker.py JOB.json OUT.json
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any


def main() -> int:
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()
    from bench.train_engines import measure
    from bench.train_job import TrainJob

    return answer(lambda file: measure(TrainJob.read(file)))


def answer(measure: Callable[[Path], Any]) -> int:
    """Measure the job in the file that the first argument names; write what came of it to the second."""
    from bench.skip import Skip
    from rftfast.errors import UserError

    job_file, out = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        found = measure(job_file)
    except Skip as reason:
        said: dict[str, object] = {"skipped": str(reason)}
    except UserError as error:
        said = {"error": str(error)}
    except Exception as error:  # a trainer that fails is a row of the table, whatever it fails with
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        said = {"measure": asdict(replace(found, peak_memory_mib=peak))}
    out.write_text(json.dumps(said), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
