"""Whether the folders that a gate compares are apart: a threshold set on the pictures that it judges is none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from s2l.data.domain import ImageSet
from s2l.data.files import near_copies, perceptual_hashes
from s2l.errors import UserError


def check_apart(upload: ImageSet, private: ImageSet | None, honest: Sequence[tuple[str, ImageSet]]) -> None:
    """Refuse honest groups, (name, pictures), that share pictures or near-copies with each other, with the private
    photos or with the upload. Near-copies are those of `near_copies`: saved again, smaller or brighter.

    Raises UserError with the first pair found.
    """
    groups = [(name, group, perceptual_hashes(group.images)) for name, group in honest]
    others = [("the upload", upload, "the threshold would be set on the pictures that it judges")]
    if private is not None:
        others.append(("the private photos", private, "copies of them would then count as honest"))
    for what, pictures, why in others:
        theirs = perceptual_hashes(pictures.images)
        for name, group, hashes in groups:
            if pairs := near_copies(group.images, pictures.images, hashes, theirs):
                i, j = pairs[0]
                raise UserError(
                    f"{name} shares pictures with {what}, such as {group.ids[i]} and {pictures.ids[j]}: {why}",
                    field="honest",
                )
    for (name, group, hashes), (other, more, theirs) in combinations(groups, 2):
        if pairs := near_copies(group.images, more.images, hashes, theirs):
            i, j = pairs[0]
            raise UserError(
                f"{name} and {other} share pictures, such as {group.ids[i]} and {more.ids[j]}: each honest upload is "
                "of another person, because false alarms are measured on people left out",
                field="honest",
            )
