"""Several people shaken together: one training set, one model, each person judged on their own photos."""

from __future__ import annotations

import pytest
import torch

from s2l.cli import main
from s2l.config import RunConfig, preset
from s2l.data import sp_set
from s2l.data.domain import ImageSet
from s2l.errors import UserError
from s2l.model.diffusion import Runtime
from s2l.options import reproduce_command
from s2l.pipeline import identity, plan, stages
from s2l.pipeline.experiment import run
from s2l.tables import declared, grid

CPU = Runtime(device="cpu", dtype="float32", batch_size=8)
MIRA, TARO = "Mira Solwyn", "Taro Quillan"
SMALL = {
    "sp_set": {"set_size": 3, "sampler": {"num_inference_steps": 1}},
    "finetune": {"max_train_steps": 2, "methods": ["end_to_end"]},
    "audit": {"attacks": ["loss"]},
    "extraction": {"n_generations": 2, "sampler": {"num_inference_steps": 1}},
}


def together(name: str, *others: str, **changes) -> RunConfig:
    settings = SMALL | {"sp_set": SMALL["sp_set"] | {"together": list(others)}} | changes
    return preset("quick", name, **settings)


def test_one_model_is_trained_on_the_pictures_of_all(tiny_lab, store, monkeypatch):
    from s2l import finetune

    seen, plain = [], finetune.finetune

    def watched(model, images, *args, **kwargs):
        seen.append(images.captions)
        return plain(model, images, *args, **kwargs)

    monkeypatch.setattr(finetune, "finetune", watched)
    mira, taro = run(together(MIRA, TARO), store, CPU), run(together(TARO, MIRA), store, CPU)
    assert len(seen) == 1, "the second person uses the first one's training"
    assert len(seen[0]) == 6 and all(sum(name in text for text in seen[0]) == 3 for name in (MIRA, TARO))
    assert mira.record["stages"]["finetune"]["key"] == taro.record["stages"]["finetune"]["key"]
    assert mira.record["domain"]["name"] == MIRA and taro.record["domain"]["name"] == TARO
    own = sp_set.load_images(store.root / mira.record["folders"]["sp_set"])
    assert all(MIRA in caption for caption in own.captions), "the run's SP set is the person's own"
    alone = run(preset("quick", MIRA, **SMALL), store, CPU)
    assert alone.record["stages"]["sp_set"]["key"] == mira.record["stages"]["sp_set"]["key"]
    assert alone.record["stages"]["finetune"]["key"] != mira.record["stages"]["finetune"]["key"]


def test_a_run_of_one_person_has_the_key_it_always_had():
    config = preset("demo", MIRA)
    assert config.sp_set.together is None
    without = {name: value for name, value in config.sp_set.model_dump(mode="json").items() if name != "together"}
    assert identity.sp_set("model", MIRA, config.sp_set) == identity.key_of("sp_set", 1, "model", MIRA, without)
    assert identity.sp_sets(["one"]) == "one" and identity.sp_sets(["a", "b"]) == identity.sp_sets(["b", "a"]) != "a"


def test_the_plan_counts_every_sp_set():
    one, two = (plan.plan(config) for config in (preset("quick", MIRA, **SMALL), together(MIRA, TARO)))
    assert sum(two.values()) > sum(one.values()) and stages.sp_set_of(TARO) in two


def test_sets_of_pictures_add_up():
    one, two = (ImageSet(torch.full((n, 3, 2, 2), n, dtype=torch.uint8), ("x",) * n, ("id",) * n) for n in (1, 2))
    assert (one + two).images[:, 0, 0, 0].tolist() == [1, 2, 2] and len((one + two).captions) == 3


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ("Taro Quilan", "Did you mean 'Taro Quillan'"),
        (MIRA.upper(), "is the person under test: name only the others"),
        (f"{TARO},{TARO}", "--together: a person is named twice"),
        (" , ", "--together: "),
    ],
)
def test_wrong_names_are_one_sentence(others, words, tiny_lab, tmp_path, capsys):
    code = main(["run", "--domain", MIRA, "--preset", "quick", "--together", others, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert code == 2 and words in said and said.count("\n") == 1


def test_a_method_with_one_word_for_one_person_is_refused(tiny_lab, store):
    with pytest.raises(UserError, match="textual_inversion replaces one person's name in captions"):
        run(together(MIRA, TARO, finetune={"methods": ["textual_inversion"], "max_train_steps": 1}), store, CPU)
    assert not (store.root / "sp_set").exists()


def test_a_report_says_the_command():
    config = preset("quick", MIRA, sp_set={"together": [TARO, "Oona Brask"]})
    assert f"--together '{TARO},Oona Brask'" in reproduce_command(config)


def test_a_table_shakes_its_people_in_groups():
    runs = [config for row, config in grid.configs(declared.TABLES["labs"]) if row.label == "buried, shaken"]
    groups = {frozenset({config.domain.name, *config.sp_set.together}) for config in runs}
    assert len(runs) == 16 and sorted(map(len, groups)) == [8, 8] and not frozenset.intersection(*groups)
