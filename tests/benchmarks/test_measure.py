import json

import torch

from benchmarks.measure import interleave, medians, table, write_json


def test_each_round_gives_each_contender_a_turn():
    calls = []

    def contender(name):
        def step():
            calls.append(name)
            return torch.zeros(())

        return step

    seconds = interleave({"a": contender("a"), "b": contender("b")}, repeats=3, warmup=2)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    turns = [name for name, before in zip(calls, [None, *calls], strict=False) if name != before]
    assert turns == ["a", "b"] * 4


def test_a_median_is_no_mean():
    assert medians({"a": [1.0, 2.0, 9.0]}) == {"a": 2.0}


def test_ratios_are_to_the_references_that_take_part():
    rows = {"slow": {"median": 0.004}, "fast": {"median": 0.001}}
    heads, slow, fast = table(rows, 1e3, "ms", ("fast", "absent")).splitlines()
    assert heads.split() == ["median,", "ms", "/", "fast"]
    assert slow.split() == ["slow", "4.000", "4.00x"]
    assert fast.split() == ["fast", "1.000", "1.00x"]


def test_results_are_read_back(tmp_path):
    write_json(tmp_path / "steps.json", {"medians": {"a": 0.1}})
    assert json.loads((tmp_path / "steps.json").read_text()) == {"medians": {"a": 0.1}}
    write_json(None, {})
