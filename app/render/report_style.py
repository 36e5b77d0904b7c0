"""How a report looks: one style sheet, for wide and narrow screens, light and dark, and paper."""

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbf9; --card: #fff; --ink: #17181a; --soft: #5d6169; --rule: #dfe1e5;
  --c1: #2a78d6; --c2: #1baf7a; --c3: #eda100; --c4: #4a3aa7; --c5: #e34948; --c6: #008300; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #131416; --card: #1c1e21; --ink: #eceef1; --soft: #a0a5ae; --rule: #33363c;
    --c1: #3987e5; --c2: #199e70; --c3: #c98500; --c4: #9085e9; --c5: #e66767; --c6: #4aa84a; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; }
h3 { font-size: 15px; color: var(--ink); }
a { color: inherit; text-decoration-color: var(--c1); text-underline-offset: 4px; }
p, small, figcaption { color: var(--soft); }
small { font-size: 12.5px; font-weight: 400; }
.note { color: var(--ink); border-left: 3px solid var(--c3); padding-left: 10px; margin-top: 8px; }
.tiles { list-style: none; padding: 0; margin-top: 22px; display: grid; gap: 10px;
  grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); }
.tiles li, .plot { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; }
.tiles b, .tiles span, .tiles small { display: block; }
.tiles b { font-size: 22px; line-height: 1.3; }
.tiles small { color: var(--soft); }
.strip { display: grid; gap: 8px; grid-template-columns: repeat(6, 1fr); }
.strip img, .thumb img { display: block; width: 100%; border-radius: 6px; background: var(--rule); }
.strip figcaption { font-size: 12.5px; font-variant-numeric: tabular-nums; text-align: center; }
.plots { display: grid; gap: 12px; grid-template-columns: 1fr 1fr; }
.plot { display: flex; flex-direction: column; min-width: 0; }
.plot p { font-size: 13px; }
.plot h3 small { margin-left: 4px; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 4px;
  font-size: 12.5px; color: var(--soft); }
.key { display: inline-block; width: 12px; height: 10px; border-radius: 3px; margin-right: 5px; background: var(--c); }
.key.dashed { height: 0; border-radius: 0; border-top: 2px dashed var(--soft); vertical-align: middle;
  background: none; }
.frame { display: grid; grid-template-columns: 44px 1fr; grid-template-rows: 170px 22px; margin: auto 10px 0 0;
  padding-top: 26px; font-size: 11.5px; color: var(--soft); font-variant-numeric: tabular-nums; }
.ys, .xs, .field { position: relative; }
.xs { grid-column: 2; }
.ys span { position: absolute; right: 8px; transform: translateY(50%); }
.xs span { position: absolute; top: 3px; transform: translateX(-50%); white-space: nowrap; }
.field b { position: absolute; bottom: 100%; transform: translateX(-50%); font-weight: 600; }
svg { display: block; width: 100%; height: 100%; overflow: visible; }
svg path { vector-effect: non-scaling-stroke; fill: none; }
.c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); }
svg .line { stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
svg .band { fill: var(--c); opacity: 0.22; }
svg .area { fill: var(--c); stroke: var(--card); stroke-width: 0.5; }
svg .grid { stroke: var(--rule); }
svg .mark { stroke: var(--soft); stroke-width: 1; opacity: 0.6; }
svg .many { opacity: 0.25; }
svg .reference { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 6 5; }
table { width: 100%; border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-size: 12.5px; font-weight: 500; }
.shots small { display: block; white-space: nowrap; }
.shots td:nth-child(4) { white-space: nowrap; }
.shots td:last-child { width: 55%; overflow-wrap: anywhere; white-space: pre-line; }
.shots .thumb { width: 108px; }
.thumb img { width: 92px; }
.columns { display: grid; gap: 0 32px; grid-template-columns: 1fr 1fr; }
.facts { font-size: 13.5px; table-layout: fixed; }
.facts th { font-weight: 500; color: var(--soft); width: 42%; overflow-wrap: anywhere; }
.facts td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 14px; margin-top: 10px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; }
@media (max-width: 720px) {
  main { padding: 18px 14px 40px; }
  .tiles, .plots, .columns { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: 1fr 1fr; }
  .strip { grid-template-columns: repeat(3, 1fr); }
  .shots thead { display: none; }
  .shots tr { display: grid; grid-template-columns: 24px 96px 1fr; border-bottom: 1px solid var(--rule);
    padding: 8px 0; }
  .shots th, .shots td { border: 0; padding: 0 8px 0 0; }
  .shots .thumb { width: auto; grid-row: 1 / 3; grid-column: 2; }
  .shots td:nth-child(4) { grid-column: 3; }
  .shots td:last-child { grid-column: 1 / 4; width: auto; padding-top: 6px; }
}
@media print {
  :root { --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; }
  main { max-width: none; padding: 0; }
  .plot, .tiles li, tr, pre, .strip figure { break-inside: avoid; }
  h2 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
