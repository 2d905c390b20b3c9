"""The verb diagnose: why are my captions bad?"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from captioner.cli.options import OptionalFolder, OptionalSplit, app, leave_out_damaged, load_captioner, print_json

if TYPE_CHECKING:
    from captioner.diagnose import Finding


@app.command
def diagnose(
    checkpoint: tyro.conf.Positional[Path],
    /,
    data: Path,
    images: OptionalFolder = None,
    split: OptionalSplit = None,
    limit: int = 200,
    json: bool = False,
    device: str = "auto",
) -> int:
    """Why are my captions bad? Check a model on a data set; each check gives a figure, a verdict and advice.

    Args:
        checkpoint: Directory of the model.
        data: Folder of the data set; the format is detected from its files.
        images: Folder of the photos, if they are not below the data set's folder.
        split: train, val (or dev), test or all; by default val, or all photos of a data set without splits. Use photos
            that the model was not trained on.
        limit: Maximum number of photos from the split, and from the training split, evenly spaced; 0 for all.
        json: Print one JSON object, for programs.
        device: auto, cpu, cuda, mps.
    """
    from dataclasses import asdict

    from captioner.data.readers import default_split, read_dataset, select
    from captioner.diagnose import diagnose as run

    everything = read_dataset(data, images=images)
    split = split or default_split(everything)
    records = _spread(select(everything, split), limit)
    seen = {record.id for record in records}
    training = _spread([record for record in everything if record.split == "train" and record.id not in seen], limit)
    if split == "train":
        print("captioner: the model may have memorised these photos; use --split val to judge it.", file=sys.stderr)
        training = []
    chosen = len(records) + len(training)
    records, training = leave_out_damaged(records), leave_out_damaged(training)
    findings = run(load_captioner(checkpoint, device, "torch"), records, training)
    if json:
        entry = {"checkpoint": str(checkpoint), "data": str(data), "split": split, "photos": len(records)}
        print_json({**entry, "findings": [asdict(finding) for finding in findings]})
    else:
        print(f"{checkpoint} on {len(records)} photos of {data}, {split}\n")
        print(_table(findings))
    return 1 if len(records) + len(training) < chosen else 0


def _spread(records: Sequence, limit: int) -> list:
    """At most `limit` records, evenly spaced; all if it is 0."""
    count = min(limit, len(records)) if limit > 0 else len(records)
    return [records[i * len(records) // count] for i in range(count)]


def _table(findings: Sequence[Finding]) -> str:
    """One line per finding with its advice below, then the number of findings per verdict."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        verdict = finding.verdict.upper() if finding.verdict == "bad" else finding.verdict
        lines.append(f"{verdict:<8}{finding.name:<{width}}  {finding.figure}")
        margin = " " * (8 + width + 2)
        lines += textwrap.wrap(finding.advice, 118, initial_indent=margin + "-> ", subsequent_indent=margin + "   ")
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in ("bad", "look", "good")}
    summary = f"{counts['bad']} bad, {counts['look']} to look at, {counts['good']} good"
    return "\n".join([*lines, "", summary + "."])
