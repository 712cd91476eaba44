"""What the benchmarks share: measurements in turn, and how they are summed up."""

import statistics


def take_turns(contestants: dict, rounds: int) -> dict[str, list[float]]:
    """Times of each, in turn; who goes first moves on by one each round."""
    times, names = {name: [] for name in contestants}, list(contestants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(contestants[name]())
    return times


def spread(values: list[float], digits: int = 2) -> str:
    """The median, and the middle half in brackets."""
    low, middle, high = (f"{value:,.{digits}f}" for value in statistics.quantiles(values, n=4))
    return f"{middle:>9} ({low} to {high})"
