"""A run directory with given responses, for a model that can be rolled out from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rftfast.data import Completion, RunDir
from rftfast.pipeline import job as sampling
from rftfast.select import select_paths
from rftfast.verify import verify
from tests.tiny_model import EOS


def make_run(folder: Path, texts: dict[str, list[str]], gold: str, model: Path, **options: Any) -> Path:
    """Responses by question id, as the pipeline stores them."""
    file = folder / "questions.jsonl"
    rows = [{"id": name, "question": f"How many {name}?", "answer": f"#### {gold}"} for name in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = sampling.SampleOptions(model=str(model), questions=str(file), k=8, **{"shots": 1, **options})
    job = sampling.prepare(given)
    identity = job.identity() | {"dtype": "float32", "invariant": True}
    notes = {"model": str(model)}
    with RunDir.open(folder / "run", identity, job.fingerprints(), {}, notes=notes, token_ids=True) as run:
        for question in job.questions:
            ids = [(*job.tokenizer.encode(" " + text), EOS) for text in texts[question.id]]
            found = [
                Completion(question.id, i, text, tokens, -1.0, "eos")
                for i, (text, tokens) in enumerate(zip(texts[question.id], ids, strict=True))
            ]
            verdicts = [verify(c.text, gold) for c in found]
            good = [i for i, verdict in enumerate(verdicts) if verdict.correct]
            kept = [good[i] for i in select_paths([found[i].text for i in good])]
            run.add(question, found, verdicts, kept, prompt=job.prompt(question, shots=False), begin=job.template.begin)
        run.finish([q.id for q in job.questions])
    return folder / "run"
