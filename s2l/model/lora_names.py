"""The names of LoRA files: whose layer a tensor belongs to, and what it is there. Loads no torch.

Trainers spell one layer in many ways:

    unet.mid_block.attentions.0.proj_in.lora_A.weight                   diffusers since 0.22
    unet.mid_block.attentions.0.proj_in.lora.down.weight                diffusers 0.17 to 0.21
    ....attn1.processor.to_q_lora.down.weight                           before; only attention has it
    base_model.model.mid_block.attentions.0.proj_in.lora_A.weight       peft
    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight           kohya
    lora_unet_middle_block_1_proj_in.lora_down.weight                   kohya, with the names of the original code
    diffusion_model.middle_block.1.proj_in.lora_up.weight               ComfyUI, which has these names too

Instead of translating one spelling into another, this looks each name up among the spellings of the base model's own
layers: what is not there has no place in this model, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from s2l.errors import UserError

DOWN, UP, ALPHA = "lora_A.weight", "lora_B.weight", "alpha"  # the first two as peft calls them
ROLES = (
    (re.compile(r"(.+)\.lora_A(\.[\w-]+)?\.weight"), DOWN),
    (re.compile(r"(.+)\.lora_B(\.[\w-]+)?\.weight"), UP),
    (re.compile(r"(.+)\.(lora\.|lora_linear_layer\.|lora_)down\.weight"), DOWN),
    (re.compile(r"(.+)\.(lora\.|lora_linear_layer\.|lora_)up\.weight"), UP),
    (re.compile(r"(.+_lora)\.down\.weight"), DOWN),
    (re.compile(r"(.+_lora)\.up\.weight"), UP),
    (re.compile(r"(.+?)(\.lora)?\.alpha"), ALPHA),
)
ADAPTER = re.compile(r"\.lora_[AB]\.([\w-]+)\.weight$")  # peft's name of an adapter, "default" if nobody gave one
PREFIXES = {
    "model.diffusion_model.": "unet", "diffusion_model.": "unet", "text_encoders.clip_l.transformer.": "text_encoder",
    "unet.": "unet", "text_encoder.": "text_encoder",
    "lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
}  # fmt: skip
PEFT_ROOT = "base_model.model."
WRAPPERS = re.compile(r"(module|_orig_mod)\.")
# What cannot be folded into the weights by w + scale * up @ down, by a part of the names.
OTHER_KINDS = {
    "dora_scale": "DoRA (weight-decomposed LoRA)",
    "lora_magnitude_vector": "DoRA (weight-decomposed LoRA)",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_": "OFT",
    "boft_": "BOFT",
    "lora_mid.": "a LoCon with Tucker decomposition (lora_mid)",
    ".on_input": "(IA)3",
    ".ia3_l": "(IA)3",
    "lora_embedding_": "a LoRA of the token embeddings",
    "bundle_emb.": "a LoRA with bundled embeddings",
    "lora_B.bias": "a LoRA with biases (lora_bias)",
    "lora_B.default.bias": "a LoRA with biases (lora_bias)",
    "lora_up.bias": "a LoRA with biases (lora_bias)",
    "modules_to_save.": "a LoRA with whole layers beside it (modules_to_save)",
}
OTHER_ENDS = {".diff": "full differences of weights (LyCORIS full)", ".diff_b": "full differences of weights",
              ".a1.weight": "GLoRA", ".w_norm": "norms of layers",
              ".scalar": "scalars beside its matrices (LyCORIS, use_scalar)"}  # fmt: skip
OTHER_BASES = {
    "lora_te2_": "SDXL", "text_encoder_2.": "SDXL", "lora_te3_": "SD3", "lora_transformer_": "another architecture",
    "transformer.": "another architecture", "diffusion_model.double_blocks.": "another architecture",
    "diffusion_model.joint_blocks.": "another architecture", "diffusion_model.blocks.": "another architecture",
    "text_encoders.clip_g.": "SDXL",
}  # fmt: skip
SUPPORTED = "LoRA of diffusers, peft, kohya and ComfyUI is supported"


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs: part "unet" or "text_encoder", the layer's name in the model, DOWN, UP or ALPHA."""

    part: str
    layer: str
    role: str


def is_lora(names: Iterable[str]) -> bool:
    """Whether the tensors of a file look like a LoRA, or like one of its relatives."""
    words = ("lora_", ".lora.", "_lora.", *OTHER_KINDS)
    return any(any(word in name for word in words) or name.endswith(tuple(OTHER_ENDS)) for name in names)


def tool_of(names: Iterable[str]) -> str:
    """Which tool's spelling the names have: "kohya", "ComfyUI", "peft" or "diffusers"."""
    names = list(names)
    if any("diffusion_model." in name for name in names):
        return "ComfyUI"
    if any(name.startswith("lora_") for name in names):
        return "kohya"
    return "peft" if any(name.startswith(PEFT_ROOT) for name in names) else "diffusers"


def refuse_other_kinds(names: Iterable[str], source: object) -> None:
    """Raises UserError, naming the kind, for relatives of LoRA and for models of other architectures."""
    for name in names:
        kind = next((kind for word, kind in OTHER_KINDS.items() if word in name), None)
        kind = kind or next((kind for end, kind in OTHER_ENDS.items() if name.endswith(end)), None)
        if kind is not None:
            raise UserError(f"{source} holds {kind}, as {name} shows, which is not supported; {SUPPORTED}")
        base = next((base for prefix, base in OTHER_BASES.items() if name.startswith(prefix)), None)
        if base is not None:
            raise UserError(f"{source} is an adapter of {base}, as {name} shows, not of Stable Diffusion 1.x or 2.x")


class Spellings:
    """All names that tools give to the layers of one base model; `layers` are the names in each part."""

    def __init__(self, layers: Mapping[str, Iterable[str]]):
        self.known: dict[tuple[str, str], str] = {}
        for part, names in ((part, list(names)) for part, names in layers.items()):
            original = original_names(names) if part == "unet" else {}
            for name in names:
                bare = name.removeprefix("text_model.")
                for form in (bare, f"text_model.{bare}") if part == "text_encoder" else (name, original[name]):
                    for spelling in {form, form.replace(".", "_"), *_before_017(form, part)}:
                        self.known[part, spelling] = name

    def place(self, name: str, part: str | None = None) -> Place | None:
        """Where the tensor of that name belongs; None if nowhere. `part` is for files that do not say it."""
        bare = WRAPPERS.sub("", name)
        prefix = next((p for p in PREFIXES if bare.startswith(p)), "")
        owner = PREFIXES.get(prefix, part or "unet")
        bare = bare.removeprefix(prefix).removeprefix(PEFT_ROOT)
        for pattern, role in ROLES:
            if (found := pattern.fullmatch(bare)) and (layer := self.known.get((owner, found[1]))) is not None:
                return Place(owner, layer, role)
        return None


RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3",
          "conv_shortcut": "skip_connection"}  # fmt: skip
ENDS = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2"}  # fmt: skip


def original_names(layers: Iterable[str]) -> dict[str, str]:
    """{name of a UNet's layer in diffusers: its name in the original code of Stable Diffusion}, for every layer.

    The original code counts input and output blocks through all levels: one for each residual block, with the attention
    behind it if there is one, and one for each step down; a step up belongs to the last block of its level. How many
    there are of each is read from the layers' names, which follow the model's configuration.
    """
    layers = list(layers)
    modules = _block_modules(layers)
    found = dict(ENDS)
    found |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
              "mid_block.resnets.1": "middle_block.2"}  # fmt: skip
    count = {"down": 1, "up": 0}  # the first input block is the first convolution
    for way, level in sorted({(way, level) for way, level, _, _ in modules}):
        stem, side = f"{way}_blocks.{level}", "input_blocks" if way == "down" else "output_blocks"
        blocks = sorted(i for w, lv, kind, i in modules if (w, lv, kind) == (way, level, "resnets"))
        for i in blocks:
            found[f"{stem}.resnets.{i}"] = f"{side}.{count[way]}.0"
            found[f"{stem}.attentions.{i}"] = f"{side}.{count[way]}.1"
            count[way] += 1
        if ("down", level, "downsamplers", 0) in modules and way == "down":
            found[f"{stem}.downsamplers.0.conv"] = f"{side}.{count[way]}.0.op"
            count[way] += 1
        if way == "up":
            behind = 2 if ("up", level, "attentions", blocks[-1]) in modules else 1
            found[f"{stem}.upsamplers.0.conv"] = f"{side}.{count[way] - 1}.{behind}.conv"
    return {layer: _original_name(layer, found) for layer in layers}


def _block_modules(layers: Iterable[str]) -> set[tuple[str, int, str, int]]:
    """{("down" or "up", level, kind of module, its number)}."""
    pattern = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")
    matches = filter(None, map(pattern.match, layers))
    return {(at[1], int(at[2]), at[3], int(at[4])) for at in matches}


def _original_name(layer: str, modules: Mapping[str, str]) -> str:
    """A layer's name, given those of the modules; a layer that the original code does not have keeps its own."""
    stem = next((name for name in modules if layer == name or layer.startswith(f"{name}.")), None)
    if stem is None:
        return layer
    rest = layer.removeprefix(stem).removeprefix(".")
    if ".resnets." in stem:
        rest = RESNET.get(rest, rest)
    return f"{modules[stem]}.{rest}" if rest else modules[stem]


def _before_017(layer: str, part: str) -> list[str]:
    """How diffusers called an attention layer before 0.17."""
    own = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"} if part == "unet" else \
          {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}  # fmt: skip
    for name, old in own.items():
        if layer.endswith(f".{name}"):
            stem = layer.removesuffix(name)
            return [f"{stem}processor.{old}_lora", f"{stem}{old}_lora"]
    return []
