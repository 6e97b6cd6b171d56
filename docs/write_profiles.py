"""Write docs/reference/profiles.md from the shipped packs' manifests: python docs/write_profiles.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from meshflow.policy import shipped_bundle
from meshflow.policy.shipped import shipped_names
from meshflow.profiles import Manifest, load_pack
from meshflow.profiles.assurances import ASSURANCES
from meshflow.profiles.records import FIELDS, OPEN_FIELDS

PAGE = Path(__file__).parent / "reference" / "profiles.md"
HEAD = """\
# Profiles

The compliance profile packs that come with meshflow: which controls each serves, what it needs, and what it does
not cover. A pack serves controls that software between an agent and its tools can serve. It does not make anyone
compliant.

[Activate a profile](../how-to/activate-a-profile.md) and [Report to an auditor](../how-to/report-to-an-auditor.md)
say how to use them, [Write a profile pack](../how-to/write-a-profile-pack.md) how to make one. This page is written
by `python docs/write_profiles.py` from the manifests; `meshflow profiles show NAME` prints the same for any pack,
with its settings where you are.

## How the identifiers were checked

On 29 November 2026, identifiers and titles were compared with published texts as far as these could be read:

| profile | compared with |
|---|---|
| hipaa | 45 CFR 164.312 as the Government Publishing Office prints it; other sections not looked up |
| eu-ai-act | the wording of Art. 14(4), as quoted by third parties; other articles not looked up |
| nist-ai-rmf | NIST AI 100-1, the tables of MANAGE; the other functions not looked up |
| pci-dss | lists of version 4.0 by third parties for requirements 7, 8 and 10; 4.0.1 is given out under a licence |
| nerc-cip | CIP-007-6 R5 and CIP-004-6 R4 as third parties quote them; CIP-004-7, -010-4 and -011-3 could not be read |
| sox | the wording of 17 CFR 240.13a-15(f), as quoted by third parties; the COSO framework is sold |
| soc2 | titles of CC6 and CC7 by third parties; the criteria themselves are given out under a licence |
| iso-42001 | the numbers of Annex A's groups and of A.6.2.8, by third parties; the standard is sold |
| gdpr | not looked up |

No difference was found. What was not looked up rests on the authors' knowledge: compare it with your copy before
an auditor does. Newer editions may be in force where you are; each profile names the one that it follows.
"""
ASSURED = """\
## What a pack can require

`requires` in a manifest names what plugins must vouch for. A plugin of your own does it in `Plugin.assures`, which
returns a mapping of these names; what no enforced plugin of the stage vouches for is not there, and a pack that
requires it refuses the start.

"""
OTHER = """\

Two further names carry what entities and retention are compared with: `entities`, a mapping of each kind of
sensitive data that is looked for to what is done with it (stage 8), and `retention`, a list of `keep_days`,
`everything` and `setting`, the path of the rule (stage 14).
"""
ASKED = """\
## What evidence can ask

Conditions in a manifest's `evidence` name fields of the records. A field is compared with a value, a list of
values, or one of `not`, `at_least`, `at_most`, `known`, `has`, `glob`, `setting`, `setting_folded` and `same_as`
with what it takes; `any`, `none` and `is` (a named condition) combine conditions.

| records | fields |
|---|---|
"""


def page() -> str:
    """Return the whole page."""
    manifests = [load_pack(shipped_bundle(f"profiles/{name}"), {}).manifest for name in shipped_names("profiles")]
    rows = [
        _row(f"[{one.name}](#{one.name})", one.title, one.edition, str(len(one.controls)), str(len(one.not_covered)))
        for one in manifests
    ]
    table = "| profile | framework | edition | controls served | not covered |\n|---|---|---|---|---|\n"
    parts = [HEAD, table + "\n".join(rows) + "\n", *(_pack(one) for one in manifests)]
    assured = [
        _row(f"`{one.name}`", one.stage, _values(one.values), one.means, f"`{'.'.join(one.setting)}`")
        for one in ASSURANCES.values()
    ]
    head = "| name | stage | values | what it says | default plugin's setting |\n|---|---|---|---|---|\n"
    parts.append(ASSURED + head + "\n".join(assured) + "\n" + OTHER)
    fields = [_row(kind, ", ".join(f"`{name}`" for name in names)) for kind, names in FIELDS.items()]
    fields.append(_row("step, further", ", ".join(f"`{name}`" for name in OPEN_FIELDS)))
    parts.append(ASKED + "\n".join(fields) + "\n")
    return "\n".join(parts)


def _pack(one: Manifest) -> str:
    return "\n".join(_lines(one)) + "\n"


def _lines(one: Manifest) -> Iterator[str]:
    yield f"## {one.name}\n"
    yield f"{one.title}, {one.edition}.\n"
    needs = [f"the stages {', '.join(f'`{stage}`' for stage in one.required_stages)}"] if one.required_stages else []
    needs += [f"`{name}`" if wanted is True else f"`{name}: {wanted}`" for name, wanted in one.requires.items()]
    if one.entities:
        needs.append(f"that {', '.join(f'`{entity}`' for entity in one.entities)} be found")
    if one.retention.at_least_days:
        needs.append(f"that no rule erases records within {one.retention.at_least_days} days")
    if one.retention.bounded:
        needs.append("that some retention rule erases all records in the end")
    if needs:
        yield f"Needs {'; '.join(needs)}.\n"
    yield "| control served | title | how |\n|---|---|---|"
    yield from (_row(control.id, control.title, control.how) for control in one.controls)
    if one.settings:
        yield "\n| setting | default | meaning |\n|---|---|---|"
        for name, setting in one.settings.items():
            yield _row(f"`{name}`", _default(setting.default), setting.about)
    yield "\n| not covered | title | why |\n|---|---|---|"
    yield from (_row(gap.id, gap.title, gap.why) for gap in one.not_covered)


def _default(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _values(values: tuple[object, ...]) -> str:
    return ", ".join(str(value).lower() for value in values)


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
