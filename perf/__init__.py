"""Measures Millstream beside other engines: ``python -m perf --help``.

Every measurement runs in a fresh process, and its answer is checked before a rate is printed.
"""
