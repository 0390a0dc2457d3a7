"""The lab's networks before training: a Stable Diffusion pipeline in everything but size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from s2l.lab.people import vocabulary

MAX_TOKENS = 32  # a caption has at most 24; Textual Inversion puts up to 17 tokens in a name's place


@dataclass(frozen=True)
class Size:
    """Widths of the networks. `latent` is the side of a latent: resolution / 4."""

    resolution: int = 64
    vae_channels: tuple[int, ...] = (16, 32, 64)
    unet_channels: tuple[int, ...] = (64, 96, 128)
    text_width: int = 96
    text_layers: int = 2

    @property
    def latent(self) -> int:
        return self.resolution // 2 ** (len(self.vae_channels) - 1)


FULL = Size()
QUICK = Size(resolution=32, vae_channels=(16, 32, 32), unet_channels=(32, 64), text_width=32)


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges make one token of every word of the lab.

    Unknown words fall apart into letters, as rare words do in CLIP's own tokenizer.
    """
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    # Every letter also ends a word once, so that no prompt contains an unknown symbol.
    words = vocabulary() + [chr(c) for c in range(33, 127)]
    bpe.train_from_iterator([" ".join(words)] * 2, trainer)
    import json

    state = json.loads(bpe.to_str())["model"]
    vocab = dict(state["vocab"])
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    split = [w for w in vocabulary() if len(tokenizer(w, add_special_tokens=False).input_ids) != 1]
    if split:
        raise RuntimeError(f"the tokenizer splits words of the lab: {split}")
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
            # No attention at the full latent resolution: it is where the time would go.
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
