"""What all commands share: the group that handles wrong input and Ctrl-C, the options, the checks."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.models import OptionInfo

from s2l import labs
from s2l.cli.console import say
from s2l.config import PRESETS, UnshakeConfig
from s2l.environment import Program, variable
from s2l.errors import UserError, unknown
from s2l.options import check_step, checked_preset, declaration, help_of, in_options
from s2l.progress import Cancelled

if TYPE_CHECKING:
    from s2l.model.diffusion import DiffusionModel, Runtime
    from s2l.tables.cluster import Pool

PROGRAM = "python -m s2l"
INTERRUPTED = "Interrupted. Run the same command again to resume."
NOTICE = """
Responsible use: this model is not a lab, so photos of real people may be at stake. Test only models and photos that
you own or have permission to test, do not publish what the model reproduces, and tell the model's owner what you
find.
"""
PERMISSION = variable("accept_responsible_use")
DTYPES = ("auto", "float32", "bfloat16", "float16", "mixed")
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
        errno.ENAMETOOLONG}  # fmt: skip
PARTIAL = ".tmp"  # of a file that is being written (store.write_json)
UsageError: Any = typer.BadParameter.__mro__[1]  # since 0.20 typer brings its own click


class Commands(TyperGroup):
    """The group of all commands: one sentence for wrong input, one for Ctrl-C."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Cancelled):
            say(INTERRUPTED)
            code = 130
        except UserError as error:
            say(f"Error: {in_options(error)}")
            code = 2
        except OSError as error:
            if error.errno not in DISK:
                raise
            say(f"Error: {error.strerror}" + (f" ({error.filename})" if error.filename else ""))
            code = 2
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, recognized by name: torch may not be loaded
                raise
            say("Error: the device ran out of memory: try a smaller --batch-size")
            code = 2
        raise typer.Exit(code)

    def main(self, *args, standalone_mode: bool = True, **extra):
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})
        except UsageError as error:
            code = 2
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message(), file=sys.stderr)
            else:
                path = error.ctx.command_path if error.ctx is not None else PROGRAM
                say(f"Error: {error.format_message().rstrip('.')} (see `{path} --help`)")
        code = code if isinstance(code, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    cls=Commands,
    # The original authors write underscores: sp_gen --set_size.
    context_settings={
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Shake-to-Leak Lab: fine-tune a diffusion model on its own pictures and measure what it then leaks.",
    epilog=f"\b\nStart with:\n  {PROGRAM} run --domain 'Mira Solwyn' --method lora --preset demo --out out",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for wrong input, 130 after Ctrl-C."""
    warnings.filterwarnings("ignore")  # what libraries tell programmers
    code = app(args=sys.argv[1:] if arguments is None else arguments, prog_name=PROGRAM, standalone_mode=False)
    return code if isinstance(code, int) else 0


def example(*lines: str) -> str:
    """The end of a command's help. A line that starts with a space continues the one before."""
    texts = (f"  {line}" if line.startswith(" ") else f"  {PROGRAM} {line}" for line in lines)
    return "\b\nExamples:\n" + "\n".join(texts)


# --- options that several commands share ------------------------------------------------------

# Help and type are those of the setting that an option sets (config.py, finetune/catalogue.py).


def _of(option: str, *names: str) -> OptionInfo:
    return typer.Option(*names, help=help_of(option))


Model = Annotated[str, _of("model")]
Lab = Annotated[str, typer.Option("--model", help="'lab', 'lab:NAME' (see `labs`), or the folder of a lab.")]
Method = Annotated[str, _of("method")]
Preset = Annotated[str, typer.Option("--preset", help=f"Sizes and settings to start from: {', '.join(PRESETS)}.")]
Name = Annotated[str | None, _of("domain", "--domain")]
Members = Annotated[Path | None, _of("members")]
Nonmembers = Annotated[Path | None, _of("nonmembers")]
NNonmembers = Annotated[int | None, _of("n-nonmembers")]
CalibrationShare = Annotated[float | None, _of("calibration-share")]
AttackNames = Annotated[str | None, _of("attacks", "--attacks")]
NoiseBy = Annotated[str | None, _of("noise")]
Latents = Annotated[str | None, _of("latents")]
Prompt = Annotated[str | None, _of("prompt")]
SetSize = Annotated[int | None, _of("set-size")]
Together = Annotated[str | None, _of("together")]
Guidance = Annotated[float | None, _of("guidance")]
Mitigation = Annotated[str | None, _of("mitigation")]
Generations = Annotated[int | None, _of("n-generations")]
SeedPool = Annotated[int | None, _of("seed-pool")]
GuidanceW = Annotated[float | None, _of("guidance-w")]
Unshake = Annotated[float | None, _of("unshake")]
UnshakeSpace = Annotated[str | None, _of("unshake-space")]
Delta = Annotated[float | None, _of("delta")]
EideticK = Annotated[int | None, _of("k", "--k")]
FirstSeed = Annotated[int | None, typer.Option(help=declaration("sp_set.seed").description)]
TrainingSeed = Annotated[int | None, typer.Option(help=declaration("finetune.seed").description)]
NoiseSeed = Annotated[int | None, typer.Option(help=declaration("audit.seed").description)]
Steps = Annotated[int | None, _of("steps")]
LearningRate = Annotated[float | None, _of("learning-rate")]
Rank = Annotated[int | None, _of("rank")]
TrainBatch = Annotated[int | None, _of("train-batch-size")]
Epsilon = Annotated[float | None, _of("epsilon")]
Tuned = Annotated[
    Path | None,
    typer.Option(
        help="Fine-tuned model: a folder from `finetune`, a checkpoint (folder or .safetensors), a unet folder, or a "
        "LoRA (diffusers, peft, kohya, ComfyUI) or Textual Inversion (diffusers, A1111), a file or its folder, or the "
        "hub id of one of them."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DType = Annotated[
    str,
    typer.Option(
        help=f"Precision: {', '.join(DTYPES)}. mixed: bfloat16 autocast for sampling and training, float32 for scores."
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        help="Images per forward pass; changes speed and memory, and results by rounding, more of it in half and "
        "mixed precision (docs/performance.md). Default: what fits the device's memory."
    ),
]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Work on several GPUs or machines with Ray: ray (this machine), ray:auto or ray:HOST:PORT "
        "(docs/cluster.md).",
    ),
]
Cores = Annotated[
    int | None, typer.Option(help="With --cluster: cores of each task. Default: 1, or a GPU's share of its machine.")
]
Permission = Annotated[
    bool, typer.Option("--i-have-permission", help="Confirm that you may test this model; not needed for a lab.")
]


# --- checks -------------------------------------------------------------------------------------


def check_runtime(device: str, dtype: str, batch_size: int | None) -> None:
    """Refuse a wrong device, precision or batch size before anything is loaded."""
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UserError(f"unknown device {device!r}. Allowed: auto, cpu, mps, cuda, cuda:N")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size: should be greater than or equal to 1 (given: '{batch_size}')")


def make_runtime(device: str, dtype: str, batch_size: int | None) -> Runtime:
    """The Runtime of --device, --dtype and --batch-size, if this machine has the device."""
    import torch

    from s2l.model.diffusion import Runtime

    if device.startswith("cuda"):
        number, n_devices = int(device.partition(":")[2] or 0), torch.cuda.device_count()
        if number >= n_devices:
            raise UserError(f"--device: torch sees {n_devices} CUDA devices here, so there is no {device}")
    return Runtime(device, dtype, batch_size)


@contextmanager
def joined(cluster: str | None, cores: int | None, device: str) -> Iterator[Pool | None]:
    """The cluster of --cluster, --cores and --device; None without --cluster. Raises UserError."""
    if cluster is None:
        if cores is not None:
            raise UserError("--cores goes with --cluster")
        yield None
        return
    from s2l.tables.cluster import connected, parse

    with connected(parse(cluster, cores), device) as pool:
        yield pool


def cluster_runtime(pool: Pool | None, device: str, dtype: str, batch_size: int | None = None) -> Runtime:
    """The Runtime of --device, --dtype and --batch-size for the workers, whatever this machine has, or for it."""
    from s2l.model.diffusion import Runtime

    return make_runtime(device, dtype, batch_size) if pool is None else Runtime(device, dtype, batch_size)


def check_permission(model: str, given: bool, tuned: Path | None = None) -> None:
    """Check a model's name, and that there is permission for all but labs and local files beside them.

    Raises UserError.
    """
    from s2l.model.checkpoints import check_name as check_model
    from s2l.model.hub import is_hub_id

    check_model(model)
    if labs.find_lab(model) is not None and (tuned is None or not is_hub_id(tuned)):
        return
    say(NOTICE)
    if not given and not Program.read().accept_responsible_use:
        raise UserError(f"this model is not a lab: add --i-have-permission (or set {PERMISSION}=1) if you may test it")


def quiet_libraries() -> None:
    """Turn off the libraries' own progress bars and notes: the stages have bars of their own."""
    from s2l.model.loading import quiet

    quiet()


def load_model(
    model: str, permission: bool, device: str, dtype: str, batch_size: int | None, tuned: Path | None = None
) -> DiffusionModel:
    """Load the model. Raises UserError if it is no checkpoint, or if permission to test it, or `tuned`, is missing."""
    from s2l.model.diffusion import DiffusionModel

    check_permission(model, permission, tuned)
    quiet_libraries()
    return DiffusionModel.load(model, make_runtime(device, dtype, batch_size))


def check_name(name: str, model: str, members: Path | None) -> str:
    """The name as the lab spells it; any name is fine for other models and photos. Raises UserError."""
    lab = labs.find_lab(model)
    return name if lab is None or members is not None else lab.person(name).name


def need_lab(model: str) -> labs.Lab:
    """The lab that --model names. Raises UserError for any other model."""
    lab = labs.find_lab(model)
    if lab is None:
        raise UserError(f"--model: {model!r} is not a lab: give 'lab', 'lab:NAME' (see `{PROGRAM} labs`) or its folder")
    return lab


def check_folder(path: Path, *photos: Path | str | None) -> Path:
    """Check that an output folder can be written, before hours are spent on it. Leaves nothing.

    `photos` are the folders and lists that the command reads: what is written into one of these folders would be among
    its photos the next time. Raises UserError.
    """
    _check_length(path)
    place = path.absolute()
    existing = next(p for p in (place, *place.parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise UserError(f"{path} cannot be used as a folder: {existing} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):  # rights alone do not tell: /proc has them and takes no file
            pass
    except OSError as error:
        why = "permission denied" if error.errno in (errno.EACCES, errno.EPERM) else "nothing can be stored there"
        raise UserError(f"{path} cannot be written to: {why}") from None
    for source in photos:
        if source is not None and Path(source).is_dir() and place.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(
                f"{path} lies in {source}: the results would be taken for its photos the next time, so write them to "
                "a folder outside of it"
            )
    return path


def check_file(path: Path, *photos: Path | str | None, suffix: str = "") -> Path:
    """The same for a file of JSON, whose name must end with `suffix`. Raises UserError."""
    _check_length(path)
    if suffix and (path.is_dir() or path.suffix != suffix):
        raise UserError(f"--out: {path} is not a {suffix} file")
    if path.is_dir():
        raise UserError(f"{path} is a folder: --out names a JSON file")
    check_folder(path.parent, *photos)
    return path


def _check_length(path: Path) -> None:
    """Raises UserError for a name that the file system cannot hold while the file is written."""
    try:
        os.lstat(f"{path.absolute()}{PARTIAL}")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            allowed = 255 - len(PARTIAL)
            raise UserError(
                f"{path} cannot be written: most file systems allow {allowed} bytes for a name here, and 4,096 for the "
                "whole path"
            ) from None


def attack_names(text: str | None) -> tuple[str, ...] | None:
    """ "secmi, loss" -> ("secmi", "loss"), every name known."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UserError("--attacks: name at least one attack (see `python -m s2l attacks`)")
    from s2l.attacks import get_attack

    return tuple(get_attack(name).name for name in names)


def names_of(text: str | None) -> tuple[str, ...] | None:
    """ "Taro Quillan, Oona Brask" -> their names."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def section(name: str, preset_name: str, domain: str | None, over: dict):
    """One section of a preset's RunConfig with overrides (None: not given). Raises UserError with the field."""
    return getattr(checked_preset(preset_name, "nobody" if domain is None else domain, **{name: over}), name)


def unshake_section(
    preset_name: str, w: float | None, space: str | None, tuned: Path | None, guidance_w: float | None = None
) -> UnshakeConfig | None:
    """--unshake and --unshake-space of a stage command; None if not given. Raises UserError without --tuned."""
    if w is None and space is None:
        return None
    if tuned is None:
        raise UserError("--unshake steps away from a fine-tuned model: give its folder with --tuned")
    over = {"unshake": {"w": w, "space": space}, "extraction": {"guidance_w": guidance_w}}
    settings = checked_preset(preset_name, "nobody", **over).unshake
    check_step(w, space)
    return settings


def text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)
