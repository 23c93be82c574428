"""Which combinations of a sweep make sense: options that some of its methods do not have are left out there."""

from collections.abc import Collection, Mapping, Sequence

from core.errors import InputError

SHARED = ("ratio", "student")
"""Settings outside ``method`` that only some methods take."""


def sensible(
    jobs: Sequence[Sequence[str]], options: Mapping[str, Collection[str]]
) -> tuple[list[list[str]], dict[str, list[str]]]:
    """The jobs of a sweep over several methods, each without the options its method does not have, each once.

    An option that none of the sweep's methods has stays, to be refused like anywhere else.

    Args:
        jobs: the settings of each job, ``key=value``.
        options: the names of the settings that each method has.

    Returns:
        The jobs, in order, and for every option that was left out somewhere the methods without it.
    """
    methods = list(dict.fromkeys(name for job in jobs if (name := _method(job)) and name in options))
    if len(methods) < 2:
        return [list(job) for job in jobs], {}
    kept: dict[tuple[str, ...], None] = {}
    left_out: dict[str, list[str]] = {}
    for job in jobs:
        method, words = _method(job), []
        for word in job:
            option = _option(word)
            takers = [name for name in methods if option in options[name]] if option else []
            if method in methods and takers and method not in takers:
                without = left_out.setdefault(_key(word), [])
                without += [method] if method not in without else []
            else:
                words.append(word)
        kept[tuple(words)] = None
    return [list(job) for job in kept], left_out


def told(jobs: int, kept: int, left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """What is said of options that were left out: a line each, and how many runs that makes."""
    lines = [
        f"{key}: {' and '.join(methods)} {'has' if len(methods) == 1 else 'have'} no such option; left out there"
        for key, methods in left_out.items()
    ]
    return [*lines, f"{kept} different runs of {jobs} combinations"] if left_out else []


def refuse_option(key: str, value: object, method: str, options: Collection[str]) -> InputError:
    """An option that a method does not have, with those that it has."""
    return InputError(f"{key}={value}: {method} takes no {key}; leave it out (it has {', '.join(sorted(options))})")


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _method(job: Sequence[str]) -> str:
    return next((word.partition("=")[2] for word in job if _key(word) == "method"), "")


def _option(word: str) -> str | None:
    """The name of a method's setting that a word sets, if it sets one."""
    first, _, rest = _key(word).partition(".")
    if first == "method":
        return rest.partition(".")[0] or None
    return first if first in SHARED else None
