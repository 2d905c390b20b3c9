"""The help of train, find-lr and pretrain: it has every option that is parsed, once, the ten that matter first."""

import io
import re
import sys

import pytest
import tyro

from captioner.cli import help_page, main
from captioner.cli.options import app


def read(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["captioner", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verb", help_page.PAGES)
def test_the_page_has_what_the_parser_has(monkeypatch, capsys, verb, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    ours = read(monkeypatch, capsys, verb, "--help")
    assert ours == read(monkeypatch, capsys, verb, "--data", "x", "-h")
    assert max(map(len, ours.splitlines())) <= columns
    option = re.compile(r"^[│|]? *(--\w[\w.-]*)", re.MULTILINE)
    with pytest.raises(SystemExit):
        app.cli(prog="captioner", args=[verb, "--help"], config=(tyro.conf.FlagCreatePairsOff,))
    theirs = set(option.findall(capsys.readouterr().out))
    found = re.findall(r"^│ (--[\w.-]+)", ours, re.MULTILINE)
    assert set(found) == theirs and len(found) == len(theirs) > 20


@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_the_ten_that_matter_come_first(verb):
    config, _, groups = help_page.PAGES[verb]
    grouped = help_page._group(list(help_page.options_of(config)), groups)
    assert grouped.keys() == groups.keys()
    first, *others = grouped.values()
    assert len(first) == 10 and all(others)
    options = {option.name: option for option in first}
    assert options["output"].typed == "--output PATH" and options["output"].text.endswith("TensorBoard. (required)")


def test_options_as_they_are_typed():
    options = {option.name: option for option in help_page.options_of(help_page.PAGES["train"][0])}
    assert (
        options["augment.flip"].typed == "--augment.no-flip" and "this switches it off" in options["augment.flip"].text
    )
    assert options["model.cell"].typed == "--model.cell {lstm,gru,rnn}"
    assert options["shares"].typed == "--shares FLOAT ..." and "(default" not in options["shares"].text
    assert options["limit"].text.replace(help_page.NO_BREAK, " ").endswith("0 for all. (default: 0)")
    assert options["freeze_embeddings"] == (
        "freeze_embeddings",
        "--freeze-embeddings",
        "Do not train the word vectors.",
    )


def test_a_terminal_without_unicode(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "\nMachine\n  --device TEXT " in help_page.page("train", 80)
