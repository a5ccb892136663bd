"""What each token of a forest sees, laid out for attention: run by run, or many runs of like size together.

Made once for a batch and used by all its layers. Indices and masks alone; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunesmith.tokens.forest import Forest

CALL_COST = 300_000  # query-key pairs whose arithmetic costs what one more group costs
GROUP_PAIRS = 1_000_000  # query-key pairs of a group at most: bounds the memory of its scores


LONGEST_RUN = 64  # queries; a longer run is cut, so that a row of its mask is not mostly unseen


@dataclass(frozen=True)
class Group:
    """Runs of like size: `queries` [b, w] and `keys` [b, s] are token indices, `mask` [b, 1, w, s] who sees whom.

    Padding repeats token 0; a padded query sees token 0 alone and is cut away by `real` [b * w] (None: no padding).
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor
    real: Tensor | None


def _groups(paths: Sequence[tuple[Tensor, int]], window: int | None) -> list[Group]:
    """`paths`: for each run the tokens on its path, itself last, and how many of them are its own."""
    order = sorted(range(len(paths)), key=lambda i: (len(paths[i][0]), paths[i][1]))
    made: list[Group] = []
    taken: list[tuple[Tensor, int]] = []
    longest = useful = 0
    for i in order:
        path, own = paths[i]
        padded = (len(taken) + 1) * max(longest, own) * len(path)
        wasteful = padded - useful - own * len(path) > CALL_COST
        if taken and (wasteful or padded > GROUP_PAIRS):
            made.append(_group(taken, window))
            taken, longest, useful = [], 0, 0
        taken.append((path, own))
        longest, useful = max(longest, own), useful + own * len(path)
    if taken:
        made.append(_group(taken, window))
    return made


def _group(paths: list[tuple[Tensor, int]], window: int | None) -> Group:
    b, w, s = len(paths), max(own for _path, own in paths), max(len(path) for path, _own in paths)
    queries, keys = (torch.zeros(b, width, dtype=torch.long) for width in (w, s))
    depth = torch.full((b, w), -1)
    for row, (path, own) in enumerate(paths):
        queries[row, :own] = path[-own:]
        keys[row, : len(path)] = path
        depth[row, :own] = torch.arange(len(path) - own, len(path))
    key = torch.arange(s)
    mask = key <= depth[:, :, None]
    if window is not None:
        mask &= key > depth[:, :, None] - window
    real = depth >= 0
    mask[..., 0] |= ~real  # softmax over nothing would be no number
    return Group(queries, keys, mask[:, None], None if real.all() else real.flatten().nonzero()[:, 0])


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) against the keys of `ranges`; `mask` [queries, keys] is True where a key is seen.

    Without a mask the block is causal in itself and has nothing above it.
    """

    start: int
    stop: int
    ranges: tuple[tuple[int, int], ...]
    mask: Tensor | None


@dataclass
class Paths:
    """What each token of a forest sees, as blocks; made once and used by all layers (one list for each window)."""

    forest: Forest
    device: torch.device
    fast: bool = True
    _blocks: dict[int | None, list[Block]] = field(default_factory=dict)
    _groups: dict[int | None, list[Group]] = field(default_factory=dict)

    def groups(self, window: int | None) -> list[Group]:
        """The same for attention in few large products."""
        if window not in self._groups:
            paths = []
            for i, run in enumerate(self.forest.runs):
                above = [torch.arange(a, b) for a, b in self.forest.path_of_run(i)]
                for start in range(run.start, run.stop, LONGEST_RUN):
                    stop = min(start + LONGEST_RUN, run.stop)
                    paths.append((torch.cat([*above, torch.arange(run.start, stop)]), stop - start))
            self._groups[window] = _groups(paths, window)
        return self._groups[window]

    def blocks(self, window: int | None) -> list[Block]:
        if window not in self._blocks:
            self._blocks[window] = [self._block(i, window) for i in range(len(self.forest.runs))]
        return self._blocks[window]

    def _block(self, index: int, window: int | None) -> Block:
        run = self.forest.runs[index]
        above = self.forest.path_of_run(index)
        length, before = run.stop - run.start, sum(b - a for a, b in above)
        if before == 0 and (window is None or length <= window):
            return Block(run.start, run.stop, ((run.start, run.stop),), None)
        # depth, not place in the row, is what a causal or sliding window counts
        query = torch.arange(before, before + length, device=self.device)[:, None]
        key = torch.arange(before + length, device=self.device)
        mask = key <= query
        if window is not None:
            mask &= key > query - window
        if above and above[-1][1] == run.start:
            ranges = (*above[:-1], (above[-1][0], run.stop))
        else:
            ranges = (*above, (run.start, run.stop))
        return Block(run.start, run.stop, ranges, mask)
