// The shot table: a script as rows, rows as a script, and the strip that shows its chunks.

const TRANSITIONS = [["recache", "Smooth"], ["soft", "Blend"], ["cut", "Cut"], ["keep", "Words only"]];
const MOST_CELLS = 400; // of a strip: beyond, a cell stands for several chunks
const SCRIPT_HEAD = ["version: 1", "shots:"];

// Neighbours differ: the golden angle.
function shotHue(index) {
  return Math.round((172 + index * 137.508) % 360);
}

function exactly(seconds) {
  return String(Number(seconds.toFixed(3)));
}

// One shot a line, so that a mistake's line is its row.
function shotsScript(shots) {
  let at = 0;
  const lines = shots.map(({ prompt, seconds, kind, chunks }, i) => {
    const how = i ? `, transition: ${kind === "soft" ? `{kind: soft, chunks: ${chunks}}` : kind}` : "";
    const line = `  - {at: ${exactly(at)}s, prompt: ${JSON.stringify(prompt)}${how}}`;
    at += seconds;
    return line;
  });
  return [...SCRIPT_HEAD, ...lines, `end: ${exactly(at)}s`, ""].join("\n");
}

// What the server read from a script, as rows; null where a row cannot say it.
function shotsOf({ shots, totals }) {
  if (shots.some(({ prompt, parameters }) => typeof prompt !== "string" || Object.keys(parameters).length)) return null;
  return shots.map(({ prompt, requested, transition }, i) => ({
    prompt,
    seconds: Number(((shots[i + 1]?.requested.second ?? totals.seconds) - requested.second).toFixed(3)),
    kind: transition.kind,
    chunks: transition.chunks || 2,
  }));
}

class ShotTable {
  constructor(list, onChange, onPaste) {
    Object.assign(this, { list, onChange, onPaste });
  }

  get shots() {
    return [...this.list.children].map((row) => {
      const [prompt, seconds, kind, chunks] = row.controls;
      return { prompt: prompt.value, seconds: Math.max(0, seconds.valueAsNumber || 0), kind: kind.value, chunks: Math.max(1, chunks.valueAsNumber || 1) };
    });
  }

  set shots(shots) {
    this.list.replaceChildren(...shots.map((shot) => this.row(shot)));
    this.number();
  }

  row({ prompt = "", seconds = 8, kind = "soft", chunks = 2 } = {}) {
    const words = make("input", { type: "text", value: prompt, maxLength: 10_000, placeholder: "What this shot shows" });
    const length = make("input", { type: "number", value: seconds, min: "0.1", step: "any", title: "Seconds" });
    const how = make("select", { title: "How it takes over from the shot before" }, ...TRANSITIONS.map(([value, textContent]) => make("option", { value, textContent })));
    how.value = kind;
    const over = make("input", { type: "number", value: chunks, min: "1", max: "64", step: "1", title: "Chunks that the soft transition takes" });
    const row = make("li");
    const button = (name, act) => {
      const node = make("button", { type: "button", className: "rv-icon-only", onclick: act });
      node.dataset.icon = name;
      setIcon(node, name);
      return node;
    };
    row.controls = [words, length, how, over];
    row.buttons = [
      button("up", () => this.move(row, -1)),
      button("down", () => this.move(row, 1)),
      button("copy", () => this.add(row, this.shots[this.index(row)])),
      button("close", () => this.remove(row)),
    ];
    row.said = make("p", { className: "rv-hint" });
    row.append(
      make("b", { className: "rv-number" }),
      words,
      make("div", { className: "rv-buttons" }, ...row.buttons),
      make("div", { className: "rv-facts" }, make("label", {}, length, "s"), make("span", {}, how, make("label", {}, over, "chunks")), row.said),
    );
    words.onpaste = (event) => {
      const text = event.clipboardData.getData("text/plain");
      if (text.trim().split("\n").length < 2) return;
      event.preventDefault();
      this.onPaste(text);
    };
    row.oninput = () => this.changed();
    row.onkeydown = (event) => {
      if (event.key === "Enter" && event.target === words && !event.isComposing) {
        event.preventDefault();
        this.add(row);
      } else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
        event.preventDefault();
        this.move(row, event.key === "ArrowUp" ? -1 : 1);
        event.target.focus();
      }
    };
    return row;
  }

  index(row) {
    return [...this.list.children].indexOf(row);
  }

  add(after = this.list.lastElementChild, shot = undefined) {
    const row = this.row(shot);
    if (after) after.after(row);
    else this.list.append(row);
    this.changed();
    row.controls[0].focus();
  }

  move(row, by) {
    const other = by < 0 ? row.previousElementSibling : row.nextElementSibling;
    if (!other) return;
    if (by < 0) other.before(row);
    else other.after(row);
    this.changed();
  }

  remove(row) {
    (row.nextElementSibling ?? row.previousElementSibling)?.controls[0].focus();
    row.remove();
    this.changed();
  }

  changed() {
    this.number();
    this.onChange();
  }

  number() {
    const rows = [...this.list.children];
    rows.forEach((row, i) => {
      const [prompt, seconds, kind, chunks] = row.controls;
      row.style.setProperty("--h", shotHue(i));
      row.firstChild.textContent = i + 1;
      kind.parentElement.hidden = i === 0;
      chunks.parentElement.hidden = kind.value !== "soft";
      prompt.ariaLabel = `Prompt of shot ${i + 1}`;
      seconds.ariaLabel = `Seconds of shot ${i + 1}`;
      kind.ariaLabel = `Transition into shot ${i + 1}`;
      chunks.ariaLabel = `Chunks of the transition into shot ${i + 1}`;
      ["Earlier", "Later", "Copy", "Delete"].forEach((name, at) => Object.assign(row.buttons[at], { ariaLabel: `${name}: shot ${i + 1}`, title: name }));
      row.buttons[0].disabled = i === 0;
      row.buttons[1].disabled = i === rows.length - 1;
      row.buttons[3].disabled = rows.length === 1;
    });
  }

  // Where each shot comes to stand, or what is wrong and with which.
  say(plan, wrong = null) {
    [...this.list.children].forEach((row, i) => {
      const place = plan?.shots[i];
      const bad = wrong?.row === i;
      row.said.dataset.bad = bad;
      if (bad) row.said.textContent = wrong.message;
      else if (place) row.said.textContent = `begins at ${place.actual.second.toFixed(2)} s, ${place.chunks} chunk${place.chunks === 1 ? "" : "s"}`;
      else if (wrong) row.said.textContent = "";
    });
  }
}

// One cell a chunk, in the colour of its shot: made, in the making or to come; below, how far each has drifted.
class ChunkStrip {
  constructor() {
    this.cells = make("div", { className: "rv-cells" });
    this.node = make("div", { className: "rv-strip" }, this.cells);
    this.node.setAttribute("role", "img");
  }

  // `shots` are {chunk, prompt}; `data` the chunks that are made; `working` whether the next one is in the making.
  show({ chunks, shots, blends = [], data = [], fps = 16, working = false }) {
    const per = Math.ceil(chunks / MOST_CELLS);
    const count = Math.ceil(chunks / per);
    while (this.cells.children.length > count) this.cells.lastChild.remove();
    while (this.cells.children.length < count) this.cells.append(make("i"));
    const mixed = new Set(blends);
    const made = data.length;
    for (let i = 0, shot = 0; i < count; i++) {
      const first = i * per;
      while (shot + 1 < shots.length && shots[shot + 1].chunk <= first) shot += 1;
      const cell = this.cells.children[i];
      const record = data[first];
      const state = first + per <= made || (record && made === chunks) ? "made" : working && first <= made ? "working" : "waiting";
      const begins = record ? `${(record.frame / fps).toFixed(1)} s, ` : "";
      const facts = record ? `${Math.round(record.seconds * 1000)} ms${record.drift === null ? "" : `, drift ${record.drift.toFixed(2)}`}` : { working: "in the making", waiting: "to come" }[state];
      const name = per === 1 ? `chunk ${first}` : `chunks ${first} to ${Math.min(chunks, first + per) - 1}`;
      const title = `${name}: ${begins}${facts}. ${shots[shot].prompt}`;
      if (cell.title === title && cell.dataset.state === state) continue;
      cell.dataset.state = state;
      cell.dataset.blend = mixed.has(first);
      cell.style.setProperty("--h", shotHue(shot));
      cell.title = title;
    }
    this.node.ariaLabel = `${made} of ${chunks} chunks are made`;
    this.drift(data, chunks);
  }

  drift(data, chunks) {
    const known = data.filter(({ drift }) => drift !== null);
    this.node.querySelector("svg")?.remove();
    if (known.length < 2) return;
    const top = Math.max(facts.drift_limit, ...known.map(({ drift }) => drift));
    const y = (drift) => (18 - (16 * drift) / top).toFixed(2);
    const points = known.map(({ chunk, drift }) => `${(((chunk + 0.5) * 1000) / chunks).toFixed(1)},${y(drift)}`).join(" ");
    const limit = `<line x1="0" x2="1000" y1="${y(facts.drift_limit)}" y2="${y(facts.drift_limit)}" stroke="currentColor" opacity=".25" stroke-dasharray="4 4" vector-effect="non-scaling-stroke"/>`;
    this.node.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 1000 20" preserveAspectRatio="none"><title>drift of each chunk; dashed: too much</title>${limit}<polyline fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke" points="${points}"/></svg>`);
  }
}
