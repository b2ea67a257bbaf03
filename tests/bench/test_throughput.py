"""The engines' processes on a tiny random llama, the converter, and the frame around them."""

import importlib.util
import json
import time
from dataclasses import replace

import pytest
import torch

from bench import engine_rftfast, throughput
from bench.engine_rftfast import device_time, settled
from bench.engines import ENGINES
from bench.job import Job
from bench.matmul import product_shapes, time_products
from bench.prompts import build, random_prompts
from bench.roofline import Rates
from bench.schema import Measure, Result
from bench.to_gguf import convert, interleave_rope
from rftfast.engine.stats import StepTimes
from rftfast.errors import UserError
from rftfast.models.shapes import SHAPES


@pytest.fixture
def job(tiny_llama, tmp_path):
    prompt = tuple(range(40, 60))
    return Job("transformers", str(tiny_llama), (prompt, prompt[:15]), k=3, max_tokens=5, scratch=str(tmp_path))


def test_job_survives_its_file(job, tmp_path):
    path = tmp_path / "job.json"
    full = replace(job, verified=True, golds=("#### 1", "#### 2"), stop=("\n\n",), eos=(257,))
    full.write(path)
    assert Job.read(path) == full


def test_warm_up_is_no_prefix_of_the_prompt(job):
    assert job.warm_up_prompt[0] != job.prompts[0][0]


def test_products_of_a_step():
    config = json.loads(
        '{"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,'
        ' "num_hidden_layers": 2, "vocab_size": 260}'
    )
    layer = [(128, 64), (64, 64), (192, 64), (64, 96)]
    assert product_shapes(config) == [*layer, *layer, (260, 64)]
    found = time_products(config, rows=4, threads=1, repeats=3)
    assert 0 < found["best_ms"] <= found["median_ms"] < 1000


def test_transformers_worker_draws_exactly_what_was_asked(job):
    found = throughput.run_engine(job, 120)
    assert isinstance(found, Measure), found
    assert (found.samples, found.tokens) == (6, 30)
    assert found.step_rows == 3
    assert 0 < found.prefill_s < found.seconds
    assert found.peak_memory_mib > 50
    assert not found.partial


def test_continuous_batching_worker_measures_or_says_why(job):
    found = throughput.run_engine(replace(job, engine="transformers-cb"), 120)
    if isinstance(found, Measure):
        assert (found.samples, found.tokens) == (6, 30)
    else:
        assert found[0] in ("skipped", "error")
        assert len(found[1]) > 10


@pytest.mark.parametrize(("engine", "shared"), [("rftfast", True), ("rftfast-noshare", False)])
def test_our_worker(job, engine, shared):
    found = throughput.run_engine(replace(job, engine=engine), 120)
    assert isinstance(found, Measure), found
    assert (found.samples, found.tokens) == (6, 30)
    assert found.step_rows == 6
    alone = 3 * (19 + 14)  # each sample its own prompt; its last token is the first decode step's row
    assert found.extra["prompt_tokens"] == alone
    assert (found.extra["prefill_tokens"] < alone) == shared
    assert 0 <= found.extra["host_share"] < 1


@pytest.mark.parametrize("engine", ["rftfast", "transformers"])
def test_verified_mode_counts_paths(job, engine):
    real = replace(job, engine=engine, verified=True, golds=("#### 1", "#### 2"), stop=("\n\n",), eos=(257,))
    found = throughput.run_engine(real, 120)
    assert isinstance(found, Measure), found
    assert found.samples == 6
    assert found.tokens <= 30
    assert found.distinct_verified == 0  # a random model solves nothing


def test_distinct_verified_paths_are_counted():
    from bench.verified import distinct_verified

    right = "1+1=<<1+1=2>>2\n#### 2"
    other = "2*1=<<2*1=2>>2\n#### 2"
    wrong = "1+1=<<1+1=3>>3\n#### 3"
    assert (
        distinct_verified(
            [[right, " " + right + "\n\nQuestion: #### 9", other, wrong], []], ["#### 2", "#### 5"], ("\n\n",)
        )
        == 2
    )


def test_time_limit_is_told(job):
    from bench import engine_transformers

    found = engine_transformers.run(replace(job, budget_s=1e-6))
    assert found.partial
    assert found.tokens == 3  # the first token of the first prompt, k times
    assert "time limit" in found.notes[-1]


def test_failing_engine_is_a_row(job, tmp_path):
    broken = replace(job, model=str(tmp_path / "nothing"))
    rows, _ = throughput.measure_all(replace(broken, device="meta"), ["transformers"], 2, 120)
    assert rows[0].status == "error"
    assert "nothing" in rows[0].notes[0]


def test_dead_process_is_an_error(job, tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os, sys\nprint('last words', file=sys.stderr)\nos.abort()\n")
    monkeypatch.setattr(throughput, "WORKER", script)
    status, why = throughput.run_engine(job, 60)
    assert status == "error"
    assert "last words" in why


def test_engine_that_hangs_is_ended(job, tmp_path, monkeypatch):
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(throughput, "WORKER", script)
    status, why = throughput.run_engine(job, 1)
    assert (status, "no result after 1 s" in why) == ("error", True)


def test_rope_rows_are_interleaved():
    weight = torch.arange(8.0)[:, None]  # two heads of d = 4: halves (0 1 | 2 3) and (4 5 | 6 7)
    assert interleave_rope(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_converter_refuses_other_models(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="gpt2"):
        convert(tmp_path, tmp_path / "x.gguf")


def test_llamacpp_has_the_same_model(tiny_llama, tmp_path):
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    import llama_cpp
    from transformers import AutoModelForCausalLM

    path = convert(tiny_llama, tmp_path / "tiny.gguf")
    prompt = list(range(40, 60))
    theirs = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    theirs.eval(prompt)
    got = torch.tensor(theirs.scores[: len(prompt)])
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.inference_mode():
        want = model(torch.tensor([prompt])).logits[0]
    # bf16 products: a wrong order of rope's rows or a swapped matrix is off by the whole range.
    assert (got - want).abs().max() < 0.05 * (want.max() - want.min())


@pytest.mark.parametrize("engine", ["llama.cpp", "llama.cpp-split"])
def test_llamacpp_worker(job, engine):
    found = throughput.run_engine(replace(job, engine=engine), 120)
    if importlib.util.find_spec("llama_cpp") is None:
        assert found == ("skipped", "llama-cpp-python is not installed (pip install llama-cpp-python)")
        pytest.skip("llama-cpp-python is not installed; its row says so")
    assert isinstance(found, Measure), found
    assert (found.samples, found.tokens) == (6, 30)


def test_prompts_leave_the_examples_out(tiny_llama):
    plain = build(tiny_llama, None, 2, 0, None, "gsm8k")
    shown = build(tiny_llama, None, 2, 3, None, "gsm8k")
    assert len(shown.tokens[0]) > 3 * len(plain.tokens[0]) / 2
    assert shown.tokens[0][-len(plain.tokens[0]) :] == plain.tokens[0]  # the tokenizer is one byte a token
    assert "####" in plain.golds[0]
    with pytest.raises(UserError, match="n-prompts"):
        build(tiny_llama, None, 10**6, 0, None, "gsm8k")


def test_examples_from_the_questions_own_file_are_not_asked(tiny_llama, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"How many is {i}?", "answer": f"#### {i}"}) + "\n" for i in range(5))
    )
    found = build(tiny_llama, str(path), 2, 3, str(path), "gsm8k")
    assert found.golds == ("#### 3", "#### 4")


def test_command_from_arguments_to_file(tiny_llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out.json"
    status = throughput.main(
        [
            "--model",
            str(tiny_llama),
            "--engines",
            "transformers",
            "--k",
            "2",
            "--max-tokens",
            "3",
            "--threads",
            "1",
            "--json",
            str(out),
        ]
    )
    assert status == 0
    result = Result.read(out)
    assert [row.engine for row in result.rows] == ["transformers"]
    assert result.rows[0].step_over_matmul > 0
    assert "transformers" in capsys.readouterr().out


def test_a_shape_with_random_prompts(tmp_path, monkeypatch):
    """Random weights, random prompts below a header; transformers makes a model of the same shape."""
    tiny = {**SHAPES["smollm2-135m"], "num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 64}
    monkeypatch.setitem(SHAPES, "tiny", {**tiny, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16})
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out.json"
    arguments = (
        "--model shape:tiny --prompt-tokens 40 --header-tokens 30 --n-prompts 2 --k 2 --max-tokens 3 --threads 1"
    )
    engines = "rftfast,transformers,llama.cpp,vllm,sglang"
    assert throughput.main([*arguments.split(), "--max-batch", "3", "--engines", engines, "--json", str(out)]) == 0
    result = Result.read(out)
    assert [row.status for row in result.rows] == ["ok", "ok", "skipped", "skipped", "skipped"]
    assert [row.runs[0].tokens for row in result.rows[:2]] == [12, 12]
    assert result.rows[0].runs[0].step_rows == 3
    assert result.settings["prompt_tokens"] == [40, 40]
    ours = result.rows[0].runs[0].extra
    assert ours["prefill_tokens"] == 30 + 2 * 9  # the header once, and of each prompt the rest but its last token


def test_random_prompts_share_their_header():
    first, second = random_prompts(1000, 2, 50, 20, seed=1).tokens
    assert first[:20] == second[:20] and first[20:] != second[20:]
    assert random_prompts(1000, 2, 50, 20, seed=2).tokens[0] != first
    for wrong in ((0, 5, 0), (1, 5, 5), (1, 5, -1)):
        with pytest.raises(UserError, match="prompts of"):
            random_prompts(10, *wrong, seed=0)


def test_the_work_of_a_job_knows_what_its_prompts_share(job):
    alone = throughput._work(replace(job, prompts=((1, 2, 3, 4), (5, 2, 3, 4))))
    shared = throughput._work(replace(job, prompts=((1, 2, 3, 4), (1, 2, 3, 5))))
    assert shared.bytes < alone.bytes and shared.flops < alone.flops


def test_time_of_the_device():
    events = [("a", 0.0, 2.0), ("b", 1.0, 3.0), ("a", 5.0, 6.0), ("c", 8.0, 10.0)]
    found = device_time(events)
    assert found["device_idle_share"] == found["short_gap_share"] == pytest.approx(4 / 10)
    assert found["kernel_shares"][0] == ("a", pytest.approx(3 / 7), 2)
    assert device_time([])["device_idle_share"] is None
    late = device_time([("a", 0.0, 10.0), ("b", 12.0, 20.0), ("a", 70.0, 100.0)])  # one gap is the host's
    assert late["device_idle_share"] == pytest.approx(0.52) and late["short_gap_share"] == pytest.approx(0.02)
    begun = [("a", 0.0, 1.0), ("a", 24.0, 30.0), ("b", 30.0, 60.0), ("b", 80.0, 100.0)]
    assert settled(begun) == begun[2:] and settled([]) == []


class _Steps:
    """A sampler of which only ``on_step`` is known, and a profiler."""

    def __init__(self, steps):
        self.steps, self.on_step, self.said = steps, None, []

    def generate(self, prompts, params):
        self.said.append(("prompts", len(prompts)))
        for rows, prefill in self.steps:
            self.on_step(StepTimes(rows, prefill, 0.1, {}))

    def __call__(self, activities):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def start(self):
        self.said.append("start")

    def stop(self):
        self.said.append("stop")

    def events(self):
        return []


@pytest.mark.parametrize(("full", "stops"), [(60, True), (10, True), (0, False)])
def test_the_profile_is_of_full_steps(job, monkeypatch, full, stops):
    sampler = _Steps([(0, 40), (6, 12), (4, 0), *[(6, 0)] * full, (2, 0)])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.profiler, "profile", sampler)
    found = engine_rftfast._profile(sampler, job, [[1], [2], [3], [4]], 6)
    assert found["device_idle_share"] is None
    assert sampler.said == [("prompts", 3), *(["start", "stop"] if stops else [])]
    assert sampler.on_step is None


def test_a_time_limit_of_all_runs(job):
    """What there is by then is the result."""
    rows, figures = throughput.measure_all(job, ["transformers", "rftfast"], 1, 600, limit_s=1.2)
    assert [row.status for row in rows] == ["error", "error"] and not figures
    assert "its process was ended" in rows[0].notes[0] and "no time was left" in rows[1].notes[0]


@pytest.mark.parametrize("options", [{"quantization": "fp8"}, {"kv_cache_dtype": "fp8"}], ids=str)
def test_quantised_and_who_is_not(job, options):
    rows, figures = throughput.measure_all(replace(job, **options), ["rftfast", "transformers"], 1, 120)
    assert [row.status for row in rows] == ["ok", "skipped"] and "fp8" in rows[1].notes[0]
    assert rows[0].runs[0].extra["dtype"].endswith("fp8") and not figures


def test_loading_torch_counts_too(tiny_llama, tmp_path):
    """Who ends this program counts from its start, and what it found by then would be lost."""
    out = tmp_path / "out.json"
    arguments = ["--engines", "rftfast", "--model", str(tiny_llama), "--prompt-tokens", "5", "--json", str(out)]
    assert throughput.main([*arguments, "--limit-s", "50"], begin=time.perf_counter() - 49.5) == 0
    assert "no time was left" in Result.read(out).rows[0].notes[0]


def test_rates_of_a_gpu_come_first(job, monkeypatch):
    """Without them there is no bound, and the rest is as it is."""
    asked = []

    def run(job, _):
        asked.append(job.engine)
        extra = {"bandwidth": 1e9, "flops": 1e12}
        return Measure(2.0, 6, 3, step_rows=3, extra=extra if job.engine == "rates" else {})

    monkeypatch.setattr(throughput, "run_engine", run)
    rows, figures = throughput.measure_all(replace(job, device="cuda"), ["rftfast"], 1, 9)
    assert asked == ["rates", "rftfast"]
    least = Rates(1e9, 1e12).seconds(throughput._work(job))
    assert rows[0].of_roofline == pytest.approx(least / 2) and figures["copy bandwidth, GB/s"] == 1
    monkeypatch.setattr(
        throughput, "run_engine", lambda job, _: run(job, _) if job.engine != "rates" else ("error", "x")
    )
    rows, figures = throughput.measure_all(replace(job, device="cuda"), ["rftfast"], 1, 9)
    assert rows[0].status == "ok" and rows[0].of_roofline is None and not figures


@pytest.mark.parametrize(
    "arguments",
    [
        ["--engines", "vroom"],
        ["--k", "0"],
        ["--engines", ","],
        ["--max-batch", "0"],
        ["--limit-s", "0"],
        ["--profile"],
        ["--model", "shape:smollm2-135m", "--prompt-tokens", "5", "--header-tokens", "5"],
        ["--model", "shape:smollm2-135m", "--prompt-tokens", "9000"],
        ["--model", "shape:smollm2-135m", "--prompt-tokens", "9", "--verified"],
    ],
)
def test_bad_arguments_are_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    assert throughput.main(arguments) == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 1


def test_every_engine_has_a_description():
    assert all(ENGINES.values())
    assert next(iter(ENGINES)) == "rftfast"
