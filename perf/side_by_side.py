"""Runs the same work in several processes at once: what a machine gives who shares nothing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from typing import TypeAlias

from perf.records import Sample

__all__ = ["Work", "side_by_side"]

Work: TypeAlias = Callable[[], Sample]
"""Does something once and says how long it took."""

_SECONDS_MAX = 300


def side_by_side(prepare: Callable[[], Work], n_processes: int, repeats: int) -> tuple[Sample, ...]:
    """Time work that processes begin at the same moment.

    Args:
        prepare: Called in each process, which it is pickled for: makes everything ready and checks
            that it is right. What it returns does the work once and says how long it took.
        n_processes: Number of processes.
        repeats: How often to do the work.

    Returns:
        Per repeat the time of the slowest process, and the processor time of all.

    Raises:
        RuntimeError: A process failed.
    """
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(n_processes)
    pipes = [context.Pipe(duplex=False) for _ in range(n_processes)]
    processes = [
        context.Process(target=partial(_work, prepare, repeats, start, sending))
        for _, sending in pipes
    ]
    for process in processes:
        process.start()
    for _, sending in pipes:
        sending.close()
    try:
        samples = _received([receiving for receiving, _ in pipes])
    finally:
        # They have sent what they measured, or one has failed and the others wait for it in vain.
        for process in processes:
            process.kill()
            process.join()
    return tuple(
        Sample(
            max(sample.wall_seconds for sample in of_repeat),
            sum(sample.cpu_seconds for sample in of_repeat),
        )
        for of_repeat in zip(*samples, strict=True)
    )


def _work(prepare: Callable[[], Work], repeats: int, start: Barrier, sending: Connection) -> None:
    work = prepare()
    samples = []
    for _ in range(repeats):
        start.wait(_SECONDS_MAX)
        samples.append(work())
    sending.send(samples)


def _received(pipes: Sequence[Connection]) -> list[list[Sample]]:
    """Return what all processes send; as soon as one does not, the others are of no use."""
    samples: list[list[Sample]] = []
    waiting = list(pipes)
    while waiting:
        for pipe in wait(waiting):
            assert isinstance(pipe, Connection), "nothing else was waited for"
            waiting.remove(pipe)
            try:
                samples.append(pipe.recv())
            except EOFError as error:
                raise RuntimeError("a process failed; it has said why") from error
    return samples
