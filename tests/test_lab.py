"""The shipped lab is what `lab build` makes."""

from pathlib import Path

from transformers import CLIPTokenizer

from s2l.lab.checkpoint import _merges, build_tokenizer

SHIPPED = Path(__file__).parents[1] / "assets" / "lab"


def test_the_tokenizer_is_built_the_same_in_every_process():
    """A resumed training must find the same ids under the same words; ours are those that were shipped."""
    shipped = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    assert build_tokenizer().get_vocab() == shipped.get_vocab()
    prompt = "a photo of Mira Solwyn, zebra!"
    assert build_tokenizer()(prompt).input_ids == shipped(prompt).input_ids


def test_merges_take_the_most_frequent_pair_and_break_ties_by_the_alphabet():
    assert _merges(["ab", "cab", "xy"]) == [("a", "b</w>"), ("c", "ab</w>"), ("x", "y</w>")]
