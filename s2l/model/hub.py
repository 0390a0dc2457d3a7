"""Repositories of the Hugging Face hub: which of their files are downloaded, into the hub's own cache.

Only safetensors and configurations: a pickle is never downloaded. Who gives a hub id opts in to the download.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from s2l.config import HUB
from s2l.errors import UserError

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
# What training scripts leave in a repository beside the model.
TRAINING = ("checkpoint-*", "*optimizer*", "runs/*", "logs/*")


def is_hub_id(given: str | Path) -> bool:
    """Whether a name is one of the hub: it starts with "hub:", or is OWNER/NAME and nothing here is called so."""
    name = Path(given).as_posix()
    return name.startswith(HUB) or (HUB_ID.fullmatch(name) is not None and not Path(given).exists())


def check_hub_id(given: str, supported: str) -> None:
    """Raises UserError for a name that starts with "hub:" and goes on with no hub id."""
    if not HUB_ID.fullmatch(given.removeprefix(HUB)):
        raise UserError(f"{given!r} is not a hub id; {supported}")


def refuse_cache(folder: Path) -> None:
    """Raises UserError for the top of a repository in the hub's cache, which may hold several commits."""
    if (folder / "snapshots").is_dir() and (folder / "blobs").is_dir():
        commit = next((path for path in sorted((folder / "snapshots").iterdir())), folder / "snapshots" / "COMMIT")
        raise UserError(f"{folder} is a repository in the hub's cache: give the folder of a commit in it, {commit}")


def snapshot(
    model: str, allow: Sequence[str], ignore: Sequence[str], supported: str, download: bool = True, commit: str = ""
) -> Path:
    """The folder of a repository in the hub's cache, named after its commit, with the files that the patterns allow.

    `commit` is that of an earlier call for the same model. The token comes from HF_TOKEN only. Raises UserError, which
    ends with what is `supported`.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    check_hub_id(model, supported)
    address = HUB_ID.fullmatch(model.removeprefix(HUB))
    assert address is not None
    # The library's messages are not passed on: they can hold addresses with signatures.
    try:
        folder = snapshot_download(
            repo_id=address["repo"],
            revision=commit or address["revision"],
            allow_patterns=list(allow),
            ignore_patterns=list(ignore),
            token=os.environ.get("HF_TOKEN") or False,  # False: not even one that is saved on this machine
            local_files_only=not download,
        )
        return Path(folder)
    except hub.GatedRepoError:
        reason = "its owner asks for an agreement: accept it on the hub's page, then set HF_TOKEN"
    except hub.RepositoryNotFoundError:
        reason = "there is no such folder here and no such public repository on the hub (private ones need HF_TOKEN)"
    except hub.RevisionNotFoundError:
        reason = f"the repository has no revision {address['revision']!r}"
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        why = "it is not on this machine and the hub is out of reach" if download else "it is not downloaded yet"
        reason = f"there is no such folder here, and {why}: download it where there is a network, and give its folder"
    except hub.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "?")
        reason = f"the hub answered with status {code}: try again later, or give a folder"
    raise UserError(f"{model!r} cannot be loaded: {reason}; {supported}")
