"""Fine-tuning settings as older files and short forms write them: those of all methods side by side. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Spellings of the original authors and short forms.
METHOD_ALIASES = {
    "db": "dreambooth", "ti": "textual_inversion", "hn": "hypernetwork", "e2e": "end_to_end",
    "end2end": "end_to_end", "noise": "gaussian_noise",
}  # fmt: skip

# {method: names of its settings}. Older files list the settings of all methods side by side in one section. Frozen: it
# is what reads those files, and short forms such as preset("demo", name, finetune={"rank": 16}).
FLAT_SETTINGS: dict[str, tuple[str, ...]] = {
    "lora": ("rank", "lora_alpha", "target_modules"),
    "textual_inversion": ("num_vectors", "placeholder_token", "initializer_token"),
    "dreambooth": ("identifier", "class_noun", "prior_loss_weight", "num_class_images", "class_sampler"),
    "gaussian_noise": ("noise_sigma", "noise_relative", "noise_target"),
}


def with_own_sections(values: Any, default: Sequence[str]) -> Any:
    """Move flat settings to their methods; a full record's settings of methods that are not used are dropped.

    `default` are the methods of values without any. Raises ValueError for a setting that is given twice.
    """
    if not isinstance(values, dict):
        return values
    given = {name for names in FLAT_SETTINGS.values() for name in names if name in values}
    settings = values.get("settings", {})
    methods = values.get("methods", default)
    kinds = isinstance(settings, dict) and all(isinstance(own, dict) for own in settings.values())
    if not given or not kinds or not isinstance(methods, list | tuple):
        return values  # a value of the wrong type is reported by its own field
    whole = all(given.intersection(names) for names in FLAT_SETTINGS.values())  # full records list every method's
    methods = [METHOD_ALIASES.get(str(m), m) for m in methods]
    settings = {method: dict(own) for method, own in settings.items()}
    for method, names in FLAT_SETTINGS.items():
        flat = {name: values[name] for name in names if name in given}
        if twice := sorted(flat.keys() & settings.get(method, {}).keys()):
            raise ValueError(f"{twice[0]} is given twice, beside the settings of {method} and among them")
        if flat and (method in methods or not whole):
            settings[method] = flat | settings.get(method, {})
    return {name: value for name, value in values.items() if name not in given} | {"settings": settings}
