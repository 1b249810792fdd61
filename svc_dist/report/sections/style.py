"""The look of a page: one sheet for light and dark, wide and narrow screens."""

from __future__ import annotations

#: Steps of shade: class and least value of times counted. The scale is fixed, so that pages compare by eye.
SHADES = (
    (3.0, "w5"), (2.0, "w4"), (1.5, "w3"), (1.25, "w2"), (1.05, "w1"), (0.95, "w0"), (0.75, "c1"), (0.5, "c2"),
    (float("-inf"), "c3"),
)  # fmt: skip

STYLE = """
:root { color-scheme: light dark;
  --ink: #22303c; --soft: #5b6b78; --page: #fff; --card: #f4f7f9; --line: #d5dde3; --accent: #2a6f97;
  --w0: #f4f5f6; --w1: #fdebd9; --w2: #fbd3ae; --w3: #f5b07a; --w4: #ea8550; --w5: #d75f36;
  --c1: #dcebf4; --c2: #b5d4e7; --c3: #86b8d6;
  --l0: #2a6f97; --l1: #d9691c; --l2: #2f8552; --l3: #b5446e; --l4: #7a5ea8; --l5: #8c6d31; --l6: #35858d;
  --l7: #c0392b; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e3e9ee; --soft: #9fb0bd; --page: #12181d; --card: #1c252c; --line: #33404a; --accent: #6db3dc;
  --w0: #252e35; --w1: #43352a; --w2: #5f4029; --w3: #824a24; --w4: #a9501f; --w5: #c8481b;
  --c1: #223b4b; --c2: #24506b; --c3: #24678f;
  --l0: #6db3dc; --l1: #f0954f; --l2: #68be8b; --l3: #e07fa5; --l4: #ae96dc; --l5: #c9a962; --l6: #6cc3cb;
  --l7: #ee7d70; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 68rem;
  margin: 0 auto; padding: 1.2rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: .6rem 0 0; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
p { max-width: 46rem; margin: .6rem 0; }
a { color: var(--accent); }
.soft, figcaption, .tile span, .keys { color: var(--soft); font-size: .87rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; overflow: auto;
  font-size: 13px; line-height: 1.45; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-top: 5px solid var(--line); border-radius: 8px;
  padding: .6rem .9rem .7rem; min-width: 0; }
.tile strong { display: block; font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile em { display: block; font-style: normal; font-weight: 600; font-size: .87rem; }
.tile span { display: block; line-height: 1.35; }
.verdict { background: var(--card); border-left: 4px solid var(--accent); padding: .7rem 1rem; max-width: none; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.rows td, .rows th { border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.map { border-spacing: 1px; border-collapse: separate; font-size: 12px; }
.map td, .map th { padding: .22rem .35rem; text-align: center; overflow-wrap: normal; white-space: nowrap; }
.map td { min-width: 2.7rem; border-radius: 2px; }
.map th { font-weight: 400; color: var(--soft); vertical-align: bottom; }
.map th[scope=col] { white-space: normal; max-width: 8rem; }
.map th[scope=row] wbr { display: none; }
.map th[scope=row], .map th.corner { text-align: left; position: sticky; left: 0; background: var(--page);
  color: var(--ink); padding-right: .7rem; }
.map th[colspan] { padding-top: .7rem; color: var(--soft); font-style: italic; }
.keys { margin: .5rem 0; max-width: none; } .keys em, .stages em { display: inline-block; width: .85rem; height: .85rem;
  border-radius: 2px; vertical-align: -.1rem; margin-right: .3rem; }
.keys span, .stages span { margin-right: .9rem; white-space: nowrap; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: 3px; padding: 0; font-size: 12px; }
.chips li { padding: .15rem .5rem; border-radius: 3px; overflow-wrap: anywhere; }
.w0 { background: var(--w0); } .w1 { background: var(--w1); } .w2 { background: var(--w2); }
.w3 { background: var(--w3); } .w4 { background: var(--w4); } .w5 { background: var(--w5); }
.c1 { background: var(--c1); } .c2 { background: var(--c2); } .c3 { background: var(--c3); }
.tile.w0, .tile.w1, .tile.w2, .tile.w3, .tile.w4, .tile.w5, .tile.c1, .tile.c2, .tile.c3 { background: var(--card); }
.tile.w1 { border-top-color: var(--w2); } .tile.w2 { border-top-color: var(--w3); }
.tile.w3 { border-top-color: var(--w4); } .tile.w4, .tile.w5 { border-top-color: var(--w5); }
.tile.c1, .tile.c2, .tile.c3 { border-top-color: var(--c3); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1rem;
  margin-top: .8rem; }
figure { margin: 0; min-width: 0; } figcaption { overflow-wrap: break-word; line-height: 1.3; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
svg .axis { stroke: var(--line); fill: none; } svg .curve { fill: none; stroke-width: 1.6; }
.l0 { --at: var(--l0); } .l1 { --at: var(--l1); } .l2 { --at: var(--l2); } .l3 { --at: var(--l3); }
.l4 { --at: var(--l4); } .l5 { --at: var(--l5); } .l6 { --at: var(--l6); } .l7 { --at: var(--l7); }
svg .curve { stroke: var(--at); } svg .dot { fill: var(--at); } em[class^=l], .bar strong { background: var(--at); }
.bar { display: flex; height: 1.4rem; border-radius: 4px; overflow: hidden; }
@media (max-width: 50rem) { .tiles { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 32rem) { body { padding: .6rem .7rem 3rem; } h1 { font-size: 1.3rem; }
  .tiles { gap: .5rem; } .tile { padding: .5rem .6rem; } .tile strong { font-size: 1.5rem; }
  .map th[scope=row] wbr { display: inline; }
  .map th[scope=row], .map th.corner { white-space: normal; min-width: 6rem; max-width: 10rem; }
}
@media print { .scroll { overflow: visible; } }
"""


def shade(times: float) -> str:
    """The class of a value of times counted: warm where it is inflated, cool where experts cancel; none for NaN."""
    return next((name for least, name in SHADES if times >= least), "")
