"""`make bench-scale`: its inputs repeat, its curves are judged as the table says, what is missing counts as missed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bench.scale import MEASURES, cost, growth, models, page, targets
from bench.scale import __main__ as scale
from modelsync_protocol.containers import safetensors


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def test_the_same_arguments_give_the_same_inputs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        models.tensors(tmp_path / name / "float", 3 * models.MB)
        models.sparse(tmp_path / name / "holes", 5 * models.MB, touch=0.5)
        models.tree(tmp_path / name / "tree", 300, 200_000, changed=9)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_share_of_the_tensors_is_touched(tmp_path: Path) -> None:
    pair = models.tensors(tmp_path, 9 * models.MB, touch=0.25)
    old, new = pair.old.read_bytes(), pair.new.read_bytes()
    ranges = list(safetensors.tensors(memoryview(old)))
    assert len(ranges) == 4
    changed = [old[at.offset : at.offset + at.length] != new[at.offset : at.offset + at.length] for at in ranges]
    assert sum(changed) == 1


def test_nine_files_of_a_tree_change_and_keep_their_sizes(tmp_path: Path) -> None:
    pair = models.tree(tmp_path, 300, 200_000, changed=9)
    names = [path.relative_to(pair.old) for path in pair.old.rglob("*") if path.is_file()]
    assert len(names) == 300
    assert sum((pair.old / name).read_bytes() != (pair.new / name).read_bytes() for name in names) == 9
    assert all((pair.old / name).stat().st_size == (pair.new / name).stat().st_size for name in names)


def test_a_sparse_model_takes_its_weights_of_the_disk_only(tmp_path: Path) -> None:
    pair = models.sparse(tmp_path, 100 * models.MB, touch=0.02)
    assert pair.new.stat().st_size == pair.old.stat().st_size > 90 * models.MB
    assert pair.new.stat().st_blocks * 512 < 10 * models.MB


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(models.DiskTooSmall, match="GB are needed"):
        models.tensors(tmp_path, 10**16)
    assert list(tmp_path.iterdir()) == []


def test_exponents() -> None:
    assert growth.exponent([(x, 3 * x**1.2) for x in (1, 10, 50)]) == pytest.approx(1.2)
    assert growth.exponent([(1, 5), (2, 5), (9, 5)]) == pytest.approx(0)
    assert growth.of_linear([(0, 10), (1, 14), (5, 18)]) == pytest.approx(8 / 20)
    assert growth.of_linear([(1, 4), (5, 10)]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two points"):
        growth.exponent([(3, 1), (3, 2)])


def limit_of(bound: targets.Bound) -> float:
    """The number that is just within a bound."""
    limits = [limit for limit in (bound.most, bound.least) if limit is not None]
    return limits[0] if limits else 1.0


def test_a_row_is_met_at_its_bounds_and_missed_beyond() -> None:
    for row in targets.TABLE:
        for bound in row.bounds:
            limit = limit_of(bound)
            assert bound.met(limit)
            assert not bound.met(limit * 1.01 if bound.most is not None else limit * 0.99)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {verdict.met for verdict in targets.judge({})} == {None}
    verdicts = {v.row.target: v for v in targets.judge({"speed": {"values": {"tree_5000_seconds": 0.5}}})}
    row = verdicts["≤ 1 s, ≤ 150 MiB"]
    assert row.met is None and "0.50 s" in row.measured and "tree_5000_mib was not measured" in row.measured
    assert any(v.met is False for v in targets.judge({"speed": {"values": {"tree_5000_seconds": 1.5}}}))


def test_the_table_asks_only_measures_that_run() -> None:
    assert {bound.measure for row in targets.TABLE for bound in row.bounds} == set(MEASURES)


def test_every_number_that_the_table_asks_for_is_named_by_its_measure() -> None:
    for bound in (bound for row in targets.TABLE for bound in row.bounds):
        source = (Path(targets.__file__).parent / f"{bound.measure}.py").read_text()
        assert f'"{bound.name}"' in source, f"nobody measures {bound.name}"


def test_a_missing_or_failing_measure_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    monkeypatch.setattr(scale, "MEASURES", ("no_such_measure", "growth"))  # growth is a module without a measure()
    assert scale.main(["--quick", "--out", str(out), "--scratch", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "no_such_measure.py is missing" in said and "has no attribute 'measure'" in said
    assert set(json.loads(out.read_text())["measures"]) == {"no_such_measure", "growth"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_command_is_charged_with_its_children(tmp_path: Path) -> None:
    grandchild = "import time; held = bytearray(80 << 20); held[::4096] = b'x' * len(held[::4096]); time.sleep(0.4)"
    found = cost.run(["sh", "-c", f'python3 -c "{grandchild}"; true'])
    assert found.peak_mib > 75
    assert found.cpu > 0 and found.seconds > 0.4
    with pytest.raises(cost.CommandFailed, match="ended with 3: why"):
        cost.run(["sh", "-c", "echo why >&2; exit 3"])


def test_the_page_has_every_row_and_is_the_same_twice(tmp_path: Path) -> None:
    document = {
        "machine": {"day": "2026-11-29", "cores": 2, "machine": "x86_64", "memory_gib": 1, "python": "3", "zstd": ""},
        "measures": {
            "speed": {"scale": "quick", "curves": {"size": [[1, 1], [10, 9]], "of its own": [[1, 2], [2, 4]]}},
            "many": {"scale": "quick", "error": "it broke"},
        },
    }
    result, text = tmp_path / "r.json", tmp_path / "performance.md"
    result.write_text(json.dumps(document))
    text.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    pictures = []
    for _ in range(2):
        page.write(result, text)
        pictures.append((tmp_path / "performance" / "scale.svg").read_bytes())
    assert pictures[0] == pictures[1]
    written = text.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert all(row.case in written for row in targets.TABLE)
    assert "exponent 0.95" in written and "`many` was not measured: it broke" in written


def test_the_real_page_has_room_for_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "new" in page.replaced(text, "new")
