"""Claims: a sentence that somebody wrote, the verdict on it, and the page of all of them.

A verdict never rests on a point estimate:

* confirmed: the interval of the effect lies above 0 (or the statement is certified);
* refuted: it lies below 0, or below the least effect that would matter;
* conditional: it holds under the condition that is named, and fails outside;
* undecided: neither; `more_seeds` says how many would decide if they resemble those observed.

Claims decided by a difference belong to a family (those of a script); `controlled` keeps the
expected share of false discoveries in it at a level, by Benjamini and Hochberg.
"""

import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from relu_dynamics.checks import check_choice
from relu_dynamics.statistics.intervals import Interval
from relu_dynamics.statistics.pairs import false_discovery_rate, paired_mean, paired_p_value

VERDICTS = ("confirmed", "refuted", "conditional", "undecided")


class Article(NamedTuple):
    """An article whose sentences are tested."""

    title: str  # of its section on the page of claims
    address: str  # where to read it, as Markdown


ARTICLES = {
    "learning rate": Article(
        "The article on learning rate and recovery",
        "[How Learning Rate Influences Dead ReLU Recovery](https://prachub.com/resources/"
        "how-learning-rate-influences-dead-relu-recovery) (PracHub).",
    ),
    "dying ReLU": Article(
        "The article on the dying-ReLU problem",
        "Its address was not kept; [this page]"
        "(https://datarekha.com/interview/deep-learning/dead-relu-problem/) makes several of the "
        "same claims.",
    ),
}
ADDRESSES = {  # of a paper that a source names by its number
    r"arXiv (\d{4}\.\d{4,5})": r"[arXiv \1](https://arxiv.org/abs/\1)",
    r"doi (10\.\S+)": r"[doi \1](https://doi.org/\1)",
}


class Claim(NamedTuple):
    """One sentence and its verdict, as a summary.json stores it."""

    claim: str  # the sentence that was tested
    source: str  # a key of ARTICLES, or the paper
    verdict: str  # of VERDICTS
    finding: str  # what was found, in one sentence with its number
    estimate: float | None  # of the effect
    interval: tuple[float, float] | None  # 95 %
    count: str  # what the number rests on, such as "100 seeds, 3,200 units"
    definition: str  # of the effect, with the definition of dead that it uses
    condition: str = ""  # of a conditional verdict
    more_seeds: float | None = None  # that would decide an undecided one; inf: none would
    p_value: float | None = None  # two-sided, before `controlled`
    figure: str = ""  # file name without suffix
    more: Mapping[str, Any] = MappingProxyType({})  # other plain values of a summary's row

    def as_json(self) -> dict[str, Any]:
        """The claim as plain values for a summary."""
        row = self._asdict()
        more = row.pop("more")
        for name in ("estimate", "more_seeds", "p_value"):
            value = row[name]
            row[name] = None if value is None or not math.isfinite(value) else float(value)
        if self.more_seeds is not None and math.isinf(self.more_seeds):
            row["more_seeds"] = "no number"
        elif row["more_seeds"] is not None:
            row["more_seeds"] = math.ceil(row["more_seeds"])
        ends = [] if self.interval is None else [float(end) for end in self.interval]
        row["interval"] = ends if ends and all(map(math.isfinite, ends)) else None
        return row | dict(more)


def difference_claim(
    claim: str,
    source: str,
    first: ArrayLike,
    second: ArrayLike,
    *,
    finding: str,
    definition: str,
    figure: str = "",
    least: float = 0.0,
    bounds: tuple[float, float] | None = None,
    units: str = "",
) -> Claim:
    """The verdict on "`first` is larger than `second`", paired by seed.

    Args:
      first, second: one finite number per seed in each arm, shape [seeds], the same seed at the
        same place: a proportion, a loss, a time.
      finding: a sentence with places {first}, {second} (the arms' means), {estimate}, {low} and
        {high} (of the difference, first minus second).
      least: the smallest difference that would matter, >= 0; an interval below it refutes.
      bounds: what a difference cannot leave, (-1, 1) of proportions.
      units: what the numbers rest on beside the seeds, such as "3,200 units per arm".

    The interval is that of `statistics.paired_mean` (t over paired seeds).
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    interval = paired_mean(first, second, bounds=bounds)
    verdict = verdict_of(interval, least)
    low, high = float(interval.low), float(interval.high)
    estimate = float(interval.estimate)
    numbers = {"first": first.mean(), "second": second.mean()}
    return Claim(
        claim=claim,
        source=source,
        verdict=verdict,
        finding=finding.format(estimate=estimate, low=low, high=high, **numbers),
        estimate=estimate,
        interval=(low, high),
        count=", ".join([f"{len(first)} seeds", *([units] if units else [])]),
        definition=definition,
        more_seeds=more_seeds(interval) if verdict == "undecided" else None,
        p_value=paired_p_value(first, second),
        figure=figure,
    )


def verdict_of(difference: Interval, least: float = 0.0) -> str:
    """The verdict on "the difference is above 0" from its interval; `least` >= 0 is the smallest
    difference that would matter."""
    if float(difference.high) < 0 or float(difference.high) < least:
        return "refuted"  # also where it is above 0, but surely too small to matter
    return "confirmed" if float(difference.low) > 0 else "undecided"


def more_seeds(difference: Interval) -> float:
    """How many more seeds would take 0 out of the interval, if they resemble those observed: its
    half width falls as one over the square root of the seeds. inf where the estimate is 0."""
    estimate, seeds = abs(float(difference.estimate)), int(difference.clusters)
    half = (float(difference.high) - float(difference.low)) / 2
    if not estimate or not math.isfinite(half):
        return math.inf
    return max(math.ceil(seeds * (half / estimate) ** 2) - seeds, 1)


Key = TypeVar("Key")


def controlled_by_key(claims: Mapping[Key, Claim], level: float = 0.05) -> dict[Key, Claim]:
    """`controlled` for a family whose claims have names: arm, task, condition."""
    return dict(zip(claims, controlled(list(claims.values()), level), strict=True))


def controlled(claims: Sequence[Claim], level: float = 0.05) -> list[Claim]:
    """The claims with their p values adjusted as one family (false-discovery rate at most `level`).
    A verdict by a difference that does not survive it becomes undecided."""
    tested = [i for i, claim in enumerate(claims) if claim.p_value is not None]
    p_values = np.asarray([claims[i].p_value for i in tested], float)
    found = false_discovery_rate(p_values, level)
    out = list(claims)
    for place, i in enumerate(tested):
        adjusted = float(found.adjusted[place])
        survives = found.rejected[place] or claims[i].verdict not in ("confirmed", "refuted")
        high = (claims[i].interval or (0.0, 0.0))[1]
        equivalent = claims[i].verdict == "refuted" and high > 0
        verdict = claims[i].verdict if survives or equivalent else "undecided"
        out[i] = claims[i]._replace(p_value=adjusted, verdict=verdict)
    return out


def combined(overall: Claim, parts: Mapping[str, Claim]) -> Claim:
    """One claim from its verdicts under several conditions, `parts` (condition -> the claim under
    it, already `controlled`). `overall` is the claim on the mean over the conditions, of which
    everything but the verdict is kept; `more["settings"]` then says how many conditions have which
    verdict.

    Confirmed or refuted when it is so under every condition; conditional when it is confirmed
    under some; else undecided. Such a verdict is no test of its own: its p value is None.
    """
    found = {name: [c for c, part in parts.items() if part.verdict == name] for name in VERDICTS}
    whole = next((name for name in VERDICTS if len(found[name]) == len(parts)), None)
    verdict = whole or ("conditional" if found["confirmed"] else "undecided")
    needed = [part.more_seeds for part in parts.values() if part.verdict == "undecided"]
    spelled = [f"{name} at {', '.join(where)}" for name, where in found.items() if where]
    return overall._replace(
        verdict=verdict,
        condition="" if whole else "; ".join(spelled),
        more_seeds=max((n for n in needed if n is not None), default=None),
        p_value=None,
        more={
            **overall.more,
            "settings": {name: len(where) for name, where in found.items() if where},
        },
    )


def verdict_text(row: Mapping[str, Any]) -> str:
    """The verdict of a summary's row, and where its conditions differ how many have which."""
    settings = row.get("settings", {})
    if len(settings) < 2:
        return row["verdict"]
    return f"{row['verdict']} ({', '.join(f'{name} in {n}' for name, n in settings.items())})"


def number_text(row: Mapping[str, Any]) -> str:
    """The estimate of a summary's row with its interval; "" where a claim has none."""
    if row["estimate"] is None:
        return ""
    ends = row["interval"]
    interval = "" if ends is None else f" [{ends[0]:.3g}, {ends[1]:.3g}]"
    return f"{row['estimate']:.3g}{interval}"


def anchor(row: Mapping[str, Any]) -> str:
    """The place of a claim on the page, by its words: the same as long as it says the same."""
    return (
        "-".join(re.findall(r"[a-z0-9.]+", row["claim"].lower())).replace(".", "-").strip("-")
        or "claim"
    )


def print_claims(rows: Iterable[Mapping[str, Any]]) -> None:
    """The claims of a summary as text."""
    for row in rows:
        print(f"{row['claim']}\n    {verdict_text(row).upper()}: {row['finding']}")
        if row["condition"]:
            print(f"    condition: {row['condition']}")


def write_page(
    path: pathlib.Path, scripts: Sequence[tuple[str, Mapping[str, Any]]], figures: str
) -> pathlib.Path:
    """Writes the page of all claims from (command, summary) of every script and returns its path.

    Claims of the two articles come first, in the order of `ARTICLES`, then those of papers by
    source. `figures` is the folder of the figures as seen from the page. Raises a ValueError for a
    verdict that is not one of `VERDICTS`.
    """
    rows = [(row, command) for command, summary in scripts for row in summary.get("claims", [])]
    for row, _ in rows:
        check_choice("verdict", row["verdict"], VERDICTS)
    sources = list(dict.fromkeys([*ARTICLES, *(row["source"] for row, _ in rows)]))
    counts = {name: sum(row["verdict"] == name for row, _ in rows) for name in VERDICTS}
    commits = dict.fromkeys(
        str(summary["provenance"]["git_commit"])[:12]
        for _, summary in scripts
        if "provenance" in summary
    )
    lines = [
        "# The claims, one by one",
        "",
        "Written by `python -m experiments all` from the scripts' summaries. "
        + ", ".join(f"{n} {name}" for name, n in counts.items())
        + ". Intervals are 95 %; verdicts are defined in "
        + "`relu_dynamics/statistics/claims.py`."
        + (f" Analysed at commit {', '.join(commits)}." if commits else ""),
        "",
        "| claim | verdict | number [95 %] | where |",
        "|---|---|---|---|",
    ]
    ordered = [
        (row, command) for source in sources for row, command in rows if row["source"] == source
    ]
    places: dict[str, int] = {}
    anchors = []
    for row, _ in ordered:
        place = anchor(row)
        places[place] = places.get(place, 0) + 1
        anchors.append(place if places[place] == 1 else f"{place}-{places[place]}")
    for (row, command), place in zip(ordered, anchors, strict=True):
        where = command.removeprefix("python -m experiments ")
        cells = (
            f"[{_cell(row['claim'])}](#{place})",
            verdict_text(row),
            number_text(row),
            f"`{where}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    source = None
    for (row, command), place in zip(ordered, anchors, strict=True):
        if row["source"] != source:
            source = row["source"]
            lines += ["", *_heading(source)]
        lines += ["", f'<a id="{place}"></a>', "", *_entry(row, command, figures)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _heading(source: str) -> list[str]:
    """The heading of an article's or a paper's claims, with its address."""
    if source in ARTICLES:
        article = ARTICLES[source]
        return [f"## {article.title}", "", article.address]
    linked = source
    for number, link in ADDRESSES.items():
        linked = re.sub(number, link, linked)
    title = f"## {source[0].upper()}{source[1:]}"
    return [title] if linked == source else [title, "", f"{linked[0].upper()}{linked[1:]}."]


def _cell(text: str) -> str:
    """Text for a link in a cell of a Markdown table."""
    return re.sub(r"([|\[\]])", r"\\\1", text)


def _entry(row: Mapping[str, Any], command: str, figures: str) -> list[str]:
    """One claim as lines of Markdown."""
    facts = [text for text in (number_text(row), row["count"], row["definition"]) if text]
    lines = [f"**{row['claim']}** — *{verdict_text(row)}*", "", row["finding"]]
    if row["condition"]:
        lines += ["", f"Condition: {row['condition']}"]
    if row["more_seeds"] is not None and row["verdict"] == "undecided":
        lines += ["", _missing(row)]
    figure = f" · [figure]({figures}/{row['figure']}.png)" if row["figure"] else ""
    return [*lines, "", f"{'; '.join(facts)}. `{command}`{figure}"]


def _missing(row: Mapping[str, Any]) -> str:
    """What would decide an undecided claim, in a sentence."""
    what = "The undecided settings" if len(row.get("settings", {})) > 1 else "It"
    if isinstance(row["more_seeds"], str):
        return f"{what} would be decided by no number of seeds like these."
    n = math.ceil(row["more_seeds"])
    return f"{what} would be decided by about {n:,} more seed{'s' if n > 1 else ''}."
