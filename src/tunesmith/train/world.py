"""This process among those that train together: which one it is, what they tell each other beside the gradients.

A launcher (torchrun, deepspeed, `tunesmith train --nproc`) says through the environment who takes part; a small store
of torch's, open before any process group, carries a few words. Gradients and weights are the engines' business.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError, Stopped
from tunesmith.i18n import _

if TYPE_CHECKING:
    from torch.distributed import Store

LISTEN, LEAVE = 0.2, 3.0  # seconds between two looks for a word, and in which others leave before one that failed
BEAT = 2.0  # seconds between two signs of life
SILENCE = 25.0  # seconds without one after which a process counts as hanging: a launcher needs the rest of a minute
FAILED = "failed"  # the key of the first process that failed
STOPPED = 130  # the exit code of what Ctrl-C ended


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes on all machines, `local_rank` of `local_size` on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> World:
        """What the launcher said. Raises ConfigError where it said half of it."""
        told = os.environ
        size = int(told.get("WORLD_SIZE", 1))
        if size == 1:
            return cls()
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in told]
        if missing:
            text = _(
                "The launcher set WORLD_SIZE={size} and not {names}. Start with torchrun, or tunesmith train --nproc N."
            )
            raise ConfigError(text.format(size=size, names=", ".join(missing)))
        local_size = int(told.get("LOCAL_WORLD_SIZE", told.get("LOCAL_SIZE", size)))
        told.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else every end of a process is told in stack frames
        return cls(int(told["RANK"]), size, int(told["LOCAL_RANK"]), local_size)

    @property
    def first(self) -> bool:
        """Whether this is the process that prepares, speaks and writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.size > 1

    @cached_property
    def store(self) -> Store:
        """Open as soon as rank 0 is there; no process group is needed."""
        from torch.distributed import rendezvous

        return next(rendezvous("env://", self.rank, self.size, timeout=timedelta(minutes=10)))[0]

    def tell(self, key: str, value: Any) -> None:
        self.store.set(key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """What another process told, when it has. Inside `together` alone: where that one fails, so does this."""
        while not self.store.check([key]):
            if self.store.check([FAILED]):
                raise _AnotherFailed
            time.sleep(LISTEN)
        return json.loads(self.store.get(key))

    def join(self, seconds: int) -> None:
        """Opens the process group, in which no one waits longer than so many seconds for another."""
        import torch
        import torch.distributed as dist

        if dist.is_initialized():
            return
        store = self.store if self.several else dist.HashStore()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=timedelta(seconds=seconds)
        )

    def gathered(self, value: Any) -> list[Any]:
        """The value that each process has, by rank, for all of them."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def together(self, say: Callable[[str], None]) -> Iterator[None]:
        """Around all that the processes do. The first that fails speaks, the others end in silence; where one gives no
        sign of life, the rest says which one and ends within a minute."""
        if not self.several:
            yield
            return
        done, _open = threading.Event(), self.store
        threading.Thread(target=self._watch, args=(done, say), daemon=True).start()
        try:
            yield
            self._leave()
        except Stopped as stopped:  # on all of them, behind the same step
            self._leave()
            if self.first:
                raise
            raise SystemExit(stopped.exit_code) from None
        except KeyboardInterrupt:
            if self.first:
                raise
            raise SystemExit(STOPPED) from None
        except Exception as error:
            if _is_another_s(error) or not self._fails_first():
                with suppress(RuntimeError):
                    self.store.set(f"left/{self.rank}", "")
                raise SystemExit(1) from None
            with suppress(RuntimeError):  # the store may go with this process: the others leave first
                self.store.wait([f"left/{r}" for r in range(self.size) if r != self.rank], timedelta(seconds=LEAVE))
            raise
        finally:
            done.set()

    def _leave(self) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.barrier()  # the store lies with one of them, and goes with it
            dist.destroy_process_group()

    def _fails_first(self) -> bool:
        try:
            return self.store.compare_set(FAILED, "", str(self.rank)).decode() == str(self.rank)
        except RuntimeError:
            return False  # the process that holds the store has failed before

    def _watch(self, done: threading.Event, say: Callable[[str], None]) -> None:
        """Gives this process's signs of life and, on one process for each, looks for those of others."""
        parent, beats = os.getppid(), 0
        watched = [rank for rank in range(self.size) if rank != self.rank] if self.first else [0]
        seen = dict.fromkeys(watched, ("", time.monotonic()))
        try:
            own: Any = self.store
            store = own.clone()  # a wait on the other one would hold this one up
            while not done.wait(BEAT):
                beats += 1
                store.set(f"beat/{self.rank}", str(beats))
                if os.getppid() != parent:
                    os._exit(1)  # the launcher has gone, and nobody would stop this process any more
                if self.rank > 1:
                    continue
                for rank in watched:
                    beat = store.get(f"beat/{rank}").decode() if store.check([f"beat/{rank}"]) else ""
                    if beat != seen[rank][0]:
                        seen[rank] = beat, time.monotonic()
                silent = [rank for rank, (_beat, since) in seen.items() if time.monotonic() - since > SILENCE]
                if silent and not done.is_set():
                    say(_hanging(silent, self.size))
                    os._exit(1)
        except RuntimeError:
            return  # the store has gone with the process that held it: the launcher sees that too


def _hanging(ranks: list[int], size: int) -> str:
    text = _(
        "No sign of life for {seconds:.0f} s from process {ranks} (of 0 to {last}): it hangs, or its machine can't be"
        " reached. All are stopped. Type the same command again: it goes on behind the last checkpoint."
    )
    return text.format(seconds=SILENCE, ranks=", ".join(map(str, ranks)), last=size - 1)


class _AnotherFailed(Exception):
    """Another process has failed, and has said why."""


def _is_another_s(error: Exception) -> bool:
    """Whether an error only says that another process has gone."""
    from torch.distributed import DistError

    said = str(error)
    return isinstance(error, DistError | _AnotherFailed) or (
        isinstance(error, RuntimeError) and "gloo" in said and ("closed" in said or "reset" in said or "Broken" in said)
    )
