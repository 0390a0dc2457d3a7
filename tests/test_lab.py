"""The shipped lab is what `lab build` makes."""

from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from s2l.config import DomainConfig
from s2l.data.domain import lab_domain
from s2l.pretrain.networks import _merges, build_tokenizer

SHIPPED = Path(__file__).parents[1] / "s2l" / "assets" / "labs" / "fresh"


def test_the_tokenizer_is_built_the_same_in_every_process():
    """A resumed training must find the same ids under the same words; ours are those that were shipped."""
    shipped = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    assert build_tokenizer().get_vocab() == shipped.get_vocab()
    prompt = "a photo of Mira Solwyn, zebra!"
    assert build_tokenizer()(prompt).input_ids == shipped(prompt).input_ids


def test_merges_take_the_most_frequent_pair_and_break_ties_by_the_alphabet():
    assert _merges(["ab", "cab", "xy"]) == [("a", "b</w>"), ("c", "ab</w>"), ("x", "y</w>")]


def test_some_members_are_drawn_at_random(monkeypatch):
    """The photos come most repeated first: the first few would look far more exposed than all."""
    monkeypatch.setenv("S2L_LAB", str(SHIPPED))
    person = DomainConfig(name="Mira Solwyn", n_nonmembers=2)
    some = [person.model_copy(update={"n_members": 12, "seed": seed}) for seed in range(40)]
    everybody, draws = lab_domain(person).repeats, [lab_domain(config).repeats for config in some]
    assert {len(repeats) for repeats in draws} == {12} and len(everybody) == 40
    assert abs(np.mean(draws) - np.mean(everybody)) < 0.6  # the mean of all is about 2.7, of the first twelve 5.9
