"""Which filters match a name, and which names match a filter. Decides nothing about who may read or how.

Both directions use one tree of plain dicts: level -> branch, or -> the whole text where it is the only one
that goes this way. A text that ends at a branch is under the key ``/``, which is no level. So a text costs one
entry, and a dict exists only where paths part: a name of 128 levels costs no more than one of two.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

from dragoman.routing.names import check_filter, check_name, is_exact, matches

T = TypeVar("T", bound=Hashable)

_Branch: TypeAlias = "dict[str, _Branch | str]"

CACHE_ENTRIES_MAX: Final = 65_536
"""Names whose matches are remembered. A plant's hot set is some tens of thousands of names."""

CACHE_BYTES_MAX: Final = 16 * 1024 * 1024
"""About what the remembered matches may take; a name with 100,000 subscribers is 800 KB of them."""

_ENTRY_BYTES: Final = 200
_TUPLE_MAX: Final = 8
"""Values of one filter kept in a tuple (56 B for one); beyond, a dict, whose changes do not copy them all."""

_END: Final = "/"
_NONE: Final[tuple[()]] = ()


class FilterTrie(Generic[T]):
    """Filters with values. ``match`` gives the values of every filter that matches a name.

    A (filter, value) pair is held once. A value under several matching filters is given once for each,
    so a subscriber with overlapping filters is found as often as it subscribed; values must be hashable
    and keep their hash. Shared filters are added without their ``$share/{group}/``.

    ``generation`` grows with every change that could alter a match: whoever keeps a result beyond this
    turn of the loop keeps the generation with it.
    """

    __slots__ = ("_cache", "_cache_bytes", "_cache_bytes_max", "_cache_max", "_values", "_wild", "generation")

    def __init__(self, cache_max: int = CACHE_ENTRIES_MAX, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self.generation: int = 0
        self._values: dict[str, tuple[T, ...] | dict[T, None]] = {}
        self._wild: _Branch = {}
        self._cache: dict[str, tuple[T, ...]] = {}
        self._cache_bytes = 0
        self._cache_max = cache_max
        self._cache_bytes_max = cache_bytes_max

    def __len__(self) -> int:
        """How many different filters there are."""
        return len(self._values)

    def add(self, filter: str, value: T) -> None:
        """Adds the pair; nothing happens if it is there. ``filter`` has been checked."""
        assert check_filter(filter) is None, filter
        values = self._values.get(filter)
        if values is None:
            self._values[filter] = (value,)
            if not is_exact(filter):
                _plant(self._wild, filter)
        elif value in values:
            return
        elif isinstance(values, dict):
            values[value] = None
        elif len(values) < _TUPLE_MAX:
            self._values[filter] = (*values, value)
        else:
            self._values[filter] = dict.fromkeys((*values, value))
        self._changed(filter)

    def remove(self, filter: str, value: T) -> bool:
        """Takes the pair out; False if it was not there."""
        values = self._values.get(filter)
        if values is None or value not in values:
            return False
        if len(values) == 1:
            del self._values[filter]
            if not is_exact(filter):
                _prune(self._wild, filter)
        elif isinstance(values, dict):
            del values[value]
        else:
            self._values[filter] = tuple([held for held in values if held != value])
        self._changed(filter)
        return True

    def match(self, name: str) -> tuple[T, ...]:
        """The values of all filters that match a checked name: the exact filter's first, each filter's as added."""
        found = self._cache.get(name)
        if found is None:
            found = self._matched(name)
            self._remember(name, found)
        return found

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        planted = list(_below(self._wild))
        assert sorted(planted) == sorted(f for f in self._values if not is_exact(f))
        assert all(self._values.values()), "a filter without values is gone"
        assert all(found == self._matched(name) for name, found in self._cache.items()), "a match outlived a change"
        assert len(self._cache) <= self._cache_max
        assert self._cache_bytes == sum(_cost(name, len(found)) for name, found in self._cache.items())
        assert self._cache_bytes <= self._cache_bytes_max
        _check_shape(self._wild, root=True)

    def _matched(self, name: str) -> tuple[T, ...]:
        exact = self._values.get(name, _NONE)
        filters = _filters_of(self._wild, name) if self._wild else _NONE
        if not filters:
            return tuple(exact)
        found = list(exact)
        for filter in filters:
            found.extend(self._values[filter])
        return tuple(found)

    def _remember(self, name: str, found: tuple[T, ...]) -> None:
        cost = _cost(name, len(found))
        if cost > self._cache_bytes_max:
            return
        # Starting over beats evicting the oldest: names that come round in a circle larger than the
        # cache would each be evicted just before they are wanted again.
        if len(self._cache) >= self._cache_max or self._cache_bytes + cost > self._cache_bytes_max:
            self._forget()
        if self._cache_max > 0:
            self._cache[name] = found
            self._cache_bytes += cost

    def _changed(self, filter: str) -> None:
        self.generation += 1
        if is_exact(filter):
            stale = self._cache.pop(filter, None)
            if stale is not None:
                self._cache_bytes -= _cost(filter, len(stale))
        else:
            self._forget()

    def _forget(self) -> None:
        self._cache.clear()
        self._cache_bytes = 0


class NameTree:
    """A set of names that can be searched by filter."""

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Branch = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: str) -> bool:
        return _holds(self._root, name)

    def add(self, name: str) -> None:
        """Adds a checked name; nothing happens if it is there."""
        assert check_name(name) is None, name
        if _plant(self._root, name):
            self._count += 1

    def discard(self, name: str) -> None:
        """Takes a name out, if it is there."""
        if _prune(self._root, name):
            self._count -= 1

    def find(self, filter: str) -> Iterator[str]:
        """The names a checked filter matches, lazily: a name before those below it, siblings in order of arrival.

        The set may change while this is read, and reading may stop at any point: a name there all the time comes
        exactly once, one that has gone does not come, one that is new may or may not.
        """
        if is_exact(filter):
            if filter in self:
                yield filter
            return
        for name in _found(self._root, filter):
            if _holds(self._root, name):
                yield name

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        names = list(_below(self._root))
        assert len(names) == len(set(names)) == self._count
        assert all(name in self for name in names)
        assert list(self.find("#")) == [name for name in names if matches("#", name)]
        _check_shape(self._root, root=True)


def _plant(branch: _Branch, text: str) -> bool:
    """Puts ``text`` into the tree; False if it was there."""
    for depth, level in enumerate(text.split("/")):
        below = branch.get(level)
        if below is None:
            branch[level] = text
            return True
        if isinstance(below, str):
            if below == text:
                return False
            onward = below.split("/")[depth + 1 : depth + 2]
            below = {onward[0] if onward else _END: below}
            branch[level] = below
        branch = below
    if _END in branch:
        return False
    branch[_END] = text
    return True


def _prune(branch: _Branch, text: str) -> bool:
    """Takes ``text`` out of the tree; False if it was not there. A text left alone takes its branch's place."""
    path: list[tuple[_Branch, str]] = []
    for level in (*text.split("/"), _END):
        path.append((branch, level))
        below = branch.get(level)
        if not isinstance(below, dict):
            break
        branch = below
    if below != text:
        return False
    branch, level = path.pop()
    del branch[level]
    while path and len(branch) == 1:
        (alone,) = branch.values()
        if isinstance(alone, dict):
            break
        branch, level = path.pop()
        branch[level] = alone
    return True


def _holds(branch: _Branch, text: str) -> bool:
    for level in text.split("/"):
        below = branch.get(level)
        if not isinstance(below, dict):
            return below == text
        branch = below
    return _END in branch


def _below(branch: _Branch) -> Iterator[str]:
    """Every text in a branch, the one that ends there first. Branches are copied on entry: they may change."""
    end = branch.get(_END)
    if isinstance(end, str):
        yield end
    stack = [_children(branch)]
    while stack:
        below = next(stack[-1], None)
        if below is None:
            stack.pop()
        elif isinstance(below, str):
            yield below
        else:
            end = below.get(_END)
            if isinstance(end, str):
                yield end
            stack.append(_children(below))


def _children(branch: _Branch, plain: bool = False) -> Iterator[_Branch | str]:
    """What is below a branch, as of now; ``plain`` leaves out what begins with ``$``."""
    return iter([below for level, below in branch.items() if level != _END and not (plain and level.startswith("$"))])


def _found(branch: _Branch, filter: str) -> Iterator[str]:
    """The texts of a tree of names that match. A stack, since names may be as deep as they like."""
    wanted = filter.split("/")
    rest_at = len(wanted) - 1 if wanted[-1] == "#" else -1
    stack: list[tuple[int, Iterator[_Branch | str]]] = [(0, iter([branch]))]
    while stack:
        depth, siblings = stack[-1]
        here = next(siblings, None)
        if here is None:
            stack.pop()
        elif isinstance(here, str):
            if depth == rest_at or matches(filter, here):
                yield here
        elif depth == rest_at:
            yield from _all_below(here, plain=depth == 0)
        elif depth == len(wanted):
            end = here.get(_END)
            if isinstance(end, str):
                yield end
        elif wanted[depth] == "+":
            stack.append((depth + 1, _children(here, plain=depth == 0)))
        else:
            below = here.get(wanted[depth])
            if below is not None:
                stack.append((depth + 1, iter([below])))


def _all_below(branch: _Branch, plain: bool) -> Iterator[str]:
    """All that ``#`` matches at a branch; at the root (``plain``) not what begins with ``$``."""
    if not plain:
        yield from _below(branch)
        return
    for below in _children(branch, plain=True):
        if isinstance(below, str):
            yield below
        else:
            yield from _below(below)


def _filters_of(root: _Branch, name: str) -> list[str]:
    """The filters of a tree of wildcard filters that match ``name``, shallow ``#`` first."""
    found: list[str] = []
    reached: list[_Branch] = [root]
    wild = not name.startswith("$")
    for level in name.split("/"):
        onward: list[_Branch] = []
        for branch in reached:
            if wild:
                rest = branch.get("#")
                if isinstance(rest, str):
                    found.append(rest)
            for below in (branch.get(level), branch.get("+") if wild else None):
                if isinstance(below, dict):
                    onward.append(below)
                elif below is not None and matches(below, name):
                    found.append(below)
        reached = onward
        wild = True
    for branch in reached:
        for key in (_END, "#"):
            end = branch.get(key)
            if isinstance(end, str):
                found.append(end)
    return found


def _cost(name: str, matched: int) -> int:
    """About what one remembered match takes: at worst four bytes a character."""
    return _ENTRY_BYTES + 4 * len(name) + 8 * matched


def _check_shape(branch: _Branch, root: bool = False) -> None:
    alone = len(branch) == 1 and isinstance(next(iter(branch.values())), str)
    assert root or (branch and not alone), "a dict is only where paths part"
    for key, below in branch.items():
        if isinstance(below, dict):
            assert key not in (_END, "#"), "nothing goes on below an end"
            _check_shape(below)
