"""The comparison as one HTML file that needs nothing else, with the report's look, figures and rules of safety.

Data is escaped by the templates; only our own SVG, style and script go in as they are, and the content policy names the
script by its hash and allows no request. Drawing takes a second or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from eval.tables import MetricTable
from flows.comparison import figures
from flows.comparison.text import AMOUNT, SHOWN_PARTS, measured_rows, moment, overlap_names, shown_pairs
from flows.comparison.values import RunComparison
from flows.report import layout, page, results
from flows.report.summary import KeyFigure, outcomes

SCRIPT = "page.js"  # the report's
SHOWN_SENTENCES = 8


def render(found: RunComparison) -> str:
    """The page as one HTML text without references to anything outside it."""
    report = Path(page.__file__).parent
    environment = page.template_environment(Path(__file__).parent, report)
    environment.filters["moment"] = moment
    body, contents = layout.arrange(
        environment.get_template("sections.html").render(
            found=found,
            pairs=shown_pairs(found),
            source_names=overlap_names(found, "source"),
            task_names=overlap_names(found, "task"),
            measured=measured_rows(found),
            amount=AMOUNT,
            shown_parts=SHOWN_PARTS,
            shown_sentences=SHOWN_SENTENCES,
            headline=results.headline(found.results),
            tables=[_differences(table) for table in found.results.tables],
            sources=Markup(figures.source_shares(found)),
            heat_map=Markup(figures.overlap_heat_map(found)) if len(found.arms) > 1 else None,
            figures=[Markup(figures.results(table, found)) for table in found.results.tables],
        )
    )
    script = (report / SCRIPT).read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        found=found,
        title=f"Comparison of {_listed([run.label for run in found.runs])}",
        key_figures=_key_figures(found),
        contents=[(entry.address, Markup(entry.title)) for entry in contents],
        body=Markup(body),
        scripts=[Markup(script)],
        hashes=[Markup(page.script_hash(script))],
        style=Markup((report / page.STYLE).read_text(encoding="utf-8")),
    )


def _key_figures(found: RunComparison) -> list[KeyFigure]:
    """Runs, settings that differ, the overlap of one method's selections, and the outcome of one arm."""
    methods = list(dict.fromkeys(arm.method for arm in found.arms))
    told = [
        KeyFigure("runs", str(len(found.runs)), f"{len(found.arms)} arms, by {_listed(methods)}"),
        KeyFigure("settings that differ", str(len(found.settings)), _listed([s.key for s in found.settings][:3])),
    ]
    first = found.arms[0]
    other = next((arm for arm in found.arms[1:] if arm.method == first.method), found.arms[-1])
    if other is not first and (overlap := found.overlap(first.label, other.label)) is not None:
        share = f"{overlap.common / first.rows:.0%}" if first.rows else "–"
        detail = f"{overlap.common:,} of {first.rows:,} rows; {overlap.expected:.0f} would be by chance"
        told.append(KeyFigure(f"rows of {first.label} also in {other.label}", share, detail))
    judged = other.label if found.results.tables and other.label not in found.results.tables[0].controls else None
    return told + (outcomes(found.results, judged)[:1] if judged else [])


def _differences(table: MetricTable) -> list[Mapping[str, object]]:
    """Per control the arms that are compared with it, the last control first."""
    return [
        {"control": control, "models": models}
        for control in reversed(table.controls)
        if (models := [d for d in table.models if any((x.model, x.control) == (d, control) for x in table.differences)])
    ]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
