"""METEOR and SPICE, computed by the jars in pycocoevalcap (`pip install 'captioner[java-metrics]'`), which need Java.

The programs run in a temporary folder, so that nothing is written beside the jars.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from captioner.metrics.meteor import COLUMNS, forgive_whole_matches
from captioner.metrics.ngrams import References, Tokens

JAVA_METRICS = ("METEOR", "SPICE")
# SPICE serializes classes that are not accessible to it in Java 16 and later.
_OPEN = [f"--add-opens=java.base/java.{part}=ALL-UNNAMED" for part in ("lang", "util", "io", "math", "text", "net")]


class JavaMetricError(RuntimeError):
    """A Java program is missing or failed. The message is one line."""


def _toolkit() -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def java_problem(metric: str) -> str | None:
    """Why METEOR or SPICE cannot be computed here, in one line; None if it can be."""
    java = shutil.which("java")
    if java is None:
        return f"{metric} needs Java, which is not on the PATH. Install a Java runtime, version 8 or later."
    try:
        subprocess.run([java, "-version"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{metric} needs Java, but `{java} -version` fails ({error}). Repair the Java installation."
    folder = _toolkit()
    if folder is None:
        return f"{metric} needs the jars of pycocoevalcap. Install them with: pip install 'captioner[java-metrics]'."
    needed = ["meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"]
    if metric == "SPICE":
        needed = ["spice/spice-1.0.jar", "spice/lib/stanford-corenlp-3.6.0.jar"]
        needed.append("spice/lib/stanford-corenlp-3.6.0-models.jar")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing and metric == "SPICE" and missing[0] != needed[0]:
        return (
            "SPICE needs Stanford CoreNLP 3.6.0 in pycocoevalcap's folder (500 MB to download). Fetch it once with "
            "python -c 'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()'"
        )
    if missing:
        return (
            f"{metric} needs {missing[0]} of pycocoevalcap, which is missing in {folder}. Install pycocoevalcap again."
        )
    return None


def _require(metric: str) -> tuple[str, Path]:
    problem = java_problem(metric)
    if problem:
        raise JavaMetricError(problem)
    java, folder = shutil.which("java"), _toolkit()
    assert java is not None and folder is not None
    return java, folder


def _reason(text: str) -> str:
    """The last printed line of a Java program that is not part of a stack trace ("  at …", "  ... 3 more")."""
    lines = (line for line in reversed(text.splitlines()) if line.strip() and not line[0].isspace())
    return next(lines, "it printed nothing")


def meteor_counts(candidates: Tokens, references: References) -> np.ndarray:
    """METEOR's counts of each image, (images, 23). `meteor.meteor_of` turns them, or sums of them, into scores."""
    java, folder = _require("METEOR")
    jar = folder / "meteor" / "meteor-1.5.jar"
    command = [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    counts = np.zeros((len(candidates), COLUMNS))
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch, "errors"), "w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            for image, (candidate, captions) in enumerate(zip(candidates, references, strict=True)):
                texts = [" ".join(words) for words in (*captions, candidate)]
                process.stdin.write(" ||| ".join(["SCORE", *texts]) + "\n")
                process.stdin.flush()
                counts[image] = process.stdout.readline().split()
        except (OSError, ValueError) as error:
            errors.seek(0)
            raise JavaMetricError(f"METEOR's jar failed: {_reason(errors.read())}") from error
        finally:
            process.kill()
            process.communicate()
    return forgive_whole_matches(counts)


def spice(candidates: Tokens, references: References) -> np.ndarray:
    """SPICE (Anderson et al. 2016) of each image, (images,); NaN where no scene graph could be made."""
    java, folder = _require("SPICE")
    entries = [
        {"image_id": image, "test": " ".join(candidate), "refs": [" ".join(caption) for caption in captions]}
        for image, (candidate, captions) in enumerate(zip(candidates, references, strict=True))
    ]
    version = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    options = [] if '"1.' in version else _OPEN  # Java 8 calls itself 1.8 and has no modules
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch, "given.json"), Path(scratch, "made.json")
        given.write_text(json.dumps(entries), encoding="utf-8")
        command = [java, *options, "-Xmx8G", "-jar", str(folder / "spice" / "spice-1.0.jar"), str(given)]
        done = subprocess.run([*command, "-out", str(made), "-silent"], cwd=scratch, capture_output=True, text=True)
        if done.returncode or not made.exists():
            raise JavaMetricError(f"SPICE's jar failed: {_reason(done.stderr)}")
        scores = np.full(len(entries), np.nan)
        for item in json.loads(made.read_text(encoding="utf-8")):
            value = item["scores"]["All"]["f"]
            scores[item["image_id"]] = np.nan if value is None else float(value)
    return scores
