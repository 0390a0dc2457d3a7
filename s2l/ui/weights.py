"""The fine-tuned weights of a run as one file to download, with the lines that load them. No gradio here."""

from __future__ import annotations

import zipfile
from pathlib import Path

from s2l.record import Result

PARTS = ("config.json", "*.safetensors", "unet/*", "text_encoder/*")  # what a fine-tuning leaves, without its samples
# {a file of the folder: the lines that load it into a diffusers pipeline}
LOADS = {
    "unet": 'pipe.unet = UNet2DConditionModel.from_pretrained("weights/unet", use_safetensors=True)',
    "text_encoder": 'pipe.text_encoder = CLIPTextModel.from_pretrained("weights/text_encoder", use_safetensors=True)',
    "pytorch_lora_weights.safetensors": (
        'pipe.load_lora_weights("weights", weight_name="pytorch_lora_weights.safetensors")'
    ),
    "learned_embeds.safetensors": 'pipe.load_textual_inversion("weights/learned_embeds.safetensors")',
    "hypernetwork.safetensors": "# hypernetwork.safetensors: only this program loads it (s2l.finetune.load_finetuned)",
}
README = """The weights of one fine-tuning: {what}. They belong to the base model {base}.

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)  # the folder of the base model
{lines}

The captions of the training are in the SP set's metadata.jsonl; config.json has every setting.
"""


def files_of(result: Result) -> list[Path]:
    """The files to download; [] where the weights are not kept: the example, an audit, a method that saves none."""
    folder = folder_of(result)
    if folder is None:
        return []
    found = sorted(path for part in PARTS for path in folder.glob(part) if path.is_file())
    return found if any(path.suffix == ".safetensors" for path in found) else []


def folder_of(result: Result) -> Path | None:
    """The folder of a run's fine-tuning, if it is still in the cache."""
    relative = result.record["folders"].get("finetune")
    folder = result.store.root / relative if relative else None
    return folder if folder is not None and folder.is_dir() else None


def readme(result: Result, what: str) -> str:
    """How to load the weights with diffusers alone."""
    folder = folder_of(result)
    lines = [line for name, line in LOADS.items() if folder is not None and (folder / name).exists()]
    return README.format(what=what, base=result.record["model"]["name"], lines="\n".join(lines))


def write_zip(result: Result, what: str, path: Path) -> None:
    """Write the weights and their README into one file at `path`."""
    folder = folder_of(result)
    with zipfile.ZipFile(path, "w") as archive:  # numbers that look random do not get smaller
        archive.writestr("weights/README.txt", readme(result, what))
        for file in files_of(result):
            archive.write(file, f"weights/{file.relative_to(folder or file.parent)}")
