"""The program as shells start it: closed streams, readers that leave, locales, Ctrl-C at any moment, and the words that
people type."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_cli import caption

import captioner

PROGRAM = (sys.executable, "-m", "captioner")


def program(*arguments, **more):
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=-1, stderr=-1, text=True, **more)


@pytest.fixture
def command(photos):
    """It takes the shipped model, which needs no torch."""
    return ("caption", *[photos] * 40, "--backend", "onnx", "--batch-size", 4)


def test_a_reader_that_leaves(command):
    """`captioner caption … | head -1` ends without a traceback."""
    process = program(*command)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0
    process.stderr.close()


def test_a_reader_of_both_streams_that_leaves(command):
    shell = f"{' '.join(map(str, (*PROGRAM, *command)))} --json 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("streams", "status", "err"),
    [
        (">&-", 2, "captioner: standard output is closed"),
        (">/dev/full", 2, "captioner: [Errno 28] No space left on device"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("- <&-", 2, "captioner: no photos: standard input is empty."),
    ],
)
def test_closed_streams(photos, streams, status, err):
    photo = "" if streams[0] == "-" else photos / "b.jpg"
    command = (*PROGRAM, "caption", "--backend", "onnx", photo, streams)
    done = subprocess.run(["bash", "-c", " ".join(map(str, command))], capture_output=True, text=True, check=False)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert done.stderr.startswith(err) and done.stderr.count("\n") == bool(err)
    assert done.stdout.startswith(str(photos)) == (status == 0)


INTERRUPT = """
import os, signal, sys, captioner.__main__
class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == sys.argv[0]:
            os.kill(os.getpid(), signal.SIGINT)
sys.argv[:] = sys.argv[1:]
sys.meta_path.insert(0, Interrupt)
captioner.__main__.main()
"""


@pytest.mark.parametrize("module", ["tyro", "captioner.cli.web", "numpy", "onnxruntime"])
def test_ctrl_c_while_modules_are_imported(command, module):
    words = (sys.executable, "-c", INTERRUPT, module, *map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stdout == "" and done.stderr in ("", "captioner: interrupted\n")


def test_ctrl_c_three_times(photos, tmp_path):
    file = tmp_path / "captions.jsonl"
    for number in range(400):
        (tmp_path / f"{number}.jpg").symlink_to(photos / "b.jpg")
    process = program("caption", tmp_path, "--backend", "onnx", "--batch-size", 4, "-o", file)
    while not file.exists() or not file.stat().st_size:
        time.sleep(0.01)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate()
    assert process.returncode == 130 and err.count("\n") == 1 and err.startswith("captioner: interrupted: ")
    captioned = int(err.split()[2].replace(",", ""))
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == captioned > 0


def test_json_is_valid_in_any_locale(photos, tmp_path):
    name = tmp_path / "dög\n🐕.jpg"
    name.write_bytes((photos / "b.jpg").read_bytes())
    for encoding in ("latin-1", "utf-8"):
        process = program(
            "caption", name, "--json", "--backend", "onnx",
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        out, err = process.communicate()
        assert json.loads(out)["path"] == str(name) and not err


def test_control_characters_are_escaped(run, tiny, photos, tmp_path):
    for name, content in (("a\n\x1b[31m.jpg", (photos / "b.jpg").read_bytes()), ("b\r.jpg", b"no photo")):
        (tmp_path / name).write_bytes(content)
    status, out, err = caption(run, tiny, tmp_path)
    assert status == 1 and out.startswith(f"{tmp_path}/a\\n\\x1b[31m.jpg: ") and out.count("\n") == 1
    assert err.startswith(f"captioner: {tmp_path}/b\\r.jpg: not a photo")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("{photo}", "{photo} is not a command. To caption a photo: captioner caption {photo}"),
        ("captions {photo}", "captions is not a command. Did you mean caption?"),
        ("frobnicate", "frobnicate is not a command. Expected one of: caption, "),
        ("train --epochs 3", "there is no option --epochs: the epochs are in the stages: --stages decoder:10"),
        ("train --lr=1", "there is no option --lr: it is called --learning-rate"),
        ("caption --embeddings x", "there is no option --embeddings: it is an option of captioner train"),
        ("caption --method greedy", "there is no --method greedy: greedy search is --beam-size 1."),
        ("caption --method=greedy", "there is no --method greedy: greedy search is --beam-size 1."),
        ("web --device gpu", "there is no --device gpu: use cuda for NVIDIA, mps for Apple, or auto."),
    ],
)
def test_what_people_type(run, photos, words, answer):
    photo = photos / "b.jpg"
    status, out, err = run(*words.format(photo=photo).split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"captioner: {answer.format(photo=photo)}")


def test_help_gives_the_defaults_of_decoding_options(run):
    text = " ".join(run("caption", "--help")[1].replace("│", " ").split())
    assert "1 is greedy. (default: as the checkpoint was saved, else 3)" in text


def test_version(run):
    assert run("--version") == (0, f"captioner {captioner.__version__}\n", "")


def test_the_package_offers_its_names_and_imports_them_late():
    for name in captioner.__all__:
        assert getattr(captioner, name).__name__ == name and name in dir(captioner)
    with pytest.raises(AttributeError, match="has no attribute 'Captoiner'"):
        captioner.Captoiner  # noqa: B018
    code = "import sys, captioner; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_attend_goes_on_after_a_damaged_photo(run, photos, tmp_path):
    shutil.copytree(photos, folder := tmp_path / "photos")
    (folder / "a.png").write_bytes(b"no photo")
    status, out, err = run("attend", folder, "-o", tmp_path / "new" / "{name}.json", "--backend", "onnx")
    assert status == 1 and [line for line in out.splitlines() if line.endswith(".json")] == [
        str(tmp_path / "new" / f"{name}.json") for name in "bc"
    ]
    assert "1 of 3 photos could not be captioned" in err and (tmp_path / "new" / "c.json").is_file()
