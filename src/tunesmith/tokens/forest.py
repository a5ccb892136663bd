"""Many answers in their contexts as one flat row of tokens in which every shared token stands once.

A batch is a set of prefix trees. Tokens lie in depth-first order; a run is a stretch without a branch, and what a token
sees is itself, the tokens before it in its run, and the runs above. There is no label tensor and no mask here: what is
trained are triples (source, target, weight). Knows nothing of text, and of models only that they predict the next id.
(Tree Training, arXiv 2511.00413.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tunesmith.tokens.answer import Answer

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens [start, stop) of a forest without a branch among them; `parent` is the run above, -1 at a root."""

    start: int
    stop: int
    parent: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where one answer ended up: the last token of its path, and its targets' places, in order."""

    token: int
    targets: Ints


@dataclass(frozen=True)
class Forest:
    """n tokens, m targets. The hidden state at token `source[j]` must predict `target[j]` with weight `weight[j]`."""

    input_ids: Ints  # [n]
    position_ids: Ints  # [n], depth in the tree
    runs: list[Run]
    source: Ints  # [m]
    target: Ints  # [m]
    weight: npt.NDArray[np.float64]  # [m]
    leaves: list[Leaf]  # one for each answer, in the order given

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def pairs(self) -> int:
        """How many tokens all tokens see together, themselves included."""
        depth, count = np.zeros(len(self.runs), dtype=np.int64), 0  # of each run's last token
        for i, run in enumerate(self.runs):
            length, above = run.stop - run.start, int(depth[run.parent]) if run.parent >= 0 else 0
            depth[i] = above + length
            count += length * above + length * (length + 1) // 2
        return count

    def path_of_run(self, run: int) -> list[tuple[int, int]]:
        """Token ranges above a run, from the root down, ranges that touch merged."""
        ranges: list[tuple[int, int]] = []
        above = self.runs[run].parent
        while above >= 0:
            start, stop, above = self.runs[above].start, self.runs[above].stop, self.runs[above].parent
            if ranges and stop == ranges[-1][0]:
                ranges[-1] = (start, ranges[-1][1])
            else:
                ranges.append((start, stop))
        return ranges[::-1]

    def path(self, token: int) -> Ints:
        """Indices of the tokens that `token` sees, itself last."""
        run = next(i for i, r in enumerate(self.runs) if r.start <= token < r.stop)
        ranges = [*self.path_of_run(run), (self.runs[run].start, token + 1)]
        return np.concatenate([np.arange(a, b) for a, b in ranges])

    def answers(self) -> list[tuple[list[int], list[int], list[float]]]:
        """(context ids, answer ids, weights) of every answer, read back off the trees."""
        found = []
        for leaf in self.leaves:
            path = self.path(leaf.token)
            sources = self.source[leaf.targets]
            context = path[path <= sources[0]]
            parts = self.input_ids[context], self.target[leaf.targets], self.weight[leaf.targets]
            found.append((parts[0].tolist(), parts[1].tolist(), parts[2].tolist()))
        return found


def grow(answers: Sequence[Answer]) -> Forest:
    """The forest of these answers. Equal (context, target) merge and their weights add.

    An answer's last token is a target only: nothing is predicted from it, so it needs no place unless another
    answer's context goes through it.
    """
    sequences = [np.asarray(a.context_ids + a.answer_ids, dtype=">u4") for a in answers]
    # in sorted order, what two neighbours share is all that any two share: depth-first order for free
    order = sorted(range(len(answers)), key=lambda i: sequences[i][:-1].tobytes())
    ids: list[npt.NDArray] = []
    depth: list[Ints] = []
    paths: dict[int, Ints] = {}
    shared: list[int] = []
    previous, path, n = np.empty(0, dtype=">u4"), np.empty(0, dtype=np.int64), 0
    for i in order:
        sequence = sequences[i][:-1]
        k = _common_prefix(previous, sequence)
        new = len(sequence) - k
        path = np.concatenate([path[:k], np.arange(n, n + new)])
        ids.append(sequence[k:])
        depth.append(np.arange(k, len(sequence)))
        paths[i] = path
        shared.append(k)
        previous, n = sequence, n + new
    source, target, weight, places = _targets(answers, paths)
    return Forest(
        input_ids=_joined(ids),
        position_ids=_joined(depth),
        runs=_runs([paths[i] for i in order], shared, n),
        source=source,
        target=target,
        weight=weight,
        leaves=[Leaf(int(paths[i][-1]), places[i]) for i in range(len(answers))],
    )


def one_path(ids: Sequence[int]) -> Forest:
    """Tokens in a row, with nothing to predict."""
    nothing = np.empty(0, dtype=np.int64)
    run = Run(0, len(ids), -1)
    return Forest(np.asarray(ids), np.arange(len(ids)), [run], nothing, nothing, np.empty(0), [])


def common_beginning(answers: Sequence[Answer]) -> list[int]:
    """The tokens that all contexts begin with, but for a context's last one: something is predicted from that."""
    contexts = sorted(a.context_ids for a in answers)
    first, last = contexts[0], contexts[-1]  # what these two share, all in between share
    shortest = min(map(len, contexts)) - 1
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), shortest)
    return first[: min(shared, shortest)]


def _targets(answers: Sequence[Answer], paths: dict[int, Ints]) -> tuple[Ints, Ints, npt.NDArray, list[Ints]]:
    """Triples of all answers, merged by (source, target), and for each answer the places of its own."""
    sources = [paths[i][len(a.context_ids) - 1 :] for i, a in enumerate(answers)]
    if not sources:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, np.empty(0), []
    pairs = np.stack([np.concatenate(sources), np.concatenate([a.answer_ids for a in answers])], axis=1)
    unique, place = np.unique(pairs, axis=0, return_inverse=True)
    place = place.reshape(-1)
    weight = np.zeros(len(unique))
    np.add.at(weight, place, np.concatenate([a.weights for a in answers]))
    cuts = np.cumsum([len(a.answer_ids) for a in answers])[:-1]
    return unique[:, 0].astype(np.int64), unique[:, 1].astype(np.int64), weight, np.split(place, cuts)


def _runs(paths: list[Ints], shared: list[int], n: int) -> list[Run]:
    """Runs in order. A path that shares k tokens with the one before it branches off after its k-th token."""
    parent_of = np.full(n, -2, dtype=np.int64)  # of each run's first token: the token above it, -1 at a root
    starts = {0} if n else set()
    for path, k in zip(paths, shared, strict=True):
        if k == len(path):
            continue  # a whole path that is there already
        first, above = int(path[k]), int(path[k - 1]) if k else -1
        if k and first == above + 1:
            continue  # it goes on where a shorter path ended
        parent_of[first] = above
        starts |= {first, above + 1}  # the run above ends where this one leaves it
    bounds = [*sorted(starts), n]
    spans = list(pairwise(bounds))
    run_of = np.searchsorted(bounds, np.arange(n), side="right") - 1
    return [Run(a, b, _run_above(parent_of[a], a, run_of)) for a, b in spans]


def _run_above(parent: int, start: int, run_of: Ints) -> int:
    if parent == -1:
        return -1
    # a run that no branch began goes on where the one before it was cut
    return int(run_of[start - 1] if parent == -2 else run_of[parent])


def _common_prefix(a: npt.NDArray, b: npt.NDArray) -> int:
    m = min(len(a), len(b))
    differ = np.flatnonzero(a[:m] != b[:m])
    return int(differ[0]) if len(differ) else m


def _joined(parts: list[npt.NDArray]) -> Ints:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)
