"""Saving: each format shows the same layout, and drawing loads no more than it needs."""

import subprocess
import sys

import pytest

from symrun import figures
from symrun.cli import main
from symrun.figures import plot

HEAVY = {"torch", "scipy", "pandas", "hydra"}
"""Each takes a tenth of a second or more to import."""


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_format_is_the_same_alone_and_after_others(write_run, tmp_path, kind):
    run = write_run(batch_norm=True).path
    (alone,) = plot("fig1", [run], tmp_path / "alone", [kind])
    *_, last = plot("fig1", [run], tmp_path / "all", ["svg", "pdf", "png", kind])
    after = next((tmp_path / "all").glob(f"*.{kind}"))
    assert alone.read_bytes() == after.read_bytes(), last


@pytest.mark.parametrize("figure", ["fig1", "fig5"])
def test_a_figure_of_runs_imports_neither_torch_nor_scipy_nor_pandas(write_run, figure):
    runs = [write_run(batch_norm=True, name="bn").path]
    if figure == "fig5":
        runs.append(write_run(batch_norm=False, name="plain").path)
    script = (
        "import sys; from symrun.cli import main; "
        "assert main(sys.argv[1:]) == 0; print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "plot", figure, *map(str, runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not HEAVY & set(done.stderr.split())


def test_a_plain_title_moves_the_note_to_the_caption(write_run, tmp_path, overlaps, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, *_: drawn.append(figure) or [])
    runs = [write_run(norm, name=str(norm)).path for norm in (False, True)]
    for name, given in (("fig1", runs[1:]), ("fig5", runs)):
        plot(name, given, tmp_path, ["png"])
        plot(name, given, tmp_path, ["png"], plain_title=True)
        usual, plain = drawn[-2:]
        assert plain.get_suptitle() == "Synthetic textures, VGG11 at width 1/8"
        caption, own = (figure.get_supxlabel() for figure in (usual, plain))
        note = " ".join(own.removeprefix(caption).split())
        assert own.startswith(caption) and note == (
            f"Drawn as Fig. {name[3]} of Kunin et al. (2021), but not with its settings."
        )
        assert overlaps(plain) == []


def test_a_plain_title_without_effect_is_refused(write_run, tmp_path, capsys):
    paper = write_run(True, depth=16, width=1.0, classes=200, synthetic=False, steps=39_100,
                      weight_decay=1e-4, records=2, sample=1)  # fmt: skip
    for words in (["fig2"], ["fig1", str(paper.path)]):
        assert main(["plot", *words, "--plain-title", "--out", str(tmp_path)]) == 2
        assert "--plain-title has no effect: the title of this fig" in capsys.readouterr().err
    assert not list(tmp_path.glob("fig*"))
