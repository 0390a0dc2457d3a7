"""The report of two folders: what was used and left out, captions, how the files were saved, near-copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from s2l.data.files import COMPARED, Traits, jpeg_quality, near_copies, perceptual_hashes
from s2l.data.photos import Photos

NAMED = 3  # names that are given of each kind
LISTED = 8  # formats, sizes and qualities that are given, most frequent first; the others are counted
SAVED = {"formats": "format", "sizes": "size", "jpeg_qualities": "JPEG quality", "metadata": "metadata"}
LEVEL = 0.001  # p-value below which a difference between the folders is named


@dataclass(frozen=True)
class LeftOut:
    """Photos that are not used: why, how many, and the first names."""

    reason: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class NearCopies:
    """Photos that have a near-copy, and the first pairs of names."""

    count: int
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FolderFacts:
    """One folder. `found` = `used` + `unread` + those left out; counts by kind are over the used photos."""

    found: int
    used: int
    unread: int  # not needed
    left_out: tuple[LeftOut, ...]
    other_files: dict[str, int]  # by suffix
    captioned: int  # used photos with a caption of their own
    unmatched_captions: int
    formats: dict[str, int]
    sizes: dict[str, int]  # "WxH"
    jpeg_qualities: dict[str, int]  # estimated from the quantization tables
    jpeg_tables: int  # different sets of them
    metadata: dict[str, int]
    near_copies: NearCopies


@dataclass(frozen=True)
class FolderReport:
    """Both folders, near-copies between them (counted in held-out photos), and how their files differ."""

    members: FolderFacts
    nonmembers: FolderFacts
    near_copies: NearCopies
    differences: tuple[str, ...]

    def record(self) -> dict:
        """As JSON holds it: "domain.report" of a result."""
        return asdict(self)


def folder_report(members: Photos, nonmembers: Photos) -> FolderReport:
    """The report of two folders, from what reading them gave. Near-copies are searched among the photos used."""
    ours, theirs = (perceptual_hashes(photos.images[:COMPARED]) for photos in (members, nonmembers))
    between = near_copies(nonmembers.images, members.images, theirs, ours)
    copies = NearCopies(len({i for i, _ in between}), _names(between, nonmembers.names, members.names))
    return FolderReport(_facts(members, ours), _facts(nonmembers, theirs), copies, _differences(members, nonmembers))


def _facts(photos: Photos, hashes: np.ndarray) -> FolderFacts:
    account, pairs = photos.account, near_copies(photos.images, hashes=hashes)
    traits = account.traits
    qualities = Counter(_quality(t) for t in traits if t.quantization)
    return FolderFacts(
        account.found,
        len(photos.names),
        account.unread,
        tuple(LeftOut(why, len(names), tuple(names[:NAMED])) for why, names in account.left_out.items()),
        account.others,
        account.captioned,
        account.unmatched,
        _top(Counter(t.format for t in traits)),
        _top(Counter(_size(t) for t in traits)),
        _top(qualities),
        len({t.quantization for t in traits if t.quantization}),
        _top(Counter(kind for t in traits for kind in t.metadata)),
        NearCopies(len({i for pair in pairs for i in pair}), _names(pairs, photos.names, photos.names)),
    )


def _size(traits: Traits) -> str:
    return f"{traits.width}x{traits.height}"


def _quality(traits: Traits) -> str:
    return str(jpeg_quality(traits.quantization[0]))


def _top(counts: Counter[str]) -> dict[str, int]:
    top = dict(counts.most_common(LISTED))
    rest = counts.total() - sum(top.values())
    return top | ({"others": rest} if rest else {})


def _names(pairs: list[tuple[int, int]], left: tuple[str, ...], right: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((left[i], right[j]) for i, j in pairs[:NAMED])


def _differences(members: Photos, nonmembers: Photos) -> tuple[str, ...]:
    """For each fact of files, the value whose share differs most, where Fisher's exact test sees a difference."""
    sides = (members.account.traits, nonmembers.account.traits)
    kinds: dict[str, Callable[[Traits], tuple[str, ...]]] = {
        "format": lambda t: (t.format,),
        "size": lambda t: (_size(t),),
        "JPEG quality": lambda t: (_quality(t),) if t.quantization else (),
        "metadata": lambda t: t.metadata,
    }
    found = []
    for what, values in kinds.items():
        counts = [Counter(value for t in traits for value in values(t)) for traits in sides]
        a, b = (len(traits) for traits in sides)
        most = max(counts[0] | counts[1], key=lambda v: abs(counts[0][v] / a - counts[1][v] / b), default=None)
        if most is None:
            continue
        n, m = counts[0][most], counts[1][most]
        if fisher_exact([[n, a - n], [m, b - m]]).pvalue < LEVEL:
            found.append(f"{what} {most}: {n} of {a} members, {m} of {b} held-out photos")
    return tuple(found)


# --- as text -----------------------------------------------------------------------------------


def folder_lines(report: Mapping[str, Any] | None) -> list[str]:
    """The report as lines of text; `report` is its record, or None for a lab's photos, which need none."""
    if report is None:
        return []
    lines = _lines("members", report["members"]) + _lines("held-out photos", report["nonmembers"])
    lines.append(f"between the folders: {_copies(report['near_copies'])}")
    lines += [f"the folders differ: {difference}" for difference in report["differences"]]
    return [line[0].upper() + line[1:] for line in lines]


def alike_line(report: Mapping[str, Any]) -> str:
    """How far the files of two folders are alike, of which no difference is named: equal, or not beyond chance."""
    sides = report["members"], report["nonmembers"]
    n, m = (side["used"] for side in sides)
    shares = [{kind: {v: c / side["used"] for v, c in side[kind].items()} for kind in SAVED} for side in sides]
    unlike = [name for kind, name in SAVED.items() if shares[0][kind] != shares[1][kind]]
    if not unlike:
        return f"The folders do not differ in {', '.join(list(SAVED.values())[:-1])} or {SAVED['metadata']}"
    line = (
        f"The folders differ in {', '.join(unlike)}, which may be chance (p at least {LEVEL:g} in Fisher's exact test)"
    )
    few = fisher_exact([[n, 0], [0, m]]).pvalue >= LEVEL
    return f"{line}: {n} and {m} photos are too few to tell" if few else line


def _lines(what: str, facts: Mapping[str, Any]) -> list[str]:
    used = f"{facts['used']} of {facts['found']} used"
    if facts["unread"]:
        used += f", {facts['unread']} not needed"
    left = [f"{x['count']} left out, {x['reason']} ({_first(x['names'], x['count'])})" for x in facts["left_out"]]
    if facts["other_files"]:
        left.append(f"other files: {_counts(facts['other_files'])}")
    captions = f"captions: {facts['captioned']} matched, {facts['used'] - facts['captioned']} photos without"
    if facts["unmatched_captions"]:
        captions += f", {facts['unmatched_captions']} match no picture"
    saved = [_counts(facts["formats"]), f"pixels: {_counts(facts['sizes'])}"]
    if facts["jpeg_qualities"]:
        tables = f"{facts['jpeg_tables']} table{'s' if facts['jpeg_tables'] > 1 else ''}"
        saved.append(f"JPEG quality about {_counts(facts['jpeg_qualities'])} ({tables})")
    saved.append(f"metadata: {_counts(facts['metadata']) if facts['metadata'] else 'none'}")
    body = ["; ".join([used, *left]), captions, "; ".join(saved), _copies(facts["near_copies"])]
    return [f"{what}: {line}" for line in body]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value or 'without suffix'} ({n})" for value, n in counts.items())


def _first(names: Sequence[str], count: int) -> str:
    text = ", ".join(names)
    return f"{text}, ..." if count > len(names) else text


def _copies(copies: Mapping[str, Any]) -> str:
    if not copies["count"]:
        return "no near-copies"
    pairs = ", ".join(f"{a} and {b}" for a, b in copies["pairs"])
    return f"{copies['count']} photos have a near-copy, such as {pairs}"
