"""All experiments, one after another, and the two pages that show them: every claim with its
verdict (claims.md) and every figure with its sentence, command and run time (gallery.md).

`--quick` and `--paper` take each script's smaller and larger sizes; `--paper` is meant for a GPU.
A script that is done is not run again: stop and start as you like. `--again` runs the scripts once
more on what they have stored, so analysis, figures and pages are made anew and nothing that is
stored is trained. With the default sizes, pages and figures go to docs/, measured run times to
experiments/run_times.json and README's table; otherwise pages go to --out. `--quick` takes about
five minutes.
"""

import dataclasses
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import rich.console
import rich.progress
from PIL import Image, PngImagePlugin

from experiments import NAMES, find, run_times
from relu_dynamics import store
from relu_dynamics.statistics import claims

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE_PIXELS = 1600


class Script(NamedTuple):
    """One experiment: how it is called and what each of its figures says."""

    name: str
    figures: Mapping[str, str]  # stem of the file -> its claim in one sentence
    paper: Mapping[str, Any] = {}  # options at the size of a paper, as in an options file


def script_of(name: str) -> Script:
    """An experiment as it is run here."""
    experiment = find(name)
    sentences = {stem: figure.sentence for stem, figure in experiment.figures.items()}
    return Script(name, sentences, experiment.paper)


SCRIPTS = tuple(map(script_of, NAMES))


@dataclasses.dataclass(frozen=True)
class Options:
    """Which sizes, which scripts, where to."""

    default: bool = False
    """The default sizes; the same as naming none."""
    paper: bool = False
    """The sizes of a paper."""
    quick: bool = False
    """Set by --quick."""
    only: tuple[str, ...] = ()
    """Names of scripts to run; all of them by default."""
    out: pathlib.Path = pathlib.Path("runs")
    """Folder of all results."""
    again: bool = False
    """Whether scripts that are done analyse and draw what they stored once more."""
    pages: bool = True
    """Whether to write claims.md, gallery.md and copy the figures."""


DEFAULTS = Options()
QUICK = Options(quick=True)


def size_of(options: Options) -> str:
    """quick, default or paper; raises a ValueError when more than one is asked for."""
    chosen = [name for name in ("quick", "default", "paper") if getattr(options, name)]
    if len(chosen) > 1:
        raise ValueError(f"--{' --'.join(chosen)}: choose one of --quick, --default, --paper.")
    return chosen[0] if chosen else "default"


def chosen_scripts(options: Options) -> list[Script]:
    """The scripts to run; raises a ValueError for a name that is not there."""
    known = {script.name: script for script in SCRIPTS}
    for name in options.only:
        if name not in known:
            raise ValueError(f"only={name!r} is not a script; known: {', '.join(known)}.")
    return [script for name, script in known.items() if not options.only or name in options.only]


def command_of(script: Script, size: str) -> list[str]:
    """The command that a reader would type, without --out."""
    return ["python", "-m", "experiments", script.name] + ["--quick"] * (size == "quick")


def run(options: Options) -> None:
    """Runs what is not done yet, then writes the pages."""
    size = size_of(options)
    scripts = chosen_scripts(options)
    out = options.out / f"all-{size}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store.NotWritableError(
            f"out={str(out)!r} cannot be written ({error.strerror}); choose another folder."
        ) from None
    columns = [
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    ]
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task("scripts", total=len(scripts))
        for script in scripts:
            bar.update(task, description=script.name)
            state = run_script(script, size, out / script.name, options.again)
            bar.console.print(f"{script.name}: {state}")
            bar.advance(task)
    if options.pages:
        pages = DOCS if size == "default" else out
        print("wrote", *write_pages(scripts, size, out, pages))
        if size == "default":
            seconds = {script.name: _seconds(out, script.name) for script in scripts}
            table = run_times.write(seconds, _machine())
            readme = ROOT / "README.md"
            readme.write_text(run_times.retimed(readme.read_text(), run_times.read(table)))
            print("wrote", table, readme)


def run_script(script: Script, size: str, folder: pathlib.Path, again: bool = False) -> str:
    """Runs one script unless it is done, or `again`; its output goes to NAME.log beside its folder.
    Raises a ValueError with its last line when it fails; what it has finished is kept, and so is
    the time that it took when it trained."""
    command = [sys.executable, *command_of(script, size)[1:]]
    if size == "paper" and script.paper:
        options_file = folder.parent / f"{script.name}-paper.json"
        options_file.write_text(json.dumps(dict(script.paper), indent=1))
        command += ["--config-file", str(options_file.absolute())]
    marker = folder.parent / f"{script.name}.done.json"
    done_before = _marked_command(marker) == command[1:]
    if done_before and not again:
        return "done before"
    started = time.monotonic()
    log = folder.parent / f"{script.name}.log"
    with open(log, "w") as text:
        done = subprocess.run(
            [*command, "--out", str(folder.absolute())], stdout=text, stderr=text, cwd=ROOT
        )
    if done.returncode:
        lines = log.read_text().strip().splitlines() or ["no output"]
        raise ValueError(f"{script.name} ended with {done.returncode}: {lines[-1]} (see {log})")
    seconds = round(time.monotonic() - started, 1)
    if not done_before:
        marker.write_text(json.dumps({"command": command[1:], "seconds": seconds}))
    return f"{seconds} s"


def _seconds(out: pathlib.Path, name: str) -> float:
    """How long an experiment took when it trained."""
    return json.loads((out / f"{name}.done.json").read_text())["seconds"]


def _marked_command(marker: pathlib.Path) -> list[str] | None:
    """The command that a marker says was done; None without a marker that can be read."""
    try:
        return json.loads(marker.read_text())["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_pages(
    scripts: list[Script], size: str, out: pathlib.Path, pages: pathlib.Path
) -> list[pathlib.Path]:
    """Copies the figures to `pages`/figures and writes claims.md and gallery.md beside it."""
    figures = pages / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    summaries = []
    gallery = [
        "# Gallery",
        "",
        "Written by `python -m experiments all`. Run times are of the whole experiment, compiling "
        f"included, on {_machine()}.",
    ]
    for script in scripts:
        command = " ".join(command_of(script, size))
        summary = json.loads((out / script.name / store.SUMMARY_FILE).read_text())
        summaries.append((command, summary))
        commit = summary.get("provenance", {}).get("git_commit", "unknown")[:12]
        seconds = run_times.spell(_seconds(out, script.name))
        for stem, sentence in script.figures.items():
            name = copy_figure(out / script.name, stem, figures)
            facts = f"`{command}` · {seconds} · analysed at {commit}"
            gallery += ["", f"## {sentence}", "", f"![{sentence}](figures/{name})", "", facts]
    (pages / "gallery.md").write_text("\n".join(gallery) + "\n")
    return [claims.write_page(pages / "claims.md", summaries, "figures"), pages / "gallery.md"]


def copy_figure(source: pathlib.Path, stem: str, folder: pathlib.Path) -> str:
    """Copies a figure for a page and returns its name: an animation as it is, a PNG at most
    PAGE_PIXELS wide on a palette of its own, with its metadata."""
    if (source / f"{stem}.gif").is_file():
        shutil.copyfile(source / f"{stem}.gif", folder / f"{stem}.gif")
        return f"{stem}.gif"
    with Image.open(source / f"{stem}.png") as image:
        facts = PngImagePlugin.PngInfo()
        for name, text in image.info.items():
            if isinstance(name, str) and isinstance(text, str):
                facts.add_text(name, text)
        height = round(image.height * min(1, PAGE_PIXELS / image.width))
        width = min(image.width, PAGE_PIXELS)
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small.quantize(256).save(folder / f"{stem}.png", pnginfo=facts, optimize=True)
    return f"{stem}.png"


def _machine() -> str:
    """What the scripts ran on, in words."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"one {device.device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()})"
