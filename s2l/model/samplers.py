"""The samplers, built from nothing but a model's noise schedule and what it predicts.

Every other setting is ours and spelled out, so that neither a checkpoint's own (spacing, clipping, solver, Karras
sigmas) nor a default of the library's next version changes how pictures are drawn.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from s2l.config import SamplerConfig
from s2l.model.schedule import Schedule

# "trailing" starts at the noisiest timestep, as training did (Lin et al. 2023, table 2). Latents are not bounded by 1,
# so nothing is clipped. The last step ends at the first timestep's alpha, as in Stable Diffusion's own sampler.
COMMON = {
    "timestep_spacing": "trailing",
    "steps_offset": 0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "rescale_betas_zero_snr": False,
}
DDIM = COMMON | {"clip_sample": False, "clip_sample_range": 1.0, "set_alpha_to_one": False}
DPM_SOLVER = COMMON | {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -float("inf"),
    "variance_type": None,
}


def ddim(schedule: Schedule, prediction_type: str) -> DDIMScheduler:
    """DDIM (Song et al. 2021) without noise between steps; also the keeper of a loaded model's schedule."""
    return DDIMScheduler(**_trained(schedule), prediction_type=prediction_type, **DDIM)


def dpm_solver(schedule: Schedule, prediction_type: str) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of second order (Lu et al. 2022)."""
    return DPMSolverMultistepScheduler(**_trained(schedule), prediction_type=prediction_type, **DPM_SOLVER)


def _trained(schedule: Schedule) -> dict[str, Any]:
    betas = schedule.trained_betas
    return asdict(schedule) | {"trained_betas": None if betas is None else list(betas)}


def make_sampler(
    schedule: Schedule, prediction_type: str, sampler: SamplerConfig, device: torch.device
) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """The sampler that `sampler` asks for, with its timesteps set."""
    if sampler.scheduler == "ddim":
        scheduler = ddim(schedule, prediction_type)
    else:
        scheduler = dpm_solver(schedule, prediction_type)
    scheduler.set_timesteps(sampler.num_inference_steps, device=device)
    if scheduler.timesteps[-1] < 0:
        # Where 1000 / n rounds down (n = 61, 103, ...) trailing spacing takes one step more, to timestep -1. As an
        # index that is the noisiest timestep, which ruins the picture.
        if isinstance(scheduler, DDIMScheduler):
            scheduler.timesteps = scheduler.timesteps[:-1]
        else:
            scheduler.set_timesteps(timesteps=scheduler.timesteps[:-1].tolist(), device=device)
    return scheduler
