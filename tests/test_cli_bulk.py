"""The command line over many photos: captions into a file, and searching them."""

import io
import json
import shutil
import sys

import pytest


@pytest.fixture
def folder(photos, tmp_path):
    """Three photos, and one that is cut off."""
    shutil.copytree(photos, folder := tmp_path / "photos")
    (folder / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:400])
    return folder


@pytest.fixture
def caption(run, tiny):
    def caption(*arguments, **more):
        return run("caption", *arguments, "--checkpoint", tiny, "--device", "cpu", **more)

    return caption


def test_into_a_file_and_again(caption, folder, tmp_path):
    file = tmp_path / "captions.jsonl"
    status, out, err = caption(folder, "-o", file)
    assert (status, out) == (1, "")
    assert err.startswith("captioner: 3 captioned, 1 failed, 0 skipped, ") and err.endswith(
        f" s. The errors are in {file}.\n"
    )
    printed = caption(folder, "--json")[1].splitlines()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row for row in rows if "caption" in row] == [json.loads(line) for line in printed]
    assert [row["path"] for row in rows if "error" in row] == [str(folder / "cut.jpg")]
    status, out, err = caption(folder, "--output", file, "--recursive")
    assert status == 1
    assert err.startswith("captioner: 1 captioned, 0 failed, 4 skipped (1 of them failed before), ")
    (folder / "cut.jpg").unlink()
    assert caption(folder, "--output", file, "--redo", "--quiet") == (0, "", "")
    assert len(file.read_text().splitlines()) == 3


def test_a_shard_is_captioned_as_its_photos_are(caption, photos, tmp_path):
    shutil.make_archive(tmp_path / "00", "tar", photos)
    shard = tmp_path / "00.tar"
    captions = [line.split(": ")[1] for line in caption(photos, "--recursive")[1].splitlines()]
    status, out, _ = caption(shard)
    assert status == 0
    found = dict(line.split(": ") for line in out.splitlines())
    names = ("a.png", "b.jpg", "c.webp", "deeper/d.jpg")
    assert [found[f"{shard}/{name}"] for name in names] == captions


def test_standard_input(caption, photos):
    text = caption(photos / "b.jpg")[1].split(": ")[1]
    assert caption("-", stdin=(photos / "b.jpg").read_bytes()) == (0, f"-: {text}", "")
    listed = f"{photos}/b.jpg\0{photos}/a.png"
    status, out, _ = caption("-", "-0", stdin=listed)
    assert [line.split(": ")[0] for line in out.splitlines()] == listed.split("\0")
    status, out, err = caption("-", stdin=f"{photos}/b.jpg\n".encode() + b"caf\xe9.jpg\n" + b"x" * 5000)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (1, 1, 3)


def test_search(run, caption, photos, tmp_path):
    file = tmp_path / "captions.sqlite"
    assert caption(photos, "-o", file)[0] == 0
    lines = caption(photos)[1].replace(" ...", "").splitlines()
    word = lines[0].split()[-1]
    status, out, err = run("search", word, file)
    assert (status, err) == (0, "")
    assert sorted(out.splitlines()) == sorted(line for line in lines if word in line.split())
    _, begun, _ = run("search", f"{word[:2]}*", file, "--limit", 1, "--json")
    (found,) = map(json.loads, begun.splitlines())
    assert found.keys() == {"path", "caption", "confidence", "log_probability"}
    status, _, err = run("search", file, word)
    assert status == 2 and err.endswith(f"the words come before the file: captioner search {word} {file}\n")
    assert run("search", f"zebra {word}", file) == (
        0, out, "captioner: no caption has all of these words; these have some of them.\n"
    )  # fmt: skip
    assert run("search", "zebra", file) == (1, "", "captioner: no caption has any of these words.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "captions.xlsx"], "captions.xlsx: unknown ending '.xlsx'; expected one of .jsonl, .csv,"),
        (["-o", "captions.csv", "--json"], "--json is for standard output"),
        (["-o", "captions.csv", "--embed"], "--embed is for a gallery. Write an .html file"),
        (["--redo"], "--redo starts a file over. Add -o FILE."),
        (["--retry-errors"], "--retry-errors reads the errors in a file. Add -o FILE."),
        (["--overwrite"], "--overwrite is for text files. Add --sidecar txt."),
    ],
)
def test_options_that_would_be_ignored(caption, photos, arguments, message):
    status, out, err = caption(photos, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"captioner: {message}")


def test_sidecars(caption, photos, folder):
    status, out, err = caption(folder, "--sidecar", "txt")
    told, counts = err.splitlines()
    assert (status, out) == (1, "") and counts.startswith("captioner: 3 captioned, 1 failed")
    assert told.startswith(f"captioner: {folder}/cut.jpg: truncated")
    texts = [f"{folder}/{name}: {(folder / name).with_suffix('.txt').read_text()}" for name in ("a.png", "b.jpg")]
    assert texts == caption(folder)[1].replace(" ...", "").splitlines(keepends=True)[:2]


def test_interrupted(caption, folder, tmp_path, monkeypatch):
    from captioner.captioner import Captioner

    def interrupted(self, *arguments):
        yield from many(self, *arguments)
        raise KeyboardInterrupt

    many = Captioner.caption_many
    monkeypatch.setattr(Captioner, "caption_many", interrupted)
    status, _, err = caption(folder, "-o", tmp_path / "captions.csv")
    assert status == 130
    assert err.startswith("captioner: interrupted: 3 captioned, 1 failed, 0 skipped, ")
    assert err.endswith("s. Run the same command to continue.\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("arguments", [(), ("-o", "captions.csv")])
def test_the_bar_is_for_terminals(caption, folder, tmp_path, monkeypatch, terminal, arguments):
    monkeypatch.chdir(tmp_path)
    error = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    caption(folder, *arguments)
    lines = error.getvalue().replace("\r", "\n").splitlines()
    assert any("photos/s" in line for line in lines) == terminal
    assert any("errors: " in line for line in lines) == terminal
    assert any("cut.jpg: truncated" in line for line in lines) == (not arguments)


@pytest.mark.parametrize(
    "options, remedy",
    [
        (["--engine", "ray"], "Add -o DIRECTORY"),
        (["--engine", "ray", "-o", "a.jsonl"], "expected a name without an ending"),
        (["--part-size", "50"], "Add --engine ray"),
        (["--workers", "2"], "Add --engine ray"),
    ],
)
def test_options_of_a_cluster_that_would_be_ignored_are_refused(caption, folder, options, remedy):
    status, out, err = caption(folder, *options)
    assert (status, out) == (2, "")
    assert remedy in err
