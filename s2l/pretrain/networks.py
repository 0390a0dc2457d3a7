"""A lab's networks before training: a Stable Diffusion pipeline in everything but size."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from s2l.pretrain.recipe import Size
from s2l.worlds.people import vocabulary

END_OF_WORD = "</w>"  # CLIP's mark on the last token of a word
MAX_TOKENS = 32  # a caption has at most 24; Textual Inversion replaces a name with up to 17 tokens


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that turn each word into one token; pairs of equal frequency are taken in alphabetical order.

    The `tokenizers` trainer breaks such ties by a hash that differs from process to process, so a
    resumed training would give the same words other ids.
    """
    spellings = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in spellings for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for parts in spellings:
            for i in reversed(range(len(parts) - 1)):
                if tuple(parts[i : i + 2]) == best:
                    parts[i : i + 2] = ["".join(best)]
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges turn every word of the lab into one token.

    Unknown words are split into shorter pieces, as rare words are by CLIP's own tokenizer.
    """
    words = vocabulary()
    merges = _merges(words)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Every letter also has a form that ends a word, so that no prompt contains an unknown symbol.
    endings = [chr(c) + END_OF_WORD for c in range(33, 127) if not chr(c).isupper()]
    tokens = [*letters, *endings, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    split_words = [w for w in words if len(tokenizer(w, add_special_tokens=False).input_ids) != 1]
    if split_words:
        raise RuntimeError(f"the tokenizer splits words of the lab: {split_words}")
    return tokenizer


def build_pipeline(size: Size, seed: int = 0) -> StableDiffusionPipeline:
    """The untrained pipeline, float32 on the CPU. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=size.text_width,
                intermediate_size=4 * size.text_width,
                num_hidden_layers=size.text_layers,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                projection_dim=size.text_width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        levels = len(size.vae_channels)
        vae = AutoencoderKL(
            sample_size=size.resolution,
            block_out_channels=size.vae_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
        levels = len(size.unet_channels)
        unet = UNet2DConditionModel(
            sample_size=size.latent,
            block_out_channels=size.unet_channels,
            layers_per_block=1,
            # No attention at the full latent resolution: it would take most of the time.
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            cross_attention_dim=size.text_width,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        scheduler = DDIMScheduler(  # Stable Diffusion's noise schedule
            num_train_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
