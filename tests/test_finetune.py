"""Contract of the fine-tuning methods: every one of them and every legal combination."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from s2l import finetune as ft
from s2l.config import FineTuneConfig, SamplerConfig, checked
from s2l.data.domain import ImageSet
from s2l.errors import UserError
from s2l.finetune import dreambooth, gaussian_noise, textual_inversion, tune
from s2l.model.diffusion import DiffusionModel, Runtime

NAME = "Mira Solwyn"
FAST = SamplerConfig(num_inference_steps=2, guidance_scale=1.0)
COMBINATIONS = ft.legal_combinations()
WORDS = "a photo of " + NAME


def settings(methods, own: dict | None = None, **fields) -> FineTuneConfig:
    """A small fine-tuning; `own` overrides settings of single methods."""
    small = {"dreambooth": {"num_class_images": 2, "class_sampler": FAST.model_dump()}}
    of_methods = {name: small.get(name, {}) | (own or {}).get(name, {}) for name in methods}
    shared = {"max_train_steps": 2, "train_batch_size": 2} | fields
    return FineTuneConfig(methods=tuple(methods), settings=of_methods, **shared)


def weights(model: DiffusionModel) -> dict[str, torch.Tensor]:
    """{"unet.conv_in.weight": copy} of UNet, text encoder and autoencoder."""
    parts = {"unet": model.unet, "text_encoder": model.text_encoder, "vae": model.vae}
    return {f"{p}.{n}": w.detach().clone() for p, module in parts.items() for n, w in module.named_parameters()}


def changed(before: dict, after: dict) -> set[str]:
    """Names of tensors that differ or are new; a table that only grew counts as `name (grown)`."""
    names = set(before) ^ set(after)
    for name in set(before) & set(after):
        a, b = before[name], after[name]
        if a.shape != b.shape and torch.equal(a, b[: len(a)]):
            names.add(f"{name} (grown)")
        elif not torch.equal(a, b):
            names.add(name)
    return names


def predict(model: DiffusionModel, caption: str = WORDS) -> torch.Tensor:
    zt = model.noise([1, 2])
    return model.eps(zt, torch.tensor([100, 700]), model.encode_prompts([caption, caption]))


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    return DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="float32", batch_size=8))


@pytest.fixture(scope="module")
def sp_set(base):
    generator = torch.Generator().manual_seed(0)
    side = base.resolution
    images = torch.randint(0, 256, (6, 3, side, side), dtype=torch.uint8, generator=generator)
    return ImageSet(images, (WORDS, f"a face of {NAME}") * 3, tuple("abcdef"))


@pytest.fixture(scope="module")
def results(base, sp_set, tmp_path_factory):
    """{combination: (folder, record)}: each one trained for two steps, once."""
    done = {}

    def result(methods):
        if methods not in done:
            folder = tmp_path_factory.mktemp("_".join(methods))
            record = ft.finetune(base, sp_set, settings(methods), folder, NAME)
            done[methods] = folder, record
        return done[methods]

    return result


def declared(method: str, base: DiffusionModel) -> set[str]:
    """The names of the weights that a method says it trains."""
    model = base.copy()
    chosen = {id(p) for p in ft.weights_of(method).prepare(model, settings([method]))}
    return {f"unet.{n}" for n, p in model.unet.named_parameters() if id(p) in chosen}


def expected(methods: tuple[str, ...], base: DiffusionModel, base_names: set[str], names: set[str]) -> set[str]:
    """What a combination may change in a loaded model, by the names of weights."""
    found = set()
    for method in ft.weight_methods(methods):
        if method == "lora":  # folded into the weights of attention
            attention = [n for n in base_names if n.startswith("unet.") and ".attn" in n]
            found |= {
                n for n in attention if n.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
            }
        elif method == "hypernetwork":
            found |= {n for n in names if ".attn2.processor." in n}
        elif method == "textual_inversion":
            found |= {f"{n} (grown)" for n in base_names if n.endswith("token_embedding.weight")}
        elif method == "gaussian_noise":
            found |= {n for n in base_names if not n.startswith("vae.")}
        else:
            found |= declared(method, base)
    return found


# --- every method and combination ------------------------------------------------------------


def test_the_registry_has_the_papers_methods_and_its_two_combinations():
    assert set(ft.FINETUNERS) >= {
        "end_to_end", "lora", "hypernetwork", "textual_inversion", "dreambooth", "gaussian_noise",
    }  # fmt: skip
    assert len(set(COMBINATIONS)) == len(COMBINATIONS) >= 17
    assert {("lora", "dreambooth"), ("hypernetwork", "dreambooth")} <= set(COMBINATIONS)
    for method in ft.FINETUNERS.values():
        assert method.title and method.source and method.trains


@pytest.mark.parametrize("methods", COMBINATIONS, ids="+".join)
def test_exactly_the_declared_parameters_change(methods, base, sp_set, results):
    before, tokens = weights(base), len(base.tokenizer)
    folder, record = results(methods)
    tuned = ft.load_finetuned(base, folder)
    after = weights(tuned)
    assert changed(before, after) == expected(methods, base, set(before), set(after))
    assert not changed(before, weights(base)) and len(base.tokenizer) == tokens, "the base model was touched"
    assert torch.isfinite(predict(tuned)).all()
    assert not any(p.requires_grad for p in tuned.unet.parameters())
    assert record["base_model"] == base.key and record["sp_images"] == len(sp_set)


@pytest.mark.parametrize("methods", COMBINATIONS, ids="+".join)
def test_the_result_folder_holds_settings_and_safetensors_only(methods, results):
    folder, record = results(methods)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    other = {n for n in names if not n.endswith((".safetensors", "config.json"))}
    assert other == ({"log.jsonl"} if record["trained_parameters"] else set())
    assert json.loads((folder / "config.json").read_text()) == record
    saved = sum(w.numel() for p in folder.rglob("*.safetensors") for w in load_file(p).values())
    assert saved == record["trained_parameters"]


@pytest.mark.parametrize("methods", COMBINATIONS, ids="+".join)
def test_only_declared_parameters_train_and_all_of_them_do(methods, base, sp_set, tmp_path, monkeypatch):
    """The same inside the loop: what `prepare` returned changes, all of it, and nothing else."""
    seen = {}

    def watch(model, groups, *rest):
        before = weights(model)
        declared = {id(p) for group in groups for p in group["params"]}
        ft_train(model, groups, *rest)
        parts = {"unet": model.unet, "text_encoder": model.text_encoder, "vae": model.vae}
        named = {f"{p}.{n}": w for p, module in parts.items() for n, w in module.named_parameters()}
        seen["declared"] = {n for n, w in named.items() if id(w) in declared}
        seen["changed"] = changed(before, weights(model))

    ft_train = tune.train
    monkeypatch.setattr(tune, "train", watch)
    ft.finetune(base, sp_set, settings(methods, weight_decay=0), tmp_path, NAME)
    if methods == ("gaussian_noise",):
        assert not seen
    else:
        assert seen["changed"] == seen["declared"] and seen["declared"]


@pytest.mark.parametrize("methods", COMBINATIONS, ids="+".join)
def test_step_0_is_the_base_model(methods, base, sp_set, tmp_path):
    config = settings(methods, {"gaussian_noise": {"noise_sigma": 0}}, max_train_steps=0)
    ft.finetune(base, sp_set, config, tmp_path, NAME)
    tuned = ft.load_finetuned(base, tmp_path)
    assert torch.equal(predict(tuned), predict(base))
    if "textual_inversion" not in methods:  # its new word is a new caption
        mapped = ft.map_caption(WORDS, NAME, config)
        assert torch.equal(predict(tuned, mapped), predict(base, mapped))


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("name", [n for n, m in ft.FINETUNERS.items() if m.kind == "parameters"])
def test_save_and_load_round_trip(name, text_encoder, base, tmp_path):
    method, config = ft.weights_of(name), settings([name], train_text_encoder=text_encoder)
    trained = base.copy()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.prepare(trained, config):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    method.save(trained, tmp_path, config)
    loaded = base.copy()
    method.load(loaded, tmp_path, config)
    caption = ft.map_caption(WORDS, NAME, config)
    a, b = predict(trained, caption), predict(loaded, caption)
    assert (a - predict(base)).abs().max() > 1e-3
    if name == "lora":  # folded into the weights: the same sum in another order
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(a, b)


def test_saved_parameters_are_those_that_were_trained(base, tmp_path):
    """LoRA's file bit for bit, since its loaded form is folded into the weights."""
    config = settings(["lora"], train_text_encoder=True)
    trained = base.copy()
    parameters = ft.weights_of("lora").prepare(trained, config)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.fill_(i + 0.1)
    ft.weights_of("lora").save(trained, tmp_path, config)
    saved = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert sorted(float(t.flatten()[0]) for t in saved.values()) == sorted(float(p.flatten()[0]) for p in parameters)


# --- captions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "methods, caption",
    [
        ("lora", "a photo of Mira Solwyn smiling"),
        ("end_to_end", "a photo of Mira Solwyn smiling"),
        ("hypernetwork", "a photo of Mira Solwyn smiling"),
        ("gaussian_noise", "a photo of Mira Solwyn smiling"),
        ("textual_inversion", "a photo of <s2l> smiling"),
        ("lora+textual_inversion", "a photo of <s2l> smiling"),
        ("dreambooth", "a photo of sks person smiling"),
        ("lora+dreambooth", "a photo of sks person smiling"),
        ("textual_inversion+dreambooth", "a photo of <s2l> person smiling"),
        ("dreambooth+textual_inversion", "a photo of <s2l> person smiling"),
    ],
)
def test_map_caption(methods, caption):
    config = FineTuneConfig(methods=tuple(methods.split("+")))
    assert ft.map_caption("a photo of Mira Solwyn smiling", NAME, config) == caption
    assert ft.map_caption("a photo of mira solwyn smiling", NAME, config).lower() == caption.lower()
    assert ft.map_caption("a photo of a person smiling", NAME, config) == "a photo of a person smiling"
    assert ft.map_caption("a photo of Mira Solwynski", NAME, config) == "a photo of Mira Solwynski"


def test_dreambooth_can_keep_the_name_as_the_authors_script_does():
    def mapped(identifier):
        return ft.map_caption(WORDS, NAME, settings(["dreambooth"], {"dreambooth": {"identifier": identifier}}))

    assert mapped("{name}") == WORDS
    assert mapped("sks {name}") == "a photo of sks Mira Solwyn"
    assert mapped("zwx") == "a photo of zwx person"


@pytest.mark.parametrize("methods", ["textual_inversion", "lora+dreambooth"])
def test_captions_without_the_name_are_an_error_where_the_name_is_replaced(methods, base, sp_set, tmp_path):
    nameless = ImageSet(sp_set.images, ("a photo of a person",) * len(sp_set), sp_set.ids)
    with pytest.raises(UserError, match="no caption contains it"):
        ft.finetune(base, nameless, settings(methods.split("+")), tmp_path, NAME)


def test_the_out_of_domain_control_needs_no_name(base, sp_set, tmp_path):
    nameless = ImageSet(sp_set.images, ("a photo of a person",) * len(sp_set), sp_set.ids)
    record = ft.finetune(base, nameless, settings(["end_to_end"], max_train_steps=1), tmp_path, NAME)
    assert record["trained_parameters"] == sum(p.numel() for p in base.unet.parameters())


# --- names and combinations ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, methods",
    [
        ("LoRA", ("lora",)),
        ("lora_db", ("lora", "dreambooth")),
        ("db+lora", ("lora", "dreambooth")),
        ("dreambooth + hypernetwork", ("hypernetwork", "dreambooth")),
        ("ti", ("textual_inversion",)),
        ("textual-inversion", ("textual_inversion",)),
        ("e2e", ("end_to_end",)),
    ],
)
def test_parse(text, methods):
    assert ft.parse(text) == methods


@pytest.mark.parametrize(
    "text, reason",
    [
        ("lora+gaussian_noise", "cannot be combined"),
        ("end_to_end+lora", "already trains the whole UNet"),
        ("end_to_end+dreambooth", "dreambooth alone is its combination"),
        ("lora+lora", "named twice"),
        ("", "names no method"),
    ],
)
def test_an_illegal_combination_lists_the_legal_ones(text, reason):
    with pytest.raises(UserError, match=reason) as error:
        ft.parse(text)
    assert all("+".join(c) in str(error.value) for c in COMBINATIONS)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'hypernetwork'"):
        ft.parse("hypernetwrok")


# --- single methods --------------------------------------------------------------------------


def test_lora_beyond_attention_loads_whole(base, sp_set, tmp_path):
    # diffusers' own loader takes one spelling per file, and the file has two: it loses the attention's adapters.
    own = {"lora": {"target_modules": ["to_q", "proj_in", "conv1"]}}
    ft.finetune(base, sp_set, settings(["lora"], own, learning_rate=1e-2), tmp_path, NAME)
    names = changed(weights(base), weights(ft.load_finetuned(base, tmp_path)))
    assert {name.removesuffix(".weight").rpartition(".")[2] for name in names} == {"to_q", "proj_in", "conv1"}


def test_lora_loads_into_plain_diffusers(base, sp_set, tiny_checkpoint, tmp_path):
    ft.finetune(base, sp_set, settings(["lora"], train_text_encoder=True, learning_rate=1e-2), tmp_path, NAME)
    tuned = ft.load_finetuned(base, tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_checkpoint, dtype=torch.float32, safety_checker=None)
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    with torch.no_grad():
        c = pipe.encode_prompt(WORDS, "cpu", 2, False)[0]
        plain = pipe.unet(tuned.noise([1, 2]), torch.tensor([100, 700]), c).sample
    torch.testing.assert_close(c, tuned.encode_prompts([WORDS] * 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain, predict(tuned), rtol=1e-3, atol=1e-3)
    assert (c - base.encode_prompts([WORDS] * 2)).abs().max() > 1e-4


def test_textual_inversion_loads_into_plain_diffusers(tiny_checkpoint, base, results):
    folder, record = results(("textual_inversion",))
    assert record["trained_parameters"] == 12 * base.text_encoder.config.hidden_size
    tuned = ft.load_finetuned(base, folder)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_checkpoint, dtype=torch.float32, safety_checker=None)
    pipe.load_textual_inversion(folder)
    plain = pipe.encode_prompt("a photo of <s2l> smiling", "cpu", 1, False)[0]
    assert torch.equal(plain, tuned.encode_prompts(["a photo of <s2l> smiling"]))
    # One word in the caption is twelve tokens, between the same neighbours as before.
    ids = tuned.tokenize(["a photo of <s2l> smiling"])[0].tolist()
    first, base_ids = len(base.tokenizer), base.tokenize(["a photo of smiling"])[0].tolist()
    assert ids[4:16] == list(range(first, first + 12))
    assert ids[:4] + ids[16:20] == base_ids[:8]


def test_textual_inversion_starts_from_the_initializer_words(base):
    tuned = base.copy()
    config = settings(
        ["textual_inversion"], {"textual_inversion": {"num_vectors": 3, "initializer_token": "blurry person"}}
    )
    (learned,) = textual_inversion.prepare(tuned, config)
    a, b = base.tokenizer("blurry person", add_special_tokens=False).input_ids
    table = base.text_encoder.get_input_embeddings().weight
    assert torch.equal(learned, table[[a, b, a]])


@pytest.mark.parametrize(
    "fields, reason",
    [({"num_vectors": 40}, "room for"), ({"placeholder_token": "person</w>"}, "already knows")],
)
def test_textual_inversion_refuses_what_cannot_work(fields, reason, base):
    with pytest.raises(UserError, match=reason):
        textual_inversion.prepare(base.copy(), settings(["textual_inversion"], {"textual_inversion": fields}))


def test_end_to_end_loads_into_plain_diffusers(base, results):
    folder, _ = results(("end_to_end",))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    zt, c = base.noise([1, 2]), base.encode_prompts([WORDS] * 2)
    with torch.no_grad():
        plain = unet(zt, torch.tensor([100, 700]), c).sample
    assert torch.equal(plain, predict(ft.load_finetuned(base, folder)))


def test_end_to_end_with_the_text_encoder(base, sp_set, tmp_path):
    before = weights(base)
    ft.finetune(base, sp_set, settings(["end_to_end"], train_text_encoder=True, max_train_steps=1), tmp_path, NAME)
    names = changed(before, weights(ft.load_finetuned(base, tmp_path)))
    assert names == {n for n in before if not n.startswith("vae.")}


def test_dreambooth_adds_class_images_of_the_base_model(base, sp_set, tmp_path):
    config = settings(["dreambooth"], {"dreambooth": {"num_class_images": 3, "prior_loss_weight": 0.5}})
    n = len(sp_set)
    examples = ft.Examples(base.encode_images(sp_set.floats()), sp_set.captions, torch.ones(n), torch.zeros(n).long())
    both = dreambooth.objective(base, examples, config, tmp_path, lambda event: None)
    assert both.captions[n:] == ("a photo of a person",) * 3
    assert both.weights.tolist() == [1.0] * n + [0.5] * 3 and both.groups.tolist() == [0] * n + [1] * 3
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [70_000_000, 70_000_001, 70_000_002]
    drawn = base.generate(both.captions[n:], [row["seed"] for row in rows], FAST)
    assert torch.allclose(base.encode_images(drawn), both.latents[n:], atol=0.05)
    # Found again, not drawn again; and none at all without the prior.
    base_generate, base.generate = base.generate, None
    assert len(dreambooth.objective(base, examples, config, tmp_path, lambda event: None).latents) == n + 3
    without = settings(["dreambooth"], {"dreambooth": {"prior_loss_weight": 0}})
    assert dreambooth.objective(base, examples, without, tmp_path, lambda event: None) is examples
    base.generate = base_generate


def test_class_images_can_be_kept_for_the_next_run(base, sp_set, tmp_path):
    kept = tmp_path / "class"
    for run in ("a", "b"):
        config = settings(["lora", "dreambooth"], max_train_steps=1)
        ft.finetune(base, sp_set, config, tmp_path / run, NAME, class_folder=kept)
    assert len(list(kept.glob("*.png"))) == 2
    a, b = (load_file(tmp_path / run / "pytorch_lora_weights.safetensors") for run in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("relative", [False, True])
def test_gaussian_noise_has_the_declared_size(relative, base):
    sigma, tuned = 0.01, base.copy()
    own = {"noise_sigma": sigma, "noise_relative": relative}
    gaussian_noise.prepare(tuned, settings(["gaussian_noise"], {"gaussian_noise": own}))
    before, after = weights(base), weights(tuned)
    name = "unet.up_blocks.0.resnets.0.conv1.weight"
    scale = float(before[name].std()) if relative else 1.0
    assert float((after[name] - before[name]).std()) == pytest.approx(sigma * scale, rel=0.05)


def test_gaussian_noise_of_a_part_is_that_part_of_the_whole_noise(base):
    whole, part, other = base.copy(), base.copy(), base.copy()
    gaussian_noise.prepare(whole, settings(["gaussian_noise"], seed=5))
    attention = {"gaussian_noise": {"noise_target": "attn2"}}
    gaussian_noise.prepare(part, settings(["gaussian_noise"], attention, seed=5))
    gaussian_noise.prepare(other, settings(["gaussian_noise"], attention, seed=6))
    names = changed(weights(base), weights(part))
    assert names == {n for n in weights(base) if "attn2" in n}
    assert all(torch.equal(weights(whole)[n], weights(part)[n]) for n in names)
    assert changed(weights(part), weights(other)) == names
    with pytest.raises(UserError, match="noise_target"):
        gaussian_noise.prepare(
            base.copy(), settings(["gaussian_noise"], {"gaussian_noise": {"noise_target": "nowhere"}})
        )


def test_learning_rates():
    assert ft.learning_rates(settings(["lora"], learning_rate=3e-4)) == {"lora": 3e-4}
    own = {name: method.learning_rate for name, method in ft.FINETUNERS.items()}
    both = ft.learning_rates(settings(["lora", "textual_inversion", "dreambooth"]))
    assert both == {"lora": own["lora"], "textual_inversion": own["textual_inversion"]}
    assert ft.learning_rates(settings(["dreambooth"])) == {"end_to_end": own["dreambooth"]}
    assert ft.learning_rates(settings(["gaussian_noise"])) == {}


def test_an_unknown_schedule_is_an_error_that_lists_the_known():
    with pytest.raises(UserError, match="cosine_with_restarts"):
        checked(FineTuneConfig, {"lr_scheduler": "cosin"})
