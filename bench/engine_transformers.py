"""transformers: ``generate(num_return_sequences=k)``, and its continuous batching ``generate_batch``, in bf16."""

from __future__ import annotations

import json
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from bench.job import WARM_UP_TOKENS, Job
from bench.schema import Measure
from bench.skip import Skip

_DTYPES = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "float32": torch.float32}


def run(job: Job) -> Measure:
    """``generate`` once per prompt; a step's time is that between two calls of its stopping criteria."""
    import transformers

    model = _load(job)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.model) if job.verified and job.stop else None
    _generate(model, job, job.warm_up_prompt, min(WARM_UP_TOKENS, job.max_tokens), None, tokenizer)
    torch.manual_seed(job.seed)
    sequences: list[list[list[int]]] = []
    steps: list[float] = []
    prefill = 0.0
    over = False
    start = time.perf_counter()
    deadline = start + job.budget_s if job.budget_s is not None else None
    for prompt in job.prompts:
        mark = time.perf_counter()
        drawn, times = _generate(model, job, prompt, job.max_tokens, deadline, tokenizer)
        sequences.append(drawn)
        prefill += times[0] - mark
        steps += [after - before for before, after in pairwise(times)]
        over = deadline is not None and time.perf_counter() > deadline
        if over:
            break
    seconds = time.perf_counter() - start
    cut_short = over and (len(sequences) < len(job.prompts) or len(sequences[-1][0]) < job.max_tokens)
    notes = [f"one generate call a prompt, {job.k} copies of it in the batch"]
    if cut_short:
        notes.append(f"stopped at its time limit of {job.budget_s:g} s")
    return _measure(
        job,
        sequences,
        seconds,
        prefill_s=prefill,
        # Rows of a step grow no fewer as samples end: generate goes on with padding until the last one has ended.
        step_ms=1e3 * statistics.median(steps) if steps else None,
        step_rows=job.k,
        partial=cut_short and not job.verified,
        notes=tuple(notes),
    )


def run_continuous(job: Job) -> Measure:
    """``generate_batch`` with all prompts; raises :class:`Skip` in verified mode (it takes no stop strings)."""
    import transformers

    if job.verified and job.stop:
        raise Skip("generate_batch takes no stop strings, so its samples would not end where the others' do")
    model = _load(job)
    if not hasattr(model, "generate_batch"):
        raise Skip(f"transformers {transformers.__version__} has no generate_batch")
    _generate_batch(model, job, (job.warm_up_prompt,), min(WARM_UP_TOKENS, job.max_tokens))
    start = time.perf_counter()
    sequences = _generate_batch(model, job, job.prompts, job.max_tokens)
    seconds = time.perf_counter() - start
    return _measure(job, sequences, seconds, notes=("one generate_batch call with all prompts",))


def _load(job: Job) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(job.threads)
    if job.dtype not in _DTYPES:
        raise ValueError(f"dtype {job.dtype!r}: transformers is measured with {', '.join(_DTYPES)}")
    dtype = _DTYPES[job.dtype]
    model: Any
    if job.random_weights:
        config = transformers.AutoConfig.for_model(**_read_config(job.model))
        with torch.device(job.device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, local_files_only=True)
    # generate fills what a call leaves open from here, an EOS among it, which forced lengths must not have.
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model.to(job.device).eval()


def _read_config(folder: str) -> dict[str, Any]:
    """config.json of a shape, with the model type that transformers wants and without ids that mean "none"."""
    raw = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    kind = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}[raw["architectures"][0]]
    kept = {key: value for key, value in raw.items() if not (key.endswith("_token_id") and value == -1)}
    return {"model_type": kind, **kept, "bos_token_id": None, "eos_token_id": None}


def _settings(job: Job, new: int) -> Any:
    import transformers

    eos = list(job.eos) if job.verified and job.eos else None
    return transformers.GenerationConfig(
        do_sample=job.temperature > 0,
        temperature=job.temperature if job.temperature > 0 else None,
        top_k=0,
        top_p=1.0,
        num_return_sequences=job.k,
        max_new_tokens=new,
        eos_token_id=eos,
        pad_token_id=eos[0] if eos else 0,
        stop_strings=list(job.stop) if job.verified and job.stop else None,
    )


def _generate(
    model: Any, job: Job, prompt: tuple[int, ...], new: int, deadline: float | None, tokenizer: Any
) -> tuple[list[list[int]], list[float]]:
    """New tokens of the k samples of one prompt (padding included), and the time after each of them."""
    import transformers

    times: list[float] = []

    class Clock(transformers.StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            times.append(time.perf_counter())
            late = deadline is not None and times[-1] > deadline
            return torch.full((input_ids.shape[0],), late, dtype=torch.bool, device=input_ids.device)

    ids = torch.tensor([prompt], device=job.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_settings(job, new),
            stopping_criteria=transformers.StoppingCriteriaList([Clock()]),
            tokenizer=tokenizer,
        )
    drawn = out[:, len(prompt) :].tolist()
    assert len(drawn) == job.k, (len(drawn), job.k)
    if not job.verified and deadline is None:
        assert len(drawn[0]) == new, f"asked for exactly {new} tokens, drew {len(drawn[0])}"
    return drawn, times


def _generate_batch(model: Any, job: Job, prompts: tuple[tuple[int, ...], ...], new: int) -> list[list[list[int]]]:
    from transformers import ContinuousBatchingConfig

    if job.device == "cpu":
        longest = max(len(prompt) for prompt in prompts) + new
        page = ContinuousBatchingConfig().page_size
        # Left open, it plans for a GPU and takes nine tenths of the memory; this holds k whole samples and one page each.
        config = ContinuousBatchingConfig(num_blocks=job.k * (-(-longest // page) + 1), seed=job.seed)
    else:
        config = ContinuousBatchingConfig(max_requests_per_batch=job.rows, seed=job.seed)
    # No inference mode here: its worker thread writes in place into tensors made on this one.
    found = model.generate_batch(
        inputs=[list(prompt) for prompt in prompts],
        generation_config=_settings(job, new),
        continuous_batching_config=config,
        progress_bar=False,
    )
    outputs = list(found.values())
    failed = next((output.error for output in outputs if output.error), None)
    if failed or len(outputs) != len(prompts) * job.k:
        raise RuntimeError(
            f"generate_batch gave {len(outputs)} of {len(prompts) * job.k} samples ({failed or 'no error'})"
        )
    if not job.verified:
        short = min(len(output.generated_tokens) for output in outputs)
        assert short == new, f"asked for exactly {new} tokens, drew {short}"
    samples = [list(output.generated_tokens) for output in outputs]
    return [samples[i * job.k : (i + 1) * job.k] for i in range(len(prompts))]


def _measure(job: Job, sequences: list[list[list[int]]], seconds: float, **rest: Any) -> Measure:
    samples = sum(len(group) for group in sequences)
    if not job.verified:
        tokens = sum(len(sample) for group in sequences for sample in group)
        return Measure(seconds=seconds, tokens=tokens, samples=samples, **rest)
    from bench.verified import distinct_verified
    from rftfast.models.tokenizer import Tokenizer

    ended = [[_until_eos(sample, job.eos) for sample in group] for group in sequences]
    tokenizer = Tokenizer.from_folder(job.model)
    texts = [[tokenizer.decode(sample) for sample in group] for group in ended]
    return Measure(
        seconds=seconds,
        tokens=sum(len(sample) for group in ended for sample in group),
        samples=samples,
        distinct_verified=distinct_verified(texts, job.golds[: len(texts)], job.stop),
        **rest,
    )


def _until_eos(sample: list[int], eos: tuple[int, ...]) -> list[int]:
    """The sample with its EOS and without the padding after it."""
    end = next((i + 1 for i, token in enumerate(sample) if token in eos), len(sample))
    return sample[:end]
