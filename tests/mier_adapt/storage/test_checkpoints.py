import os
import random

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mier_adapt._storage import checkpoints, files
from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    CheckpointError,
    load_checkpoint,
    load_tree,
    save_checkpoint,
    save_tree,
)

from ..doubles import assert_same_tree

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    values = 5 * torch.randn(shape, generator=generator)
    tensor = values.abs().to(draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()) and tensor.ndim > 1:
        tensor = tensor.transpose(0, 1)  # not contiguous
    return tensor


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**130), 2**130)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
trees = st.recursive(
    plain | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-5, 5), inner, max_size=4)
    ),
    max_leaves=12,
)

TREE = {
    "weights": {"a": torch.randn(20, generator=torch.Generator().manual_seed(0)), 3: [1, 2.5]},
    "flags": (True, None, "text"),
    "bits": torch.arange(7),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "tree"
    save_tree(path, TREE)
    return path


@settings(max_examples=150)
@given(tree=trees)
def test_a_tree_comes_back_as_it_was(tree, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    save_tree(path, tree)
    assert_same_tree(load_tree(path), tree)


def test_paths_that_look_alike_are_kept_apart(tmp_path):
    ones, twos = torch.ones(2), torch.full((3,), 2.0)
    for tree in (
        {"a/b": ones, "a": {"b": twos}},
        {1: ones, "1": twos},
        {"": ones, "a": [twos]},
        {"__tensor__": ones, "__tuple__": [twos], "__pairs__": "x"},
        {"a": {0: ones}, "a/0": twos, "a'": ones},
    ):
        save_tree(tmp_path / "tree", tree)
        assert_same_tree(load_tree(tmp_path / "tree"), tree)


def test_shared_memory_is_saved_twice(tmp_path):
    tensor = torch.arange(6.0)
    tree = {"all": tensor, "again": tensor, "part": tensor[2:4], "step": tensor[::2]}
    save_tree(tmp_path / "tree", tree)
    assert_same_tree(load_tree(tmp_path / "tree"), tree)


def test_gradients_are_not_part_of_a_tensor(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    save_tree(tmp_path / "tree", [parameter])
    (loaded,) = load_tree(tmp_path / "tree")
    assert not loaded.requires_grad
    assert torch.equal(loaded, parameter.detach())


# Files that are not whole -------------------------------------------------------------------


@settings(max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(written, share):
    whole = written.read_bytes()
    cut = written.with_name("cut")
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="cut"):
        load_tree(cut)


@settings(max_examples=60)
@given(contents=st.binary(max_size=200))
def test_a_foreign_file_is_refused(written, contents):
    foreign = written.with_name("foreign")
    foreign.write_bytes(contents)
    with pytest.raises(CheckpointError, match="foreign"):
        load_tree(foreign)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "mier-adapt tree 99", "tree": "[]"}):
        safetensors.torch.save_file({"weight": torch.ones(2)}, path, metadata)
        with pytest.raises(CheckpointError, match=r"other\.safetensors"):
            load_tree(path)


def test_a_flipped_bit_is_noticed_wherever_it_is(written):
    whole = written.read_bytes()
    draws = random.Random(0)
    header = int.from_bytes(whole[:8], "little") + 8
    positions = [
        *range(16),
        *draws.sample(range(header), 300),
        *draws.sample(range(header, len(whole)), 20),
    ]
    flipped = written.with_name("flipped")
    unnoticed = []
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draws.randrange(8)
        flipped.write_bytes(damaged)
        try:
            load_tree(flipped)
        except CheckpointError:
            continue
        unnoticed.append((position, whole[max(0, position - 20) : position + 20]))
    assert unnoticed == []


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tree(tmp_path / "nothing")


# What is not saved --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"model": {"layers": [torch.ones(2), torch.tensor([1.0, torch.nan])]}}, "/model/layers/1"),
        ({"a": torch.tensor(torch.inf)}, "/a"),
        ({"loss": float("nan")}, "/loss"),
        ([0.0, float("-inf")], "/1"),
    ],
)
def test_values_that_are_not_finite_are_refused_by_name(tree, where, tmp_path):
    with pytest.raises(ValueError, match=f"Refusing to save a checkpoint: {where} "):
        save_tree(tmp_path / "tree", tree)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"b": object()}}, "/a/b is a <class 'object'>"),
        ([1, {2, 3}], "/1 is a <class 'set'>"),
        ({"a": {(1, 2): 3}}, r"str or int keys at '/a', got \(1, 2\)"),
    ],
)
def test_other_things_are_refused_by_name(tree, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        save_tree(tmp_path / "tree", tree)
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "tree"
    save_tree(path, {"step": 1})
    with pytest.raises(ValueError, match="/step"):
        save_tree(path, {"step": float("nan")})
    assert load_tree(path) == {"step": 1}

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_tree(path, {"step": 2})
    monkeypatch.undo()
    assert load_tree(path) == {"step": 1}
    save_tree(path, {"step": 3})
    assert load_tree(path) == {"step": 3}
    assert [each.name for each in tmp_path.iterdir()] == ["tree"]


@pytest.mark.skipif(os.name != "posix", reason="directories have no such permissions")
def test_a_directory_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        save_tree(tmp_path / "nowhere" / "tree", {"step": 1})


# Reading while another process saves --------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_a_run_has_its_newest_checkpoint_at_every_moment(links, tmp_path, monkeypatch, caplog):
    """Before and after every step of a save; without hard links, at all but one."""
    save_checkpoint(tmp_path, {"number": 0})
    missing = []

    def look(function):
        def wrapper(*args, **options):
            try:
                if not (tmp_path / CHECKPOINT_FILE).exists():
                    missing.append(args)
                return function(*args, **options)
            finally:
                if links:
                    load_checkpoint(tmp_path)

        return wrapper

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.os, "link", look(os.link) if links else refuse)
    monkeypatch.setattr(files.Path, "replace", look(files.Path.replace))
    for number in (1, 2, 3):
        save_checkpoint(tmp_path, {"number": number})
    monkeypatch.undo()
    assert len(missing) == (0 if links else 3)
    assert caplog.text == ""
    assert load_checkpoint(tmp_path) == (tmp_path / CHECKPOINT_FILE, {"number": 3})
    assert load_tree(tmp_path / PREVIOUS_FILE) == {"number": 2}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kill_between_the_two_names_of_a_checkpoint_costs_nothing(tmp_path):
    for number in (1, 2):
        save_checkpoint(tmp_path, {"number": number})
    (tmp_path / PREVIOUS_FILE).unlink()
    (tmp_path / PREVIOUS_FILE).hardlink_to(tmp_path / CHECKPOINT_FILE)
    save_checkpoint(tmp_path, {"number": 3})
    assert load_tree(tmp_path / CHECKPOINT_FILE) == {"number": 3}
    assert load_tree(tmp_path / PREVIOUS_FILE) == {"number": 2}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    path = tmp_path / "tree"
    save_tree(path, {"a": torch.zeros(3)})
    check, checks = checkpoints._check_file, []

    def check_and_replace(name):
        found = check(name)
        checks.append(name)
        if len(checks) < 3:  # what was checked is not what will be read
            save_tree(path, {"a": torch.full((3,), float(len(checks)))})
        return found

    monkeypatch.setattr(checkpoints, "_check_file", check_and_replace)
    assert torch.equal(load_tree(path)["a"], torch.full((3,), 2.0))
    assert len(checks) == 3


def test_a_save_on_a_disk_without_links_is_waited_for(tmp_path, monkeypatch, caplog):
    for number in (1, 2):
        save_checkpoint(tmp_path, {"number": number})
    away = tmp_path / "away"
    (tmp_path / CHECKPOINT_FILE).rename(away)
    monkeypatch.setattr(
        checkpoints.time, "sleep", lambda seconds: away.rename(tmp_path / CHECKPOINT_FILE)
    )
    assert load_checkpoint(tmp_path)[1] == {"number": 2}
    assert caplog.text == ""
