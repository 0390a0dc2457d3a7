"""Textual Inversion that other tools trained: one word whose embeddings were learned, added by diffusers' own loader.

Three spellings of the same thing: {"<token>": (n, D)} (diffusers), {"emb_params": (n, D)} (A1111, whose word is the
file's name) and {"clip_l": (n, D)} (diffusers' script with LoRA). D is the width of the text encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel
from s2l.model.headers import Header, read_header
from s2l.model.loading import read_finite

WEIGHTS = "learned_embeds.safetensors"  # the name diffusers looks for
NAMELESS = ("emb_params", "clip_l")  # the word is the file's name
SDXL = "clip_g"
LARGEST = 1024  # vectors of one word; no caption has room for more
OTHER_WORDS = 8  # room that a caption needs beside the new tokens, start and end included
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL"}


@dataclass(frozen=True)
class Learned:
    """A learned word.

    word     as its users write it in captions
    token    as it is added to the tokenizer, where `word` alone would be ambiguous
    vectors  (n, D)
    """

    word: str
    token: str
    vectors: torch.Tensor
    file: Path


def is_embedding(header: Header) -> bool:
    """Whether a file holds learned embeddings: few, short matrices, and nothing that looks like a layer."""
    if set(header.shapes) & {*NAMELESS, SDXL}:
        return True
    narrow = all(len(s) in (1, 2) and (len(s) == 1 or s[0] <= LARGEST) for s in header.shapes.values())
    return narrow and not any(name.endswith((".weight", ".bias", ".alpha")) for name in header.shapes)


def read_embedding(path: Path, base: DiffusionModel) -> Learned:
    """The word in a file. Raises UserError for several words, for another width, and for more than a caption holds."""
    header = read_header(path)
    if SDXL in header.shapes:
        raise UserError(f"{path} is a Textual Inversion for SDXL: it has embeddings for two text encoders")
    if len(header.shapes) > 1:
        names = ", ".join(sorted(header.shapes)[:3])
        raise UserError(f"{path} holds {len(header.shapes)} embeddings ({names}): give a file with one word")
    ((name, vectors),) = read_finite(path).items()
    word = path.stem if name in NAMELESS else name
    vectors = vectors.reshape(-1, vectors.shape[-1]) if vectors.ndim else vectors.reshape(1, 1)
    width = base.text_encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[1] != width:
        whose = f" ({WIDTHS[vectors.shape[1]]})" if vectors.shape[1] in WIDTHS else ""
        raise UserError(
            f"{path} does not fit the base model: its embeddings have {vectors.shape[1]:,} numbers{whose} where the "
            f"text encoder has {width:,}"
        )
    room = base.tokenizer.model_max_length - OTHER_WORDS
    if len(vectors) > room:
        raise UserError(f"{path} has {len(vectors)} vectors, but the captions of this model have room for {room}")
    known = base.tokenizer.get_vocab()
    plain = re.fullmatch(r"<[^\s<>]+>", word) is not None and word == word.lower()
    token = word if plain else f"<{re.sub(r'[^a-z0-9]+', '-', word.lower()).strip('-') or 'learned'}>"
    while token in known or f"{token}_1" in known:
        token = f"{token[:-1]}-2>"
    return Learned(word, token, vectors, path)


def add_word(model: DiffusionModel, learned: Learned) -> None:
    """Teach the word to a copy of the base model. Raises UserError if its captions would not reach the embeddings."""
    first, n = len(model.tokenizer), len(learned.vectors)
    try:
        model.pipe.load_textual_inversion({learned.token: learned.vectors}, token=learned.token)
    except ValueError as error:
        raise UserError(
            f"{learned.file} cannot be added to the model: {str(error).strip().split(chr(10))[0]}"
        ) from error
    model.text_encoder.requires_grad_(False).eval()
    rows = model.text_encoder.get_input_embeddings().weight[first : first + n]
    read = model.tokenize([learned.token])[0, 1 : 1 + n].tolist()
    if read != list(range(first, first + n)) or not torch.equal(rows.cpu(), learned.vectors.to(rows.dtype)):
        raise UserError(f"the tokenizer of this model does not read {learned.token!r} of {learned.file} as one word")


def added_words(base: DiffusionModel, tuned: DiffusionModel) -> list[str]:
    """Words that `tuned`'s tokenizer has and `base`'s lacks, by their ids; `<x>_1`, ... belong to `<x>`."""
    known = base.tokenizer.get_vocab()
    added = sorted((i, token) for token, i in tuned.tokenizer.get_vocab().items() if token not in known)
    names = {token for _, token in added}

    def continues(token: str) -> bool:
        stem, _, number = token.rpartition("_")
        return stem in names and number.isdigit()

    return [token for _, token in added if not continues(token)]
