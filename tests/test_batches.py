"""Batches side by side give what batches one after the other give."""

from __future__ import annotations

import threading

import pytest
import torch

from s2l import attacks
from s2l.config import AuditConfig, SamplerConfig
from s2l.data.domain import ImageSet
from s2l.model.batches import Batched
from s2l.model.diffusion import Runtime

PROMPT = "a photo of Mira Solwyn"


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Counted(Batched):
    one_core_per_batch = True

    def __init__(self, batch_size: int):
        self.runtime = Runtime("cpu", "float32", batch_size)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(0, 4, []), (1, 4, [1]), (9, 4, [2, 2, 2, 3]), (40, 32, [20, 20])]
)
def test_batches_are_even_and_cover_everything(two_threads, n, batch_size, sizes):
    groups = list(Counted(batch_size).batches(n))
    slices = [some for group in groups for some in group]
    assert [some.stop - some.start for some in slices] == sizes
    assert [i for some in slices for i in range(n)[some]] == list(range(n))
    assert all(len(group) <= 2 for group in groups)


def test_together_keeps_the_order_the_mode_and_the_number_of_threads(two_threads):
    model, meeting = Counted(4), threading.Barrier(2, timeout=30)

    def work(item: int) -> tuple:
        meeting.wait()  # passes only when both run at the same time
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert model.together(work, [5, 3]) == [(5, 1, True), (3, 1, True)]
    assert torch.get_num_threads() == 2


def test_an_error_of_one_is_the_error_of_all(two_threads):
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("number one")
        return item

    with pytest.raises(ValueError, match="number one"):
        Counted(4).together(work, [0, 1])
    assert torch.get_num_threads() == 2


def test_an_autocast_of_the_caller_is_not_lost(two_threads):
    def work(item: int) -> tuple:
        return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    with torch.autocast("cpu", torch.bfloat16):
        assert Counted(4).together(work, [0, 1]) == [(True, torch.bfloat16)] * 2
    assert [enabled for enabled, _ in Counted(4).together(work, [0, 1])] == [False, False]


def test_pictures_and_scores_are_those_of_one_after_the_other(two_threads, tiny_model):
    assert tiny_model.one_core_per_batch
    sampler, config = SamplerConfig(num_inference_steps=2), AuditConfig(settings={"secmi": {"t": 20}})
    images = torch.randint(0, 256, (9, 3, tiny_model.resolution, tiny_model.resolution), dtype=torch.uint8)
    pictures = ImageSet(images, tuple(f"{PROMPT} {i}" for i in range(9)), tuple(map(str, range(9))))

    def everything():
        drawn = tiny_model.generate(pictures.captions, range(9), sampler)
        query = attacks.make_query(tiny_model, pictures)
        # CLiD encodes captions while it scores.
        return drawn, attacks.run_suite(("secmi", "loss", "clid"), tiny_model, query, config)

    together = everything()
    tiny_model.one_core_per_batch = False
    alone = everything()
    torch.testing.assert_close(together[0], alone[0], atol=1e-4, rtol=1e-4)
    for name, scores in alone[1].items():
        torch.testing.assert_close(together[1][name], scores, atol=1e-5, rtol=1e-3)
