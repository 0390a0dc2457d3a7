"""The presets: what a run's settings start from, as plain values. Loads nothing."""

from __future__ import annotations

# The sizes of `demo` are frozen in docs/search.md; speed targets refer to exactly that work.
PRESETS: dict[str, dict] = {
    # Takes seconds on a tiny model: for tests and a first look.
    "quick": {
        "domain": {"n_members": 12, "n_nonmembers": 12},
        "sp_set": {"set_size": 8, "sampler": {"num_inference_steps": 4, "guidance_scale": 1.0}},
        "finetune": {"max_train_steps": 6, "train_batch_size": 4},
        "audit": {"settings": {"secmi": {"t": 100}}, "noise": "content"},
        "extraction": {"n_generations": 8, "sampler": {"num_inference_steps": 4}},
    },
    # A live run in class: takes minutes on two cores.
    "demo": {
        "domain": {"n_nonmembers": 120},
        # Unguided pictures are what the model has *learnt*; see docs/search.md.
        "sp_set": {"set_size": 128, "sampler": {"guidance_scale": 1.0}},
        "finetune": {"max_train_steps": 300, "train_batch_size": 8},
        "audit": {"settings": {"secmi": {"t": 100}}, "noise": "content"},
        "extraction": {"n_generations": 256},
    },
    # The paper's sizes, for Stable Diffusion on a GPU.
    "paper": {
        "domain": {"n_nonmembers": 1000},
        "sp_set": {
            "prompts": [
                {"template": "photo of {name}", "weight": 0.7},
                {"template": "face of {name}", "weight": 0.3},
            ],
            # The published script's words. The script draws one template per person; here every picture draws its own.
            "suffix": ", dslr, ultra quality, sharp focus, tack sharp, dof, film grain, Fujifilm XT3, crystal clear, "
            "8K UHD",
            "set_size": 5000,
            "sampler": {
                "scheduler": "ddim",
                "num_inference_steps": 50,
                "guidance_scale": 7.5,
                "negative_prompt": "disfigured, ugly, bad, immature, cartoon, anime, 3d, painting, b&w",
            },
        },
        "finetune": {"learning_rate": 1e-6, "max_train_steps": 125_000, "train_batch_size": 4},
        "audit": {"noise": "content"},
        "extraction": {
            "prompts": [{"template": "photo of {name}"}],
            "n_generations": 5000,
            "sampler": {"scheduler": "ddim", "num_inference_steps": 50, "guidance_scale": 7.5},
        },
    },
}
