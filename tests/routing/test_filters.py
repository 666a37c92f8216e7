"""The trie and the tree agree with the definition of a match, whatever was added and removed."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.routing.filters import FilterTrie, NameTree
from dragoman.routing.names import LEVELS_MAX, check_filter, is_exact, matches

some_names = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join).filter(bool)
some_filters = (
    st.lists(st.sampled_from(["a", "b", "", "+", "$x", "#"]), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda text: check_filter(text) is None)
)
pairs = st.tuples(some_filters, st.integers(0, 11))
steps = st.lists(st.tuples(st.sampled_from(["add", "add", "remove", "match"]), pairs, some_names), max_size=40)
quick = settings(max_examples=100, derandomize=True, deadline=None)


@quick
@given(steps, st.sampled_from([(65_536, 1 << 24), (2, 1 << 24), (0, 1 << 24), (65_536, 500), (65_536, 0)]))
def test_the_trie_agrees_with_the_definition(steps, bounds):
    trie: FilterTrie[int] = FilterTrie(*bounds)
    model: set[tuple[str, int]] = set()
    for verb, (filter, value), name in steps:
        before = trie.generation
        if verb == "add":
            changed = (filter, value) not in model
            trie.add(filter, value)
            model.add((filter, value))
        elif verb == "remove":
            changed = trie.remove(filter, value)
            assert changed == ((filter, value) in model)
            model.discard((filter, value))
        else:
            changed = False
        assert (trie.generation > before) == changed
        for asked in (name, filter.replace("+", "a").replace("#", "b"), name):
            assert Counter(trie.match(asked)) == Counter(v for f, v in model if matches(f, asked))
        assert len(trie) == len({f for f, _ in model})
        trie.check()


@quick
@given(st.lists(some_filters, max_size=30, unique=True), some_names)
def test_every_filter_is_found_by_every_name_it_matches(filters, name):
    trie: FilterTrie[str] = FilterTrie()
    for filter in filters:
        trie.add(filter, filter)
    assert sorted(trie.match(name)) == sorted(f for f in filters if matches(f, name))
    for filter in filters:
        assert trie.remove(filter, filter)
    trie.check()
    assert trie._wild == {}
    assert trie._values == {}
    assert trie.match(name) == ()


def test_a_pair_is_held_once_and_a_value_is_given_for_each_of_its_filters():
    trie: FilterTrie[str] = FilterTrie()
    trie.add("a/#", "s")
    trie.add("a/#", "s")
    trie.add("a/b", "s")
    trie.add("a/b", "t")
    assert trie.match("a/b") == ("s", "t", "s")
    assert trie.remove("a/#", "s")
    assert not trie.remove("a/#", "s")
    assert not trie.remove("a/b", "u")
    assert trie.match("a/b") == ("s", "t")


@pytest.mark.parametrize("filter", ["hot", "hot/#"])
def test_many_values_of_one_filter_keep_their_order_and_go_one_by_one(filter):
    trie: FilterTrie[int] = FilterTrie()
    for value in range(100):
        trie.add(filter, value)
        trie.add(filter, value // 2)
    assert trie.match("hot") == tuple(range(100))
    for value in range(99, -1, -1):
        assert trie.remove(filter, value)
        assert not trie.remove(filter, value)
        assert trie.match("hot") == tuple(range(value))
        trie.check()
    assert len(trie) == 0


def test_an_exact_change_forgets_only_its_own_name():
    trie: FilterTrie[int] = FilterTrie()
    trie.add("a", 1)
    trie.add("b", 2)
    assert (trie.match("a"), trie.match("b")) == ((1,), (2,))
    trie.add("a", 3)
    assert list(trie._cache) == ["b"]
    trie.add("+", 4)
    assert list(trie._cache) == []
    assert (trie.match("a"), trie.match("b")) == ((1, 3, 4), (2, 4))
    trie.remove("+", 4)
    assert (trie.match("a"), trie.match("b")) == ((1, 3), (2,))
    trie.check()


def test_what_is_remembered_is_what_is_given_again():
    trie: FilterTrie[int] = FilterTrie()
    trie.add("+/x", 1)
    assert trie.match("a/x") is trie.match("a/x")


def test_the_cache_is_bounded_in_count_and_in_bytes():
    trie: FilterTrie[int] = FilterTrie(cache_max=10)
    for i in range(1_000):
        assert trie.match(f"n{i}") == ()
        assert len(trie._cache) <= 10
    trie.check()
    trie = FilterTrie(cache_bytes_max=50_000)
    for value in range(1_000):
        trie.add("#", value)
    for i in range(50):
        assert len(trie.match(f"n{i}")) == 1_000
        assert 1 <= len(trie._cache) <= 6
    trie.match("x" * 20_000)
    assert "x" * 20_000 not in trie._cache
    trie.check()


def test_deep_and_wide():
    trie: FilterTrie[str] = FilterTrie()
    tree = NameTree()
    deep = "/".join("d" * LEVELS_MAX)
    wide = [f"w/{i}" for i in range(2_000)]
    for filter in ("/".join("+" * LEVELS_MAX), "/".join("+" * (LEVELS_MAX - 1)) + "/#", deep, "#"):
        trie.add(filter, filter)
    for name in wide:
        trie.add(name + "/#", name)
    assert len(trie.match(deep)) == 4
    assert sorted(trie.match("w/7/x")) == ["#", "w/7"]
    for name in (deep, *wide):
        tree.add(name)
    assert list(tree.find("/".join("+" * LEVELS_MAX))) == [deep]
    assert list(tree.find("d/#")) == [deep]
    assert list(tree.find("w/+")) == wide
    trie.check()
    tree.check()


def test_filters_that_cross_at_every_level_are_found_once_each():
    """Both ways at every level: 2**8 filters match, and each is visited by one path only."""
    filters = ["/".join("a+"[i >> bit & 1] for bit in range(8)) for i in range(256)]
    trie: FilterTrie[str] = FilterTrie()
    for filter in filters:
        trie.add(filter, filter)
    assert sorted(trie.match("/".join("a" * 8))) == sorted(filters)


def test_unchecked_text_is_our_own_mistake():
    with pytest.raises(AssertionError):
        FilterTrie[int]().add("a/#/b", 1)
    with pytest.raises(AssertionError):
        NameTree().add("a/+")


@quick
@given(st.lists(st.tuples(st.booleans(), some_names), max_size=30), some_filters)
def test_the_tree_agrees_with_the_definition(steps, filter):
    tree = NameTree()
    model: dict[str, None] = {}
    for is_new, name in steps:
        if is_new:
            tree.add(name)
            model[name] = None
        else:
            tree.discard(name)
            model.pop(name, None)
        assert (name in tree) == is_new
        tree.check()
    found = list(tree.find(filter))
    assert len(found) == len(set(found))
    assert set(found) == {name for name in model if matches(filter, name)}
    assert len(tree) == len(model)
    if is_exact(filter):
        assert (filter in tree) == (filter in model)
    for name in model:
        tree.discard(name)
    assert tree._root == {}


def test_names_come_in_a_fixed_order_and_parents_first():
    tree = NameTree()
    for name in ("b/2/x", "a", "b/1", "b", "a/9", "b/2", "$SYS/x"):
        tree.add(name)
    assert list(tree.find("#")) == ["b", "b/2", "b/2/x", "b/1", "a", "a/9"]
    assert list(tree.find("+")) == ["b", "a"]
    assert list(tree.find("b/#")) == ["b", "b/2", "b/2/x", "b/1"]
    assert list(tree.find("+/+")) == ["b/2", "b/1", "a/9"]
    assert list(tree.find("$SYS/#")) == ["$SYS/x"]
    assert list(tree.find("b/2")) == ["b/2"]
    assert list(tree.find("c/#")) == []
    tree.add("b/2")
    tree.discard("none/such")
    assert len(tree) == 7


def test_finding_is_lazy():
    tree = NameTree()
    for i in range(20_000):
        tree.add(f"{i}/x")
    first = tree.find("+/x")
    assert list(islice(first, 3)) == ["0/x", "1/x", "2/x"]
    first.close()


@quick
@given(
    st.lists(some_names, min_size=1, max_size=20, unique=True),
    some_filters,
    st.lists(st.tuples(st.integers(0, 8), st.booleans(), some_names), max_size=12),
)
def test_the_tree_may_change_while_it_is_read(names, filter, changes):
    tree = NameTree()
    for name in names:
        tree.add(name)
    model, always, ever = set(names), set(names), set(names)
    given_names: list[str] = []
    reading = tree.find(filter)
    for step in range(9):
        for at, is_new, name in changes:
            if at == step:
                (tree.add if is_new else tree.discard)(name)
                (model.add if is_new else model.discard)(name)
        always &= model
        ever |= model
        found = next(reading, None)
        if found is not None:
            assert found in model, "what has gone does not come"
            given_names.append(found)
    given_names.extend(reading)
    assert len(given_names) == len(set(given_names))
    wanted = {name for name in always if matches(filter, name)}
    assert wanted <= set(given_names) <= {name for name in ever if matches(filter, name)}
    tree.check()


def test_a_long_random_life():
    """More filters and names at once than the small cases reach, compared now and then."""
    chance = random.Random(2)
    trie: FilterTrie[int] = FilterTrie(cache_max=64)
    tree = NameTree()
    model: set[tuple[str, int]] = set()
    names: set[str] = set()
    for step in range(4_000):
        words = [chance.choice(["a", "b", "c", "d", "+"]) for _ in range(chance.randint(1, 5))]
        filter = "/".join(words) + chance.choice(["", "", "/#"])
        name = filter.replace("+", "e").removesuffix("/#")
        pair = (filter, chance.randrange(20))
        if chance.random() < 0.55:
            trie.add(*pair)
            model.add(pair)
            tree.add(name)
            names.add(name)
        else:
            pair = chance.choice(sorted(model)) if step % 40 == 0 and model else pair
            assert trie.remove(*pair) == (pair in model)
            model.discard(pair)
            tree.discard(name)
            names.discard(name)
        if step % 40 == 0:
            assert Counter(trie.match(name)) == Counter(v for f, v in model if matches(f, name))
            assert set(tree.find(filter)) == {n for n in names if matches(filter, n)}
    trie.check()
    tree.check()


def test_a_lone_text_costs_one_entry_however_deep_it_is():
    tree = NameTree()
    deep = "/".join("d" * LEVELS_MAX)
    tree.add(deep)
    assert tree._root == {"d": deep}
    tree.add("d/d/x")
    assert tree._root == {"d": {"d": {"d": deep, "x": "d/d/x"}}}
    tree.discard("d/d/x")
    assert tree._root == {"d": deep}


def test_a_name_that_goes_while_it_is_next_does_not_come():
    tree = NameTree()
    for name in ("a/1", "a/2", "a/3"):
        tree.add(name)
    for filter in ("a/#", "a/+", "+/+", "#"):
        reading = tree.find(filter)
        assert next(reading) == "a/1"
        tree.discard("a/2")
        assert list(reading) == ["a/3"]
        tree.discard("a/3")
        tree.add("a/2")
        tree.add("a/3")


def test_below_a_dollar_level_wildcards_match_again():
    trie: FilterTrie[str] = FilterTrie()
    for filter in ("$x/+", "$x/#", "$x/+/+", "$x/a/#", "+/a", "#", "+/#"):
        trie.add(filter, filter)
    assert sorted(trie.match("$x/a")) == ["$x/#", "$x/+", "$x/a/#"]
    assert sorted(trie.match("$x/a/b")) == ["$x/#", "$x/+/+", "$x/a/#"]
    assert sorted(trie.match("$x")) == ["$x/#"]
