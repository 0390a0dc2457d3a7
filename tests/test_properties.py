"""Laws that hold for every input: of intervals, and of a run told as a command and read back."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l.attacks import ATTACKS
from s2l.cli import main
from s2l.config import LAB, RunConfig
from s2l.finetune import legal_combinations
from s2l.finetune.catalogue import FINETUNERS
from s2l.measure import intervals, over_people
from s2l.options import reproduce_command, run_config

# Few different values, so that ties are common.
SCORES = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30)
PAIRS = st.tuples(SCORES, SCORES)


@given(PAIRS)
def test_an_auc_lies_in_its_intervals_and_they_lie_between_0_and_1(pair):
    m, n = pair
    auc = intervals.auc(m, n)
    for interval in (intervals.delong_interval(m, n), intervals.bootstrap_interval(m, n, n_resamples=50)):
        assert 0 <= interval.low <= interval.high <= 1
    delong = intervals.delong_interval(m, n)
    assert delong.low - 1e-12 <= auc <= delong.high + 1e-12
    assert delong.low < delong.high, "an interval without width claims to know"


@given(PAIRS)
def test_an_auc_knows_the_order_only_and_turns_with_the_roles(pair):
    m, n = map(np.array, pair)
    assert intervals.auc(np.exp(m), np.exp(n)) == intervals.auc(m, n)
    assert intervals.auc(n, m) == pytest.approx(1 - intervals.auc(m, n))
    there, back = intervals.delong_interval(m, n), intervals.delong_interval(n, m)
    assert (back.low, back.high) == (pytest.approx(1 - there.high), pytest.approx(1 - there.low))


@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_the_same_scores_twice_are_no_change(domains):
    change = over_people.hierarchical_difference(domains, domains, n_resamples=50)
    assert (change.difference, change.p_value) == (0, 1) and change.low <= 0 <= change.high
    one = intervals.paired_auc_difference(*domains[0], *domains[0])
    assert (one.difference, one.p_value) == (0, 1)


@given(PAIRS, st.integers(0, 2**32))
def test_a_change_and_its_reverse_are_the_same_size(pair, seed):
    m0, n0 = map(np.array, pair)
    rng = np.random.default_rng(seed)
    m1, n1 = m0 + rng.normal(size=len(m0)), n0 + rng.normal(size=len(n0))
    there, back = intervals.paired_auc_difference(m0, n0, m1, n1), intervals.paired_auc_difference(m1, n1, m0, n0)
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == (pytest.approx(-there.high), pytest.approx(-there.low))
    assert back.p_value == pytest.approx(there.p_value)


NUMBERS = {
    "set-size": st.integers(1, 2000),
    "guidance": st.floats(0, 50),
    "mitigation": st.just("flat_start"),
    "steps": st.integers(1, 10_000),
    "learning-rate": st.floats(1e-7, 0.1),
    "train-batch-size": st.integers(1, 64),
    "n-generations": st.integers(1, 2000),
    "n-nonmembers": st.integers(2, 1000),
    "seed": st.integers(0, 10**6),
    "together": st.sampled_from([("Taro Quillan",), ("Taro Quillan", "Oona Brask")]),
    "unshake": st.floats(-10, 10),
    "unshake-space": st.sampled_from(["weights", "scores"]),
}
OPTIONS = st.fixed_dictionaries(
    {
        "method": st.sampled_from([tuple(names) for names in legal_combinations(FINETUNERS.own)]),
        "attacks": st.lists(st.sampled_from(sorted(ATTACKS.own)), min_size=1, max_size=3, unique=True).map(tuple),
    },
    optional=NUMBERS,
).filter(lambda options: "unshake" in options or "unshake-space" not in options)


@settings(max_examples=40, deadline=None)
@given(preset=st.sampled_from(["quick", "demo", "paper"]), options=OPTIONS)
def test_a_run_told_as_a_command_is_the_same_run(preset, options):
    asked = run_config(preset, "Mira Solwyn", options)
    read: list[RunConfig] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2l.cli.run.run_and_report", lambda config, out, runtime: read.append(config))
        assert main(shlex.split(reproduce_command(asked))[3:]) == 0
    assert read == [asked] and asked.model == LAB
