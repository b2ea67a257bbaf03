"""The verification benchmark on the bundled questions, small."""

import random

from bench import verify as bench
from bench.schema import Result
from rftfast.verify import Policy, verify


def test_it_runs_and_the_paths_agree(tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--n", "400", "--n-python", "400", "--n-math", "5", "--repeat", "1", "--threads", "2"]
    assert bench.main([*arguments, "--json", str(out)]) == 0
    result = Result.read(out)
    assert result.benchmark == "verify"
    assert result.figures["Python: verify, completions/s"] > 0
    assert result.figures.get("native and Python differ, completions", 0) == 0
    assert 0.5 < result.figures["regex and eval agrees with strict, share"] < 1
    assert "agrees with our strict policy" in capsys.readouterr().out


def test_completions_are_of_every_kind():
    texts, golds = bench.build(None, 600, seed=0)
    assert len(texts) == len(golds) == 600
    found = {verify(text, gold).verdict for text, gold in zip(texts, golds, strict=True)}
    assert found >= {"correct", "wrong_answer", "wrong_equation", "no_answer"}
    assert bench.build(None, 600, seed=0) == (texts, golds)


def test_the_direct_loop_is_the_reference_on_plain_solutions():
    rng = random.Random(0)
    for _ in range(200):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        total = a + b + rng.randint(0, 1)
        text, gold = f"<<{a}+{b}={total}>>\n#### {total}", f"#### {a + b}"
        assert bench.regex_and_eval(text, gold) == verify(text, gold, Policy.reference()).correct


def test_the_direct_loop_evaluates_figures_only():
    assert not bench.regex_and_eval("<<len('abc')=3>>#### 3", "#### 3")
    assert not bench.regex_and_eval("<<9**9**9=3>>#### 3", "#### 3")


def test_bad_arguments_are_named(capsys):
    assert bench.main(["--n", "0"]) == 2
    assert "--n is 0" in capsys.readouterr().err
