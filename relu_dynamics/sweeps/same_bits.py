"""Same bits: no block joins others before one of theirs, the canary, came out the same here."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator

from relu_dynamics import store
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps.blocks import BlockResult

Blocks = Iterator[tuple[int, BlockResult]]
Train = Callable[[Iterable[int]], Blocks]  # the blocks with these numbers, in any order


class SameBits:
    """The canary of a sweep: of its folder, or without one of what has been trained so far. One
    for all that a process trains of the sweep."""

    def __init__(self, grid: Grid, folder: pathlib.Path | None = None):
        self.grid, self.folder = grid, folder
        self.known: store.Canary | None = None
        self.found_here = False  # this process has trained it, and it came out the same

    def look(self) -> store.Canary | None:
        """The canary that counts; None while nothing has been trained."""
        if self.known is None and self.folder is not None:
            self.known = store.read_canary(self.folder, self.grid)
        return self.known

    def compare(self, own: store.Canary) -> int | None:
        """Takes what a process has found for a block. Returns None, or the block of the canary
        that it has to find instead, since another process was the first in the folder.

        Raises a `FolderVersionError` when its digest is not the canary's.
        """
        if self.look() is None:
            folder = self.folder
            self.known = own if folder is None else store.claim_canary(folder, self.grid, own)
        assert self.known is not None
        if self.known.block != own.block:
            return self.known.block
        store.check_canary(self.folder, self.known, own)
        if self.folder is not None and not self.known.made_with:  # an older folder
            self.known = store.claim_canary(self.folder, self.grid, own)
        return None

    def run(self, train: Train, blocks: Iterable[int]) -> Blocks:
        """Yields (block, result) of `train(blocks)`, in this process. A known canary is trained
        first, beside blocks that wait for it; else the first block becomes the canary."""
        blocks = iter(blocks)
        first = next(blocks, None)
        if first is None:
            return
        blocks = itertools.chain([first], blocks)
        known = None if self.found_here else self.look()
        if known is not None:
            blocks = itertools.chain([known.block], blocks)
        waiting = []
        for block, result in train(blocks):
            if self.found_here:
                yield block, result
            elif known is None:
                self._find(train, block, result)
                yield block, result
            elif block != known.block:
                waiting.append((block, result))
            else:
                self._find(train, block, result)
                yield from waiting
                waiting.clear()

    def _find(self, train: Train, block: int, result: BlockResult) -> None:
        """Compares a block that this process has trained; when another one is the canary, that
        one."""
        other = self.compare(store.canary_of(self.grid, block, result))
        if other is not None:
            _, result = next(train([other]))
            self.compare(store.canary_of(self.grid, other, result))
        self.found_here = True
