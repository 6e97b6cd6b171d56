"""A backtest as one page: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from meshflow.policy.backtest.report import Change, Report
from meshflow.visible import html_text as text

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1e21;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d7dade}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #eceef0}
th{font-weight:600;color:#555b63}td.n{text-align:right;font-variant-numeric:tabular-nums}
code{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
.sum{display:flex;flex-wrap:wrap;gap:1rem}.sum div{border:1px solid #d7dade;border-radius:6px;padding:.5rem 1rem}
.sum b{display:block;font-size:1.4rem}.loose{color:#b3261e}
@media (prefers-color-scheme:dark){body{color:#e6e8ea;background:#17191c}th{color:#a6adb5}
h2,.sum div{border-color:#3a3f45}th,td{border-color:#2a2e33}.loose{color:#ff8a80}}
"""
StepUrl = Callable[[Change], str]


def html_page(report: Report, step_url: StepUrl | None = None) -> str:
    """Return the report as a page; ``step_url`` gives the address of a step, if steps have one."""
    return "".join(_page(report, step_url))


def _page(report: Report, step_url: StepUrl | None) -> Iterator[str]:
    title = f"Backtest of {report.bundle}"
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><h1>{text(title)}</h1>"
        f"<p>Digest <code>{text(report.digest)}</code>. {report.runs:,} runs, {report.steps:,} steps.</p>"
    )
    numbers = (
        ("decisions", report.decisions, ""), ("the same", report.same, ""), ("would flip", report.flips, ""),
        ("of these looser", report.looser, "loose"), ("same, other rules", report.reasons, ""),
        ("undecidable", report.undecidable, ""),
    )  # fmt: skip
    boxes = (f'<div class="{kind}"><b>{count:,}</b>{text(name)}</div>' for name, count, kind in numbers)
    yield f'<div class="sum">{"".join(boxes)}</div>'
    yield from _tally("What would flip", report.kinds.rows())
    for name, tally in report.by.items():
        yield from _tally(f"By {name}", tally.rows())
    yield from _tally("Undecidable", report.why.rows())
    yield from _tally("Decided then by the bundle", report.bundles.rows())
    for group, heading in (("flip", "Flips"), ("reasons", "Other rules"), ("undecidable", "Undecidable steps")):
        for kind, changes in report.kept(group):
            yield from _changes(f"{heading}: {kind}", changes, step_url)
    yield "</body></html>\n"


def _tally(heading: str, rows: Sequence[dict[str, object]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<h2>{text(heading)}</h2>"
    cells = (
        [str(row["key"]), f"{row['total']:,}", ", ".join(f"{kind}: {n:,}" for kind, n in dict(row["kinds"]).items())]  # type: ignore[call-overload]
        for row in rows
    )
    yield from _table(("", "decisions", "of which"), cells, numbers={1})


def _changes(heading: str, changes: Sequence[Change], step_url: StepUrl | None) -> Iterator[str]:
    yield f"<h2>{text(heading)}</h2>"
    yield "<table><tr><th>step</th><th>stage</th><th>agent</th><th>tool</th><th>tenant</th><th>why</th></tr>"
    for one in changes:
        index = one.step_index if one.step_index is not None else one.step_id
        name = f"<code>{text(one.run_id)} {text(index)}</code> {text(one.node)}"
        if step_url is not None:
            name = f'<a href="{text(step_url(one))}">{name}</a>'
        why = "; ".join((*one.signed, *filter(None, (one.why, one.reason))))
        rest = (one.stage, one.agent, one.tool, one.tenant, why)
        yield f"<tr><td>{name}</td>{''.join(f'<td>{text(shown)}</td>' for shown in rest)}</tr>"
    yield "</table>"


def _table(headers: Iterable[str], rows: Iterable[Sequence[str]], numbers: set[int]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{text(one)}</th>" for one in headers) + "</tr>"
    for row in rows:
        cells = (f"<td{' class=n' if at in numbers else ''}>{text(shown)}</td>" for at, shown in enumerate(row))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table>"
