"""The log of a run: a resumed one forgets what came after the step it goes on from."""

import pytest

from captioner.training.journal import Journal, read_log


@pytest.mark.parametrize(("step", "validated", "kept"), [(0, True, 0), (1, True, 1), (2, False, 2), (2, True, 3)])
def test_a_journal_goes_on_after_its_step(tmp_path, step, validated, kept):
    rows = [("step", 1), ("step", 2), ("validation", 2), ("step", 3)]
    journal = Journal(tmp_path)
    for kind, number in rows:
        journal.write(kind, number, loss=0.5)
    journal.close()
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"kind": "step", "st')  # killed while it wrote
    assert [(row["kind"], row["step"]) for row in read_log(path)] == rows
    journal = Journal(tmp_path, step, validated)
    journal.write("step", step + 1, loss=0.25)
    journal.close()
    assert [(row["kind"], row["step"]) for row in read_log(path)] == [*rows[:kept], ("step", step + 1)]


@pytest.mark.parametrize("line", ['{"kind": "step", "st', "[]", '{"kind": "step"}', "\udce9"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    whole = '{"kind": "step", "step": 1}\n'
    path.write_text(f"{whole}{line}\n{whole}", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: damaged; expected a JSON object with kind and step"):
        read_log(path)
