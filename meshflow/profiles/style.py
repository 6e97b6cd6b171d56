"""The style sheet of reports: readable on a screen, light or dark, and on paper."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --line: #d9dce0; --page: #fff; --panel: #f6f7f8;
  --good: #17693a; --bad: #a4232b; --idle: #5b6168; --gap: #7a5a12; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a2a9b1; --line: #3a3f45; --page: #16181b;
  --panel: #1f2226; --good: #62c48b; --bad: #f08a90; --idle: #a2a9b1; --gap: #d9b25c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .1rem 0 .6rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.kind { color: var(--soft); text-transform: uppercase; letter-spacing: .08em; font-size: .78rem; }
.note { color: var(--soft); font-size: .88rem; }
.summary { display: flex; flex-wrap: wrap; gap: .75rem; list-style: none; padding: 0; margin: 1.4rem 0 1rem; }
.summary li { flex: 1 1 9rem; background: var(--panel); border-left-width: 4px;
  border-left-style: solid; border-radius: 4px; padding: .7rem 1rem; }
.summary b { display: block; font-size: 1.7rem; line-height: 1.1; }
.satisfied { border-color: var(--good); } .violated { border-color: var(--bad); }
.not_exercised { border-color: var(--idle); } .not_covered { border-color: var(--gap); }
.control { background: var(--panel); border-left-width: 4px; border-left-style: solid; border-radius: 4px;
  padding: .9rem 1.1rem; margin: 0 0 .9rem; }
.state { font-size: .75rem; text-transform: uppercase; letter-spacing: .06em; margin-right: .4rem; }
.satisfied .state { color: var(--good); } .violated .state { color: var(--bad); }
.not_exercised .state { color: var(--idle); }
code, pre { font: .85em/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: 4px; white-space: pre-wrap; }
table { width: 100%; border-collapse: collapse; font-size: .86rem; margin: .5rem 0; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
details { margin-top: .5rem; } summary { cursor: pointer; font-size: .88rem; }
.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .2rem 1.2rem; margin: .6rem 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
@media print { main { max-width: none; padding: 0; } .control, .summary li { break-inside: avoid; } }
"""
