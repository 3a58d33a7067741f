"""The plan: carrying out its steps gives the target, it asks for what it says, and it takes the cheapest way."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import names, offers, plan, update
from modelsync_protocol.index import Index, Place
from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_protocol.offers import Offer
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plan import MAX_GAP_BYTES, OWN, CopyStep, FrameStep, Kind, Plan

OBJECT_BYTES = 777


def content(letter: int) -> bytes:
    """A chunk: its length and bytes follow from its letter."""
    return bytes([letter]) * (letter * 37 % 90 + 5)


def made_of(letters: list[int], path: str = "a") -> tuple[Manifest, bytes]:
    """A manifest of two files, and its stream."""
    files = []
    for name, part in ((path, letters[: len(letters) // 2]), (path + "b", letters[len(letters) // 2 :])):
        chunks = [content(letter) for letter in part]
        digests = tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks)
        files.append(RegularFile(name, 0o644, tuple(map(len, chunks)), digests))
    return Manifest(tuple(files)), b"".join(map(content, letters))


LETTERS = st.lists(st.integers(0, 11), max_size=30)


@st.composite
def published(draw: st.DrawFn) -> tuple[Manifest, bytes, Index]:
    """A target and an index for it: frames in several packs, with and without prefix, and own copies."""
    letters = draw(LETTERS)
    manifest, stream = made_of(letters)
    operations: list[Op] = []
    places: list[Place] = []
    ends = [0, 0, 0]
    position = number = 0
    while number < len(letters):
        first = letters.index(letters[number])
        if first < number and draw(st.booleans()):
            length = len(content(letters[number]))
            operations.append(Copy(length, len(b"".join(map(content, letters[:first]))), own=True))
            number += 1
        else:
            count = draw(st.integers(1, 4))
            length = len(b"".join(map(content, letters[number : number + count])))
            payload = draw(st.sampled_from([1, 50, 5000]))
            operations.append(Frame(length, 2, payload, 0, 0, draw(st.integers(0, position))))
            pack = draw(st.integers(0, 2))
            offset = ends[pack] + draw(st.sampled_from([0, 0, 10, MAX_GAP_BYTES, MAX_GAP_BYTES + 1]))
            places.append(Place(pack, offset))
            ends[pack] = offset + payload
            number += count
        position += length
    packs = tuple((str(pack) * 64, max(1, end + draw(st.sampled_from([0, 9])))) for pack, end in enumerate(ends))
    return manifest, stream, Index(packs, tuple(operations), tuple(places), b"tables")


def carried_out(made: Plan, truth: bytes, start: bytes, seeds: list[bytes], index: Index) -> bytes:
    """Do the steps on `start`, checking that each finds what it needs, where it says."""
    built = bytearray(start)
    of_frame = dict(
        zip(
            [i for i, op in enumerate(index.operations) if isinstance(op, Frame)],
            index.places,
            strict=True,
        )
    )
    starts, position = {}, 0
    for number, op in enumerate(index.operations):
        starts[position] = number
        position += op.length
    read: dict[int, int] = {}
    last = 0
    for step in made.steps:
        assert step.target >= last, "steps follow the stream"
        last = step.target + step.length
        if isinstance(step, CopyStep):
            source = built if step.seed == OWN else seeds[step.seed]
            piece = bytes(source[step.offset : step.offset + step.length])
            assert len(piece) == step.length
            built[step.target : step.target + step.length] = piece
            continue
        request = made.requests[step.request]
        place = of_frame[starts[step.target]]
        assert request.path == names.pack_object(index.packs[place.pack][0])
        assert request.offset + step.place == place.offset
        assert step.place + step.frame.payload_length <= request.length
        assert read.get(step.request, 0) <= step.place, "a body is read forwards only"
        read[step.request] = step.place + step.frame.payload_length
        before = slice(step.target - step.frame.prefix, step.target)
        assert built[before] == truth[before], "what a frame leans on is in place"
        built[step.target : last] = truth[step.target : last]
    return bytes(built)


def check_cost(made: Plan, index: Index) -> None:
    """The prediction is the sum of the requests, and coalescing wastes at most a gap each."""
    assert made.bytes == OBJECT_BYTES + sum(request.length for request in made.requests)
    assert made.http_requests == 1 + len(made.requests)
    wanted = [step.frame.payload_length for step in made.steps if isinstance(step, FrameStep)]
    wasted = sum(request.length for request in made.requests) - sum(wanted)
    assert 0 <= wasted <= MAX_GAP_BYTES * (len(wanted) - len(made.requests)) or not wanted
    sizes = {names.pack_object(digest): size for digest, size in index.packs}
    for request in made.requests:
        assert request.offset >= 0 and request.offset + request.length <= sizes[request.path]
        assert request.whole == (request.offset == 0 and request.length == sizes[request.path])
    assert made.tables == index.tables


@settings(max_examples=150, deadline=None)
@given(published(), st.lists(LETTERS, max_size=2))
def test_missing_chunks_and_seeds_together_give_the_target(
    target: tuple[Manifest, bytes, Index], seeds: list[list[int]]
) -> None:
    manifest, stream, index = target
    held = [made_of(letters, "seed") for letters in seeds]
    made = plan.plan_chunks(manifest, index, OBJECT_BYTES, [seed for seed, _ in held])
    assert carried_out(made, stream, bytes(len(stream)), [data for _, data in held], index) == stream
    check_cost(made, index)
    copied = any(isinstance(step, CopyStep) and step.seed != OWN for step in made.steps)
    assert made.kind == (Kind.CHUNKS if copied else Kind.PACK)
    have = {digest for seed, _ in held for _, _, digest in seed.chunks()}
    if all(digest in have for _, _, digest in manifest.chunks()):
        assert made.requests == ()


@settings(max_examples=150, deadline=None)
@given(published(), st.data())
def test_a_repair_plan_mends_damaged_chunks_and_touches_only_their_operations(
    target: tuple[Manifest, bytes, Index], draw: st.DataObject
) -> None:
    manifest, stream, index = target
    chunks = {offset: size for offset, size, _ in manifest.chunks()}
    damaged = draw.draw(st.sets(st.sampled_from(sorted(chunks)))) if chunks else set()
    start = bytearray(stream)
    for offset in damaged:
        start[offset : offset + chunks[offset]] = b"\xee" * chunks[offset]
    made = plan.plan_chunks(manifest, index, OBJECT_BYTES, [], frozenset(damaged))
    assert carried_out(made, stream, bytes(start), [], index) == stream
    check_cost(made, index)
    for step in made.steps:
        assert any(step.target <= offset < step.target + step.length for offset in damaged)
    assert (made.steps == ()) == (not damaged)


def test_frames_of_one_pack_that_lie_close_share_a_request_and_others_do_not() -> None:
    manifest, _ = made_of([1, 2, 3])
    sizes = [size for _, size, _ in manifest.chunks()]
    frames = tuple(Frame(size, 1, 100) for size in sizes)
    gaps = (0, 100 + MAX_GAP_BYTES, 300 + 2 * MAX_GAP_BYTES + 1)
    index = Index((("a" * 64, 200_000),), frames, tuple(Place(0, gap) for gap in gaps))
    made = plan.plan_chunks(manifest, index, OBJECT_BYTES, [])
    assert [(r.offset, r.length) for r in made.requests] == [(0, MAX_GAP_BYTES + 200), (gaps[2], 100)]
    backwards = Index((("a" * 64, 200_000),), frames, (Place(0, 200), Place(0, 100), Place(0, 0)))
    assert len(plan.plan_chunks(manifest, backwards, OBJECT_BYTES, []).requests) == 3


def test_a_held_target_costs_nothing() -> None:
    made = plan.plan_held("a" * 64)
    assert (made.kind, made.bytes, made.http_requests, made.requests, made.steps) == (Kind.HELD, 0, 0, (), ())


A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.mark.parametrize(
    ("held", "chosen"),
    [([], None), ([C], None), ([A], A), ([A, B], B), ([B, A], B), ([C, A], A)],
)
def test_the_smallest_update_from_what_is_held_is_chosen(held: list[str], chosen: str | None) -> None:
    offer = Offer(1000, {offers.base_key(A): 500, offers.base_key(B): 100})
    choice = plan.choose_update(held, offer)
    assert (choice.base if choice else None) == chosen


def test_an_update_larger_than_a_first_install_is_not_chosen_and_no_offer_is_no_choice() -> None:
    key = offers.base_key(A)
    assert plan.choose_update([A], Offer(99, {key: 100})) is None
    assert plan.choose_update([A], Offer(100, {key: 100})) is not None
    assert plan.choose_update([A], None) is None


def test_an_update_is_one_request_of_its_size_with_payloads_in_order() -> None:
    target, _ = made_of([1, 2, 3, 1])
    sizes = [size for _, size, _ in target.chunks()]
    operations: tuple[Op, ...] = (
        Frame(sizes[0], 1, 11),
        Copy(sizes[1], 5),
        Frame(sizes[2], 1, 13),
        Copy(sizes[3], 0, own=True),
    )
    made = plan.plan_update(A, B, 1234, 50, update.Update(target, operations, b"tables"))
    assert (made.kind, made.bytes, made.http_requests, made.seeds) == (Kind.UPDATE, 1234, 1, (B,))
    assert made.requests == (plan.Request(names.update_object(A, B), 0, 1234, True),)
    first, copy, second, own = made.steps
    assert isinstance(first, FrameStep) and isinstance(second, FrameStep)
    assert (first.place, second.place, second.target) == (50, 61, sizes[0] + sizes[1])
    assert (copy, own) == (
        CopyStep(sizes[0], sizes[1], 0, 5),
        CopyStep(sum(sizes[:3]), sizes[3], OWN, 0),
    )
    priced = plan.plan_update(A, B, 1234, 0, None)
    assert (priced.bytes, priced.http_requests, priced.steps) == (made.bytes, made.http_requests, ())
