"""One trainer's process: reads a job, measures it, writes the measure. Started by ``dpo.py``, not by hand.

python bench/dpo_worker.py JOB.json OUT.json
"""

from __future__ import annotations

import sys


def main() -> int:
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()
    from bench.dpo_engines import measure
    from bench.dpo_job import PairJob
    from bench.train_worker import answer

    return answer(lambda file: measure(PairJob.read(file)))


if __name__ == "__main__":
    sys.exit(main())
