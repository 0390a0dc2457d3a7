"""Hypernetwork: small networks that rewrite the text context of every cross-attention.

Every cross-attention reads the caption's embeddings c twice, as keys and as values. Two residual
networks per layer change what it reads; the model's own weights stay frozen:

    c     context, (N, L, D)
    k(c)  c + W2 silu(W1 c + b1) + b2, W1: D -> 2D, W2: 2D -> D, for the keys
    v(c)  the same form with weights of its own, for the values
    Attention(Q, K, V) = softmax(Q K' / sqrt(d)) V with K = W_K k(c), V = W_V v(c)

W2 and b2 start at zero, so that step 0 is the base model. The method comes from the Stable Diffusion
community (NovelAI 2022) and has no paper; this is written from that description.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from s2l.config import FineTuneConfig
from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel
from s2l.model.loading import read_finite

WEIGHTS = "hypernetwork.safetensors"
NAME = re.compile(r".+\.attn2\.[kv]\.(up|down)\.(weight|bias)")


class Residual(nn.Module):
    """x (..., D) -> x + W2 silu(W1 x + b1) + b2."""

    def __init__(self, dim: int):
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.silu(self.up(x)))


class HypernetworkProcessor(nn.Module):
    """The processor of one cross-attention: like diffusers' AttnProcessor2_0, on a rewritten context."""

    def __init__(self, dim: int):
        super().__init__()
        self.k, self.v = Residual(dim), Residual(dim)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        """hidden_states (N, S, C) attend to encoder_hidden_states (N, L, D): (N, S, C)."""
        residual, context = hidden_states, encoder_hidden_states
        n, length, _ = context.shape

        def heads(x: torch.Tensor) -> torch.Tensor:  # (N, ., heads * d) -> (N, heads, ., d)
            return x.view(n, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, length, n)
            attention_mask = attention_mask.view(n, attn.heads, -1, attention_mask.shape[-1])
        if attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query = heads(attn.to_q(hidden_states))
        key, value = heads(attn.to_k(self.k(context))), heads(attn.to_v(self.v(context)))
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        out = attn.to_out[0](out.transpose(1, 2).flatten(2).to(query.dtype))  # to_out[1] is dropout
        return (out + residual if attn.residual_connection else out) / attn.rescale_output_factor


def _attach(model: DiffusionModel) -> nn.ModuleDict:
    """Put a new hypernetwork into the UNet; returns its parts by the cross-attention's name."""
    added = {}
    for name, attn in model.unet.named_modules():
        if name.endswith("attn2"):
            processor = HypernetworkProcessor(attn.cross_attention_dim)
            attn.set_processor(processor.to(model.device, model.dtype))
            added[name.replace(".", "/")] = processor  # a module's name has no dot
    return nn.ModuleDict(added)


def prepare(model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
    """Attach the networks, their first layers drawn from the seed, their last ones at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return list(_attach(model).parameters())


def save(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Write `hypernetwork.safetensors`: {"<cross-attention>.<k or v>.<up or down>.<weight or bias>"}."""
    parts = {n: p for n, p in model.unet.attn_processors.items() if isinstance(p, HypernetworkProcessor)}
    weights = {}
    for name, processor in parts.items():
        for key, tensor in processor.state_dict().items():
            weights[f"{name.removesuffix('.processor')}.{key}"] = tensor.detach().cpu().contiguous()
    save_file(weights, folder / WEIGHTS)


def load(model: DiffusionModel, folder: Path, config: FineTuneConfig, scale: float = 1.0) -> None:
    """Attach the saved networks: two more small matrix products per cross-attention.

    `scale` multiplies what they add to the context: it goes into their last layer.
    """
    attach(model, folder / WEIGHTS, scale)


def is_hypernetwork(names: Iterable[str]) -> bool:
    """Whether a file's tensors are those of `save`."""
    return all(NAME.fullmatch(name) for name in names)


def attach(model: DiffusionModel, file: Path, scale: float = 1.0) -> None:
    """The same for a file without its folder. Raises UserError for networks of another base model."""
    weights = {}
    for name, tensor in read_finite(file).items():
        layer, rest = name.split(".attn2.")
        weights[f"{layer.replace('.', '/')}/attn2.{rest}"] = tensor.float() * (scale if ".down." in rest else 1)
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten: leave no trace of it
        try:
            _attach(model).load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[-1].strip()
            raise UserError(f"{file} is a hypernetwork of another base model: {reason}") from error
