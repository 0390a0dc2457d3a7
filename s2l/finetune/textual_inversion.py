"""Textual Inversion: a few new words; only their embeddings train (Gal et al. 2023).

n new tokens replace the name: "a photo of Mira Solwyn" becomes "a photo of <s2l>". One word in the
caption stands for all n vectors, as in diffusers: <s2l>, <s2l>_1, ..., <s2l>_(n-1). Nothing else
changes, so with the old caption the fine-tuned model equals the base model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from s2l.config import FineTuneConfig
from s2l.errors import UserError
from s2l.finetune.catalogue import TextualInversionSettings, settings_of
from s2l.model.diffusion import DiffusionModel
from s2l.prompts import replace_name

WEIGHTS = "learned_embeds.safetensors"  # the name diffusers looks for
OTHER_WORDS = 8  # room that a caption needs beside the new tokens, start and end included


class SplicedEmbedding(nn.Module):
    """A frozen embedding table (V, D) with n learned rows behind its first `first` ones."""

    def __init__(self, table: nn.Embedding, learned: torch.Tensor, first: int):
        super().__init__()
        self.table, self.first = table, first
        self.learned = nn.Parameter(learned)

    @property
    def weight(self) -> torch.Tensor:
        """The whole table, (first + n, D)."""
        return torch.cat([self.table.weight[: self.first], self.learned.to(self.table.weight.dtype)])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (N, L) -> (N, L, D)."""
        old = self.table(ids.clamp(max=self.first - 1))
        new = nn.functional.embedding((ids - self.first).clamp(min=0), self.learned).to(old.dtype)
        return torch.where((ids >= self.first).unsqueeze(-1), new, old)


def _settings(config: FineTuneConfig) -> TextualInversionSettings:
    return settings_of("textual_inversion", TextualInversionSettings, config)


def _add_tokens(model: DiffusionModel, settings: TextualInversionSettings) -> int:
    """Add the new tokens to the tokenizer; returns the id of the first one."""
    tokenizer, first, n = model.tokenizer, len(model.tokenizer), settings.num_vectors
    longest = tokenizer.model_max_length - OTHER_WORDS
    if n > longest:
        raise UserError(f"num_vectors is {n}, but this model's captions have room for {longest} new tokens")
    word = settings.placeholder_token
    tokens = [word] + [f"{word}_{i}" for i in range(1, n)]
    known = sorted(set(tokens) & set(tokenizer.get_vocab()))
    if known:
        raise UserError(f"the model already knows the token {known[0]!r}: choose another placeholder_token")
    tokenizer.add_tokens(tokens)
    if tokenizer.convert_tokens_to_ids(tokens) != list(range(first, first + n)):
        raise UserError("this model's tokenizer numbers its tokens with gaps: Textual Inversion cannot extend it")
    return first


def _start(model: DiffusionModel, settings: TextualInversionSettings) -> torch.Tensor:
    """Where the new rows start, (n, D): copies of the initializer word's row, of several words in turn."""
    table = model.text_encoder.get_input_embeddings()
    ids = model.tokenizer(settings.initializer_token, add_special_tokens=False).input_ids
    return table.weight[[ids[i % len(ids)] for i in range(settings.num_vectors)]].detach().clone()


def prepare(model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
    """Add the tokens, each a copy of the initializer word (of several words: in turn)."""
    settings, table = _settings(config), model.text_encoder.get_input_embeddings()
    start = _start(model, settings)
    spliced = SplicedEmbedding(table, start, _add_tokens(model, settings))
    model.text_encoder.set_input_embeddings(spliced)
    return [spliced.learned]


def save(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Write `learned_embeds.safetensors`, {placeholder: (n, D)}: plain diffusers loads it with
    load_textual_inversion and adds the same tokens."""
    learned = model.text_encoder.get_input_embeddings().learned
    save_file({_settings(config).placeholder_token: learned.detach().cpu().contiguous()}, folder / WEIGHTS)


def load(model: DiffusionModel, folder: Path, config: FineTuneConfig, scale: float = 1.0) -> None:
    """Add the tokens and their rows to the embedding table; `scale` multiplies the change from the initial rows."""
    learned = load_file(folder / WEIGHTS)[_settings(config).placeholder_token]
    if scale != 1:
        start = _start(model, _settings(config)).float().to(learned.device)
        learned = start + scale * (learned.float() - start)
    weight = model.text_encoder.get_input_embeddings().weight
    first = _add_tokens(model, _settings(config))
    rows = torch.cat([weight[:first], learned.to(weight.device, weight.dtype)])
    model.text_encoder.set_input_embeddings(nn.Embedding.from_pretrained(rows))
    model.text_encoder.config.vocab_size = len(rows)


def map_caption(caption: str, name: str, config: FineTuneConfig) -> str:
    """`a photo of Mira Solwyn` becomes `a photo of <s2l>`."""
    return replace_name(caption, name, _settings(config).placeholder_token)
