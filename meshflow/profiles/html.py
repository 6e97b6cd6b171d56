"""A profile report as one HTML file: no script, nothing loaded, and every text from the ledger escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from meshflow.profiles.style import STYLE
from meshflow.visible import html_text as text

_STATES: Final = {
    "violated": "Violated",
    "satisfied": "Satisfied",
    "not_exercised": "Not exercised",
    "not_covered": "Not covered",
}
_RECORDS: Final = {"violated": "against it", "undecidable": "beyond judgement", "satisfied": "for it"}


def report_html(report: Mapping[str, Any]) -> str:
    """Return the whole document."""
    return "".join(iter_html(report))


def iter_html(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the document in parts."""
    profile = report["profile"]
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(profile['title'])}: evidence</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    yield from _head(report)
    yield from _foundation(report)
    yield "<h2>Controls</h2>\n"
    if not report["controls"]:
        yield "<p>The profile has none.</p>\n"
    for control in report["controls"]:
        yield from _control(control)
    yield from _gaps(report["not_covered"])
    yield from _configurations(report["fingerprints"])
    yield from _settings(profile)
    yield "</main>\n</body>\n</html>\n"


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    profile, records, summary = report["profile"], report["records"], report["summary"]
    window = f"{text(report['since'] or 'the beginning')} to {text(report['until'] or report['generated_at'])}"
    tenant = f", tenant {text(report['tenant'])}" if report["tenant"] is not None else ""
    yield (
        f'<header>\n<p class="kind">Evidence report</p>\n<h1>{text(profile["title"])}</h1>\n'
        f"<p>{text(profile['edition'])}. Profile <b>{text(profile['name'])}</b> {text(profile['version'])}.</p>\n"
        f"<p>Records from {window}{tenant}: {records['steps']:,} steps in {records['runs']:,} runs, "
        f"{records['steps_under_profile']:,} of them under this profile. Made {text(report['generated_at'])}.</p>\n"
        "</header>\n"
    )
    yield '<ul class="summary">\n'
    for state, title in _STATES.items():
        yield f'<li class="{state}"><b>{summary[state]}</b> {title}</li>\n'
    yield (
        '</ul>\n<p class="note">Satisfied: at least one record shows it and none speaks against it. Not exercised: no '
        "record concerned the control. Not covered: no software of this kind serves it. This report is evidence for "
        "an auditor; it does not make anyone compliant.</p>\n"
    )


def _foundation(report: Mapping[str, Any]) -> Iterator[str]:
    ledger = report["ledger"]
    outside = (
        f"compared with a checkpoint from outside at {ledger['held_size']:,} entries"
        if ledger["held_size"] is not None
        else "no checkpoint from outside was given: whoever holds database and key could have written another history"
    )
    keys = "given from outside" if ledger["keys_from_outside"] else "taken from the ledger itself"
    pairs = (
        ("Verified", ", ".join(ledger["checked"])),
        ("Not verified", ", ".join(ledger["not_checked"]) or "nothing"),
        ("Entries", f"{ledger['log_size']:,}"),
        ("History", outside),
        ("Public keys", keys),
        ("Written later", f"{report['records']['written_later']:,} entries, left for the next report"),
    )
    yield '<h2>What it rests on</h2>\n<p>The ledger was verified before it was read.</p>\n<dl class="facts">\n'
    for name, value in pairs:
        yield f"<dt>{name}</dt><dd>{text(value)}</dd>\n"
    yield "</dl>\n"
    if ledger["checkpoint"]:
        yield f"<h3>Checkpoint</h3>\n<pre>{text(ledger['checkpoint'].rstrip())}</pre>\n"
    else:
        yield "<p>The ledger has no signed checkpoint.</p>\n"


def _control(control: Mapping[str, Any]) -> Iterator[str]:
    state, counts = control["status"], control["counts"]
    gone = counts["undecidable"]
    unsure = f"; beyond judgement, since something was erased or withheld: {gone:,}" if gone else ""
    yield (
        f'<section class="control {state}">\n<h3><span class="state">{_STATES[state]}</span> '
        f"<code>{text(control['id'])}</code> {text(control['title'])}</h3>\n<p>{text(control['how'])}</p>\n"
        f'<p class="note">Records for it: {counts["satisfied"]:,}; against it: {counts["violated"]:,}{unsure}. '
        f"Source: {text(control['source'])}</p>\n"
    )
    for kind, title in _RECORDS.items():
        listed = control["records"].get(kind, ())
        if listed:
            opened = " open" if kind == "violated" else ""
            yield f"<details{opened}><summary>{_listed(listed, counts[kind])} {title}</summary>\n"
            yield from _records(listed)
            yield "</details>\n"
    yield "</section>\n"


def _listed(listed: Sequence[object], count: int) -> str:
    if count == 1:
        return "1 record"
    return f"{count:,} records" if count == len(listed) else f"The first {len(listed):,} of {count:,} records"


def _records(listed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "<table><thead><tr><th>Record</th><th>Time</th><th>Entry hash</th><th>What it shows</th></tr></thead>"
    yield "<tbody>\n"
    for one in listed:
        if one["kind"] == "ledger":
            yield f"<tr><td>the ledger as a whole</td><td></td><td></td><td>{text(one['why'])}</td></tr>\n"
            continue
        what = f"{one['kind']} {one['step_id']}" if one["step_id"] else one["kind"]
        attempt = f", attempt {one['attempt']}" if one["attempt"] > 1 else ""
        yield (
            f"<tr><td>{text(what)}{attempt}<br>run {text(one['run_id'])}</td><td>{text(one['timestamp'])}</td>"
            f"<td><code>{text(one['entry_hash'])}</code></td><td>{text(one['why'])}</td></tr>\n"
        )
    yield "</tbody></table>\n"


def _gaps(gaps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "<h2>Not covered</h2>\n<table><thead><tr><th>Control</th><th>Title</th><th>Why</th></tr></thead><tbody>\n"
    for gap in gaps:
        yield (
            f"<tr><td><code>{text(gap['id'])}</code></td><td>{text(gap['title'])}</td><td>{text(gap['why'])}</td></tr>\n"
        )
    yield "</tbody></table>\n"


def _configurations(fingerprints: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "<h2>Configurations</h2>\n<p>Each fingerprint stands for one set of plugins, versions, modes, settings and "
        "policies.</p>\n<table><thead><tr><th>Fingerprint</th><th>Steps</th><th>First</th><th>Last</th></tr></thead>"
        "<tbody>\n"
    )
    for one in fingerprints:
        yield (
            f"<tr><td><code>{text(one['fingerprint'])}</code></td><td>{one['steps']:,}</td><td>{text(one['first'])}</td>"
            f"<td>{text(one['last'])}</td></tr>\n"
        )
    yield "</tbody></table>\n"


def _settings(profile: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>Profile</h2>\n<p>Digest of the profile as it was asked: <code>{text(profile['digest'])}</code></p>\n"
    for name, settings in profile["settings"].items():
        if settings:
            yield f'<h3>Settings of {text(name)}</h3>\n<dl class="facts">\n'
            for key, value in settings.items():
                said = ", ".join(map(str, value)) if isinstance(value, list) else value
                yield f"<dt>{text(key)}</dt><dd>{text(said if said not in ('', None) else 'nothing')}</dd>\n"
            yield "</dl>\n"
