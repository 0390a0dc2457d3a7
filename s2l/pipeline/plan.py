"""Which stages a run has and how its work divides among them, before it starts."""

from __future__ import annotations

from s2l.config import RunConfig, SamplerConfig
from s2l.pipeline import stages
from s2l.pipeline.stages import Stage

GUESSED_MEMBERS = 40  # in folders that are not read yet


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
    from s2l.pipeline import guidance

    tune, n_images = config.finetune, (config.domain.n_members or GUESSED_MEMBERS) + config.domain.n_nonmembers
    work = {stages.SP_SET: _generating(config.sp_set.set_size, config.sp_set.sampler)}
    training = 3.0 * tune.max_train_steps * tune.train_batch_size  # a step costs a forward and a backward pass
    if n_class := class_images(config):
        work[stages.CLASS_IMAGES] = _generating(n_class, dreambooth.own_settings(tune).class_sampler)
        training *= 2  # each step has one class picture per SP picture
    work[stages.FINETUNE] = 0.0 if tune.methods == ("gaussian_noise",) else training
    for name in config.audit.attacks:
        attack = attacks.get_attack(name)
        evaluations = attack.evaluations(attacks.attack_settings(name, config.audit))
        work |= {stages.scores(name, attack.title, when): n_images * evaluations for when in ("before", "after")}
    if config.extraction.seed_pool is not None:
        work[stages.SEEDS] = guidance.generation_cost(config.extraction, "before").selection
    for when in ("before", "after"):
        work[stages.generations(when)] = guidance.generation_cost(config.extraction, when).denoising
    return work | {stages.COMPARE: 0.01 * sum(work.values())}


def _generating(n: int, sampler: SamplerConfig) -> float:
    """UNet evaluations of n pictures."""
    return n * sampler.num_inference_steps * (2 if sampler.guidance_scale != 1 else 1)
