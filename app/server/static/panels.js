// The parts of the page that show what the server says: receipts, queue, track and figures.

const ICONS = {
  pause: "M7 5v14M17 5v14",
  play: "M7 4l13 8-13 8z",
  stop: "M6 6h12v12H6z",
  reset: "M4 4v6h6M4.5 10A8 8 0 1 1 4 14",
  rewind: "M11 6l-7 6 7 6zM20 6l-7 6 7 6z",
  record: "M12 6a6 6 0 1 0 .01 0z",
  save: "M12 4v11M7 10l5 5 5-5M5 20h14",
  camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 10.5a3 3 0 1 0 .01 0z",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  send: "M4 12h14M12 6l6 6-6 6",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  spark: "M12 3l2.2 6.8L21 12l-6.8 2.2L12 21l-2.2-6.8L3 12l6.8-2.2z",
  mix: "M9 7a5 5 0 1 0 .01 0zM15 7a5 5 0 1 0 .01 0z",
  dice: "M4 4h16v16H4zM8.5 8a.5.5 0 1 0 .01 0zM15.5 15a.5.5 0 1 0 .01 0zM15.5 8a.5.5 0 1 0 .01 0zM8.5 15a.5.5 0 1 0 .01 0z",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 6.8-1.2",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 13l4 4L19 7",
  star: "M12 3l2.7 5.8 6.3.7-4.7 4.3 1.3 6.2-5.6-3.2L6.400 20l1.300-6.200L3 9.500l6.300-.700z",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7-10-7-10-7zM12 9.5a2.5 2.5 0 1 0 .01 0z",
};

function icon(name) {
  return (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" ' +
    `stroke-linejoin="round" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`
  );
}

function setIcon(button, name) {
  button.querySelector("svg")?.remove();
  button.insertAdjacentHTML("afterbegin", icon(name));
}

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function newId() {
  return `p${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
}

function promptText(prompt) {
  if (typeof prompt === "string") return prompt;
  return prompt.map(([text, weight]) => `${weight.toFixed(2)} ${text}`).join(" + ");
}

// A setting as a slider with its value, and what it means below.
function settingSlider({ wire, anew, label, means, slider }) {
  const input = make("input", { type: "range", id: `rv-${wire}`, ...slider });
  const output = make("output");
  output.htmlFor = input.id;
  const hint = `${means}.${anew ? " It begins the film again." : ""}`;
  return [make("label", { className: "rv-slide" }, `${label} `, input, output), make("p", { className: "rv-hint", id: `${input.id}-hint`, textContent: hint })];
}

// sent -> in n s -> blending 2 of 4 -> on screen in n ms, one line a prompt, the newest three.
class Receipts {
  constructor(list, screen, onShown) {
    Object.assign(this, { list, screen, onShown, open: new Map(), paused: false, chunkFrames: 12 });
  }

  sent(id, prompt, transition = null) {
    const text = promptText(prompt);
    const state = make("b", { textContent: "sent" });
    const line = make("li", {}, make("span", { textContent: text, title: text }), state);
    line.dataset.state = "sent";
    this.list.prepend(line);
    while (this.list.children.length > 3) this.list.lastChild.remove();
    const blend = transition?.kind === "soft" ? transition.chunks : 0;
    this.open.set(id, { line, state, prompt, blend, at: performance.now() });
    while (this.open.size > 50) this.open.delete(this.open.keys().next().value);
  }

  say(id, name, text) {
    const receipt = this.open.get(id);
    if (!receipt) return;
    receipt.line.dataset.state = name;
    receipt.state.textContent = text;
  }

  // Returns the prompt, as long as its receipt is open.
  accepted({ id, chunk, seconds = 0, unknown = {} }) {
    const receipt = this.open.get(id);
    if (!receipt) return undefined;
    receipt.without = Object.keys(unknown).map((word) => `“${word}”`);
    receipt.due = performance.now() + 1000 * seconds;
    receipt.state.title = `It begins with chunk ${chunk}.`;
    this.tick();
    return receipt.prompt;
  }

  // The queue has moved: `seconds` until each of its prompts begins, by their ids.
  wait(seconds) {
    for (const [id, left] of Object.entries(seconds)) if (this.open.has(id)) this.open.get(id).due = performance.now() + 1000 * left;
  }

  // What is accepted says how long it still takes, or that the film does not move.
  tick(paused = this.paused) {
    this.paused = paused;
    for (const [id, { due, frame, queued }] of this.open) {
      if (due === undefined || frame !== undefined) continue;
      const left = (due - performance.now()) / 1000;
      const when = left < 0.1 ? "in a moment" : `in ${left < 2 ? left.toFixed(1) : Math.round(left)} s`;
      this.say(id, "accepted", paused ? "waits: paused" : queued ? `queued, ${when}` : when);
    }
  }

  applied({ id, frame, chunk, t, parts = {} }) {
    const receipt = this.open.get(id);
    if (!receipt) return;
    Object.assign(receipt, { frame, t });
    const took = Object.entries(parts).map(([name, ms]) => `${name} ${Math.round(ms)} ms`);
    receipt.state.title = [`It begins with chunk ${chunk}.`, took.join(", ")].join(" ");
    const drawn = this.screen.when(frame, receipt.at);
    if (drawn !== undefined) this.seen(id, this.screen.last.frame, drawn);
  }

  // What was said long ago leaves the picture; the caption stays.
  fade(line) {
    setTimeout(() => (line.dataset.old = "true"), 6000);
  }

  queued(id) {
    this.say(id, "queued", "queued");
    const receipt = this.open.get(id);
    if (receipt) receipt.queued = true;
  }

  drawn({ frame, at }) {
    for (const [id, receipt] of this.open) {
      if (receipt.frame !== undefined && frame >= receipt.frame) this.seen(id, frame, at);
    }
  }

  // A frame under the prompt was drawn; a blend goes on for some chunks.
  seen(id, frame, at) {
    const receipt = this.open.get(id);
    receipt.drawn ??= at;
    const chunk = Math.floor((frame - receipt.frame) / this.chunkFrames);
    if (chunk < receipt.blend) this.say(id, "blending", `blending ${Math.max(0, chunk) + 1} of ${receipt.blend}`);
    else this.shown(id, receipt.drawn);
  }

  shown(id, at) {
    const receipt = this.open.get(id);
    const ms = Math.max(1, Math.round(at - receipt.at));
    // A queued prompt waited for its turn, so its time from sending to showing says nothing about speed.
    const without = receipt.without?.length ? `, without ${receipt.without.join(", ")}` : "";
    this.say(id, without ? "partly" : "shown", (receipt.queued ? `on screen at ${clock(receipt.t)}` : `on screen in ${ms} ms`) + without);
    this.fade(receipt.line);
    this.open.delete(id);
    if (!receipt.queued) this.onShown(ms);
  }

  // Not seen: another prompt came first, or the film went another way.
  overtaken({ id, by }) {
    this.say(id, "overtaken", by ? "overtaken by the next" : "left behind");
    if (this.open.has(id)) this.fade(this.open.get(id).line);
    this.open.delete(id);
  }

  // One prompt by its id; without one, those of which nothing has been heard yet.
  refused(why, one) {
    for (const id of [...this.open.keys()]) {
      if (one ? id === one : this.open.get(id).line.dataset.state === "sent") {
        this.say(id, "refused", why);
        this.open.delete(id);
      }
    }
  }
}

// What waits; every line may be edited, moved and removed while the film plays.
class Queue {
  constructor(list, hint, send, say) {
    Object.assign(this, { list, hint, send, say, items: [] });
  }

  show(items) {
    this.items = items;
    this.hint.hidden = items.length > 0;
    const lines = new Map([...this.list.children].map((line) => [line.dataset.id, line]));
    const wanted = items.map((item) => lines.get(item.id) || this.line(item));
    for (const [id, line] of lines) if (!items.some((item) => item.id === id)) line.remove();
    wanted.forEach((line, i) => this.list.children[i] !== line && this.list.insertBefore(line, this.list.children[i]));
    items.forEach((item, i) => {
      const [words, hold] = wanted[i].querySelectorAll("input");
      const how = wanted[i].querySelector("select");
      const text = promptText(item.prompt);
      if (document.activeElement !== words) words.value = text;
      if (document.activeElement !== hold) hold.value = item.hold ?? "";
      if (document.activeElement !== how) how.value = item.transition.kind;
      words.readOnly = typeof item.prompt !== "string"; // a mix is changed by queueing another
      wanted[i].querySelector('[data-icon="up"]').disabled = i === 0;
      wanted[i].querySelector('[data-icon="down"]').disabled = i === items.length - 1;
    });
  }

  line({ id }) {
    const words = make("input", { type: "text", maxLength: 1000, ariaLabel: "Queued prompt" });
    const how = make("select", { ariaLabel: "Transition", title: "How it takes over" }, ...TRANSITIONS.map(([value, textContent]) => make("option", { value, textContent })));
    const hold = make("input", { type: "number", min: "0.1", max: "86400", step: "any", placeholder: "hold", title: "How many seconds it stays; empty: until the next prompt", ariaLabel: "Hold in seconds" });
    const change = () => {
      const item = this.items.find((one) => one.id === id);
      const text = words.value.trim();
      if (!item || !text) return;
      const seconds = hold.value === "" || !hold.checkValidity() ? null : Number(hold.value);
      const transition = how.value === item.transition.kind ? item.transition : { kind: how.value, chunks: how.value === "soft" ? 4 : 0 };
      this.edit(this.items.map((one) => (one.id === id ? { ...one, prompt: words.readOnly ? one.prompt : text, hold: seconds, transition } : one)));
    };
    for (const control of [words, hold, how]) control.onchange = change;
    const button = (name, label, act) => {
      const node = make("button", { type: "button", className: "rv-icon-only", ariaLabel: label, title: label, onclick: act });
      node.dataset.icon = name;
      setIcon(node, name);
      return node;
    };
    const move = (by) => () => {
      const items = [...this.items];
      const from = items.findIndex((one) => one.id === id);
      items.splice(from + by, 0, ...items.splice(from, 1));
      this.edit(items);
    };
    const listen = () => {
      line.dataset.waits = "yes";
      this.send({ type: "session.do", action: "audition", id });
    };
    const buttons = make("div", {}, button("eye", "Audition", listen), button("up", "Earlier", move(-1)), button("down", "Later", move(1)), button("close", "Remove", () => this.remove(id)));
    buttons.firstChild.title = "Audition: what the next chunk would look like, without changing the film";
    const line = make("li", {}, words, make("div", {}, make("label", {}, hold, "s"), how), buttons);
    line.dataset.id = id;
    return line;
  }

  remove(id) {
    this.edit(this.items.filter((one) => one.id !== id));
  }

  // A look at what an item would become; without a film nothing waits for one any more.
  audition(id, url) {
    for (const line of this.list.children) {
      delete line.dataset.waits;
      line.querySelector("figure")?.remove();
      if (!url || line.dataset.id !== id) continue;
      const video = make("video", { src: url, muted: true, loop: true, autoplay: true, playsInline: true, ariaLabel: "Audition" });
      const take = make("button", { type: "button", textContent: "Show it now", onclick: () => this.take(id) });
      const leave = make("button", { type: "button", textContent: "Leave it queued", onclick: () => figure.remove() });
      const figure = make("figure", {}, video, make("div", {}, take, leave));
      line.append(figure);
    }
  }

  take(id) {
    const item = this.items.find((one) => one.id === id);
    this.remove(id);
    if (item) this.say(item);
  }

  edit(items) {
    this.show(items);
    this.send({ type: "session.queue", items });
  }
}

function hue(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

// The last minute, the running transition and the queue to come, to scale.
class TrackStrip {
  constructor(list, goBack) {
    Object.assign(this, { list, goBack, spans: [], marks: [] });
  }

  show(spans, queue, fps, frame) {
    if (spans) this.spans = spans.filter(({ kind }) => kind !== "queued");
    const since = Math.max(0, frame - 60 * fps);
    const shown = this.spans.map((span) => {
      const begin = Math.max(since, span.begin);
      return { ...span, length: Math.min(span.end ?? Infinity, Math.max(frame, begin + 1)) - begin };
    });
    const waiting = queue.map(({ prompt, hold }) => ({ kind: "queued", prompt: promptText(prompt), length: (hold ?? 8) * fps }));
    const place = [...shown.filter(({ length }) => length > 0), ...waiting];
    const total = place.reduce((sum, { length }) => sum + length, 0);
    const marks = this.marks.filter(({ begin }) => begin > since).map(({ begin }) => ({ kind: "refresh", prompt: "", begin: (100 * (begin - since)) / total, length: 0 }));
    place.push(...marks);
    const key = JSON.stringify(place);
    if (key === this.key) return;
    this.key = key;
    while (this.list.children.length > place.length) this.list.lastChild.remove();
    place.forEach((span, i) => {
      const node = this.list.children[i] || this.list.appendChild(make("li"));
      node.dataset.kind = span.kind === "queued" ? "next" : span.kind;
      node.style.flex = `${span.length} 1 0`;
      node.style.left = span.kind === "refresh" ? `${span.begin}%` : "";
      node.style.setProperty("--h", hue(span.prompt));
      const words = span.kind === "transition" ? "" : span.prompt;
      const tag = span.kind === "past" && this.goBack ? "BUTTON" : "SPAN";
      if (node.firstChild?.tagName !== tag) node.replaceChildren(make(tag, { type: "button" }));
      const inner = node.firstChild;
      if (inner.textContent !== words) inner.textContent = words;
      if (tag === "BUTTON") inner.onclick = () => this.goBack(span.begin, span.prompt);
      node.title = `${{ past: "was", now: "now", transition: "transition to", queued: "next" }[span.kind]}: ${span.prompt} (${(span.length / fps).toFixed(1)} s)${tag === "BUTTON" ? ". Click: back to where it began; what comes after it is left behind, not lost" : ""}`;
      if (span.kind === "refresh") node.title = "The memory was refreshed because the film had drifted";
    });
  }
}

// Each figure with its definition; `over` marks the one that misses its budget.
const FIGURES = [
  ["fps", "fps shown", "Frames drawn here in the last 2 seconds, divided by 2. The film's own rate is behind the slash."],
  ["prompt", "prompt to picture", "From Enter to the first frame of the new prompt drawn in this browser: the last prompt that was sent for now."],
  ["chunk", "chunk time", "Time to make one chunk of frames: network, memory and decoding. It must stay below the chunk's playing time, behind the slash."],
  ["drift", "drift", "How far light, colour and sharpness of the last 2 seconds are from the first ones after the last prompt, in standard deviations. Empty until there is enough to compare."],
  ["reused", "used again", "Share of the newest chunk's layers that a feature cache (--feature_cache) spared, because what they add was there from another pass. Empty without one."],
  ["memory", "memory", "Memory of the process, or of the graphics card where one computes."],
  ["dropped", "dropped", "Frames of this film that were made and not drawn here: the newest one always wins."],
  ["where", "position", "Time of the film and number of the frame that was drawn last."],
  ["viewers", "viewers", "Browsers and programs that watch this film."],
];

class Figures {
  constructor(list) {
    this.list = list;
    this.cells = {};
    this.past = [];
    for (const [key, name, means] of FIGURES) {
      const value = make("dd", { textContent: "–" });
      const tip = make("span", { role: "tooltip", id: `rv-tip-${key}`, textContent: means });
      const cell = make("div", { tabIndex: 0 }, make("dt", { textContent: name }), value, tip);
      cell.setAttribute("aria-describedby", tip.id);
      const place = () => {
        const box = cell.getBoundingClientRect();
        tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - 316))}px`;
        tip.style.bottom = `${innerHeight - box.top + 6}px`;
      };
      cell.onmouseenter = place;
      cell.onfocus = place;
      this.cells[key] = { cell, value };
      list.append(cell);
    }
  }

  set(key, text, over = false) {
    const { cell, value } = this.cells[key];
    if (value.textContent !== text) value.textContent = text;
    cell.dataset.over = over;
  }

  drift(value, limit) {
    this.set("drift", value === null ? "–" : value.toFixed(2), value !== null && limit > 0 && value > limit);
    this.past.push(value);
    if (this.past.length > 120) this.past.shift();
    const known = this.past.filter((one) => one !== null);
    const { cell } = this.cells.drift;
    cell.querySelector("svg")?.remove();
    if (known.length < 2) return;
    const top = Math.max(1, ...known);
    const points = this.past.map((one, i) => (one === null ? "" : `${i},${(16 - (14 * one) / top).toFixed(1)}`)).join(" ");
    cell.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 120 16" preserveAspectRatio="none" aria-hidden="true"><polyline fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke" points="${points}"/></svg>`);
  }
}

function unknownWord(word, near) {
  return near.length ? `The model does not know “${word}”; it knows ${near.join(", ")}.` : `The model does not know “${word}”.`;
}
