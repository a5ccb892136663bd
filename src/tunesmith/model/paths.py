"""What each token of a forest sees, laid out for attention: run by run, or many runs of like size together.

Made once for a batch and used by all its layers. Indices and masks alone; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunesmith.model.trunk import Trunk
from tunesmith.tokens.forest import Forest

CALL_COST = 10_000  # query-key pairs whose arithmetic costs what one more group costs
GROUP_PAIRS = 60_000  # query-key pairs of a group at most: its scores of all heads stay in the processor's cache
SHARES_KEPT = 128 * 2**20  # bytes over all layers of what each query takes of each key
LONGEST_RUN = 96  # queries; a longer run is cut, so that a row of its mask is not mostly unseen


@dataclass(frozen=True)
class Group:
    """Runs of like size as rows of (token, head), row = token * heads + head.

    `queries` [b * kv, g * w]: the g heads that share keys stand below each other. `keys` [b * kv, s]. `bias`
    [b, 1, w, s] fp32 is 0 where a query sees a key, else -inf. A padded query is a row behind the last token and
    sees its run's first key; a padded key is the first token's, unseen.
    """

    queries: Tensor
    keys: Tensor
    bias: Tensor


def _groups(paths: Sequence[tuple[Tensor, int]], make: Callable[[list[tuple[Tensor, int]]], Group]) -> list[Group]:
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
            made.append(make(taken))
            taken, longest, useful = [], 0, 0
        taken.append((path, own))
        longest, useful = max(longest, own), useful + own * len(path)
    if taken:
        made.append(make(taken))
    return made


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) of the batch against the keys of `ranges`; `mask` [queries, keys] says who is seen.

    Without a mask the block is causal in itself and has nothing above it.
    """

    start: int
    stop: int
    ranges: tuple[tuple[int, int], ...]
    mask: Tensor | None


@dataclass
class Paths:
    """What each token of a forest sees, as blocks; made once and used by all layers (one list for each window).

    With a `trunk` the forest's first tokens are `above`: they were computed before, and ask nothing here.
    """

    forest: Forest
    device: torch.device
    fast: bool = True
    trunk: Trunk | None = None
    above: int = 0
    _kept: dict[int, int] = field(default_factory=dict)
    _blocks: dict[int | None, list[Block]] = field(default_factory=dict)
    _groups: dict[tuple[int | None, int, int], list[Group]] = field(default_factory=dict)

    def groups(self, window: int | None, heads: int, kv: int) -> list[Group]:
        """The same for attention in few large products, of a layer with so many heads."""
        kind = (window, heads, kv)
        if kind not in self._groups:
            paths = []
            for i, run in enumerate(self.forest.runs):
                above = [torch.arange(a, b) for a, b in self.forest.path_of_run(i)]
                for start in range(max(run.start, self.above), run.stop, LONGEST_RUN):
                    stop = min(start + LONGEST_RUN, run.stop)
                    paths.append((torch.cat([*above, torch.arange(run.start, stop)]), stop - start))
            self._groups[kind] = _groups(paths, lambda taken: self._group(taken, heads, kv, window))
        return self._groups[kind]

    def keeps(self, layer: int, size: int) -> bool:
        """Whether a layer's shares, `size` bytes, are kept for the backward: as long as there is room for them. Asked
        again, by a layer whose forward runs twice, it says the same."""
        if layer not in self._kept and sum(self._kept.values()) + size <= SHARES_KEPT:
            self._kept[layer] = size
        return layer in self._kept

    def _group(self, paths: list[tuple[Tensor, int]], heads: int, kv: int, window: int | None) -> Group:
        b, w, s = len(paths), max(own for _path, own in paths), max(len(path) for path, _own in paths)
        queries, keys = torch.full((b, w), len(self.forest) - self.above), torch.zeros(b, s, dtype=torch.long)
        depth = torch.zeros(b, w, dtype=torch.long)
        for row, (path, own) in enumerate(paths):
            queries[row, :own] = path[-own:] - self.above
            keys[row, : len(path)] = path
            depth[row, :own] = torch.arange(len(path) - own, len(path))
        key = torch.arange(s)
        seen = key <= depth[:, :, None]
        if window is not None:
            seen &= key > depth[:, :, None] - window
        head = torch.arange(heads).view(kv, -1, 1)
        return Group(
            queries=(queries[:, None, None] * heads + head).flatten(2).flatten(0, 1),
            keys=(keys[:, None] * kv + torch.arange(kv)[:, None]).flatten(0, 1),
            bias=torch.zeros(b, 1, w, s).masked_fill_(~seen[:, None], float("-inf")),
        )

    def blocks(self, window: int | None) -> list[Block]:
        if window not in self._blocks:
            here = [i for i, run in enumerate(self.forest.runs) if run.stop > self.above]
            self._blocks[window] = [self._block(i, window) for i in here]
        return self._blocks[window]

    def _block(self, index: int, window: int | None) -> Block:
        run = self.forest.runs[index]
        above = self.forest.path_of_run(index)
        length, before = run.stop - run.start, sum(b - a for a, b in above)
        skipped = max(0, self.above - run.start)
        start, stop = run.start + skipped - self.above, run.stop - self.above
        if before == 0 == skipped and (window is None or length <= window):
            return Block(start, stop, ((run.start, run.stop),), None)
        # depth, not place in the row, is what a causal or sliding window counts
        query = torch.arange(before + skipped, before + length, device=self.device)[:, None]
        key = torch.arange(before + length, device=self.device)
        mask = key <= query
        if window is not None:
            mask &= key > query - window
        if above and above[-1][1] == run.start:
            ranges = (*above[:-1], (above[-1][0], run.stop))
        else:
            ranges = (*above, (run.start, run.stop))
        return Block(start, stop, ranges, mask)
