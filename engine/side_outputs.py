"""Sinks besides the main one: which stream's rows go where, in each partition."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from millstream.engine.sinks import AnySink, Sink, as_sinks
from millstream.errors import SourceError

__all__ = ["side_sinks"]


def side_sinks(
    name: str,
    given: AnySink | Mapping[str, AnySink] | None,
    streams: Collection[str],
    n_partitions: int,
) -> list[dict[str, Sink]]:
    """Return the sinks of each partition by stream.

    Args:
        name: What the user calls the argument.
        given: One sink, if there is one stream that can have such rows; or a mapping from streams
            to sinks.
        streams: Streams that can have such rows.
        n_partitions: Number of partitions.

    Raises:
        SinkError: What is given is no sink.
        SourceError: It is not clear for which stream a sink is, or the stream has no such rows.
    """
    if given is None:
        return [{} for _ in range(n_partitions)]
    if not isinstance(given, Mapping):
        if len(streams) != 1:
            raise SourceError(
                f"{name} must be a mapping from stream names to sinks, since there are"
                f" {len(streams)} streams for it in this query"
            )
        given = {next(iter(streams)): given}
    unknown = sorted(given.keys() - set(streams))
    if unknown:
        raise SourceError(f"{name} names streams that it is not for: {', '.join(unknown)}")
    by_stream = {stream: as_sinks(sink, None, n_partitions) for stream, sink in given.items()}
    return [
        {stream: sinks[index] for stream, sinks in by_stream.items()}
        for index in range(n_partitions)
    ]
