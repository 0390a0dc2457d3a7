"""Which stages a run has and how its work divides among them, before it starts."""

from __future__ import annotations

import math

from s2l.config import FineTuneConfig, RunConfig, SamplerConfig
from s2l.pipeline import stages
from s2l.pipeline.stages import Stage

GUESSED_MEMBERS = 40  # in folders that are not read yet
SAMPLE_ROUNDS = 5  # how often at most a training generates its four sample pictures, besides before the first step


def sample_every(config: FineTuneConfig) -> int:
    """Number of training steps between two rounds of sample pictures."""
    return max(1, math.ceil(config.max_train_steps / SAMPLE_ROUNDS))


def class_images(config: RunConfig) -> int:
    """Number of class pictures that a run generates for DreamBooth; 0 if it needs none."""
    from s2l.finetune import dreambooth

    if "dreambooth" not in config.finetune.methods or config.finetune.max_train_steps == 0:
        return 0
    return dreambooth.number_of_class_images(config.finetune, config.sp_set.set_size)


def plan(config: RunConfig) -> dict[Stage, float]:
    """{stage: UNet evaluations} in the order of the run, to estimate the time left; cheap stages are left out."""
    from s2l import attacks
    from s2l.finetune import dreambooth
    from s2l.finetune.trainer import SAMPLE_SEEDS, SAMPLER
    from s2l.pipeline import guidance

    tune, n_images = config.finetune, (config.domain.n_members or GUESSED_MEMBERS) + config.domain.n_nonmembers
    work = {stages.SP_SET: _generating(config.sp_set.set_size, config.sp_set.sampler)}
    for name in config.sp_set.together or ():
        work[stages.sp_set_of(name)] = work[stages.SP_SET]
    training = 3.0 * tune.max_train_steps * tune.train_batch_size  # a step costs a forward and a backward pass
    if n_class := class_images(config):
        work[stages.CLASS_IMAGES] = _generating(n_class, dreambooth.own_settings(tune).class_sampler)
        training *= 2  # each step has one class picture per SP picture
    rounds = 1 + math.ceil(tune.max_train_steps / sample_every(tune))
    training += rounds * _generating(len(SAMPLE_SEEDS), SAMPLER)
    work[stages.FINETUNE] = 0.0 if tune.methods == ("gaussian_noise",) else training
    per_prediction = guidance.evaluations_per_prediction(config.unshake)
    for name in config.audit.attacks:
        attack = attacks.get_attack(name)
        evaluations = n_images * attack.evaluations(attacks.attack_settings(name, config.audit))
        work[stages.scores(name, attack.title, "before")] = evaluations
        work[stages.scores(name, attack.title, "after")] = evaluations * per_prediction
    if config.unshake is not None and "loss" in config.audit.attacks:
        work[stages.LOSS_PARTS] = 2 * work[stages.scores("loss", attacks.get_attack("loss").title, "before")]
    if config.extraction.seed_pool is not None:
        work[stages.SEEDS] = guidance.generation_cost(config.extraction, "before").selection
    for when in ("before", "after"):
        work[stages.generations(when)] = guidance.generation_cost(config.extraction, when, config.unshake).denoising
    return work | {stages.COMPARE: 0.01 * sum(work.values())}


def _generating(n: int, sampler: SamplerConfig) -> float:
    """UNet evaluations of n pictures."""
    return n * sampler.num_inference_steps * (2 if sampler.guidance_scale != 1 else 1)
