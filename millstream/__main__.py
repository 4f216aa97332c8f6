"""The command line: ``python -m millstream compile-kernels``."""

from __future__ import annotations

import argparse
import sys
import time

import millstream as ms


def main(arguments: list[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser("python -m millstream", description=ms.__doc__)
    parser.add_argument("--version", action="version", version=ms.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    about = "compile all kernels now, so that no query has to wait for its own"
    commands.add_parser("compile-kernels", help=about, description=f"Millstream: {about}.")
    parser.parse_args(arguments)
    _compile_kernels()


def _compile_kernels() -> None:
    began_at, is_watched = time.monotonic(), sys.stderr.isatty()
    n_kernels = 0

    def show(n_done: int, n_all: int) -> None:
        nonlocal n_kernels
        n_kernels = n_all
        if is_watched:
            print(f"\rcompiling kernels: {n_done} of {n_all}", end="", file=sys.stderr, flush=True)

    folder = ms.compile_kernels(show)
    if is_watched:
        print(file=sys.stderr)
    seconds = time.monotonic() - began_at
    print(f"{n_kernels} kernels compiled or found compiled in {seconds:.1f} s, kept in {folder}")


if __name__ == "__main__":
    main()
