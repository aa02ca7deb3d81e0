"""Made problems for searches: a chain of layers whose costs are products of neighbours' widths, and blocks that may go."""

import random

from compression.planning.search.problem import Choice, Limit, Problem, Term


def chain(seed: int, *, groups: int = 5, options: int = 5, blocks: int = 2, share: float = 0.5) -> Problem:
    """Return a problem with two limits of `share` of the whole's costs, and one that a block stays."""
    draw = random.Random(seed)
    widths = [Choice(f"channels.{number}", options) for number in range(groups)]
    layers = [Choice(f"layer {number}", 2) for number in range(blocks)]
    keep = [1 - option / options for option in range(options)]
    error = []
    for choice in widths:
        scale, power = draw.lognormvariate(0, 1), draw.uniform(1, 4)
        error.append(Term((choice.name,), tuple(scale * (option / (options - 1)) ** power for option in range(options))))
    error += [Term((layer.name,), (0.0, draw.lognormvariate(0.5, 1))) for layer in layers]
    limits = []
    for name in ("parameters", "milliseconds"):
        terms = []
        for number in range(groups - 1):
            names = [widths[number].name, widths[number + 1].name]
            values = [made * read * draw.uniform(0.9, 1.1) for made in keep for read in keep]
            if number < blocks:
                names, values = [*names, layers[number].name], [each for value in values for each in (value, 0.0)]
            terms.append(Term(tuple(names), tuple(values)))
        limits.append(Limit(name, share * sum(term.values[0] for term in terms), tuple(terms)))
    if layers:
        gone = tuple(Term((layer.name,), (0.0, 1.0)) for layer in layers)
        limits.append(Limit("removed layers", blocks - 1, gone, firm=True))
    return Problem((*widths, *layers), tuple(error), tuple(limits))
