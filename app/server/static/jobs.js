// The Long render tab: a script becomes a render job of /v1/videos, which anybody may also use without this page.

const POLL = 1500; // ms between looks at the jobs while the tab is open
const PAUSE = 350; // ms without a key before the script is looked at

const fieldsOf = (tab) => facts.controls.filter(({ tabs }) => tabs.includes(tab)); // of app/config/table.py

function settingField({ name, label, means, limits }) {
  const input = make("input", { type: limits ? "number" : "text", placeholder: "preset's", title: means, ...limits });
  input.name = name;
  return make("label", { title: means }, `${label} `, input);
}

// What a request has under `settings`; the size is a field of its own.
function settingValues(root, fields) {
  const inputs = fields.filter(({ setting }) => setting).map(({ name }) => root.querySelector(`[name="${name}"]`));
  return Object.fromEntries(inputs.filter((input) => input.value !== "").map((input) => [input.name, input.valueAsNumber]));
}

function fillSettings(root, fields, values) {
  for (const { name } of fields.filter(({ setting }) => setting)) root.querySelector(`[name="${name}"]`).value = values[name] ?? "";
}

function fillChoice(select, rows, chosen) {
  select.replaceChildren(...rows.map(([value, textContent, title = ""]) => make("option", { value, textContent, title })));
  select.value = chosen;
}

async function api(path, body, method = body ? "POST" : "GET", signal = undefined) {
  return ask(`v1/videos${path}`, { method, signal, headers: body ? { "Content-Type": "application/json" } : {}, body: body && JSON.stringify(body) });
}

async function ask(path, options = {}) {
  const answer = await fetch(pageUrl(path), options).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Start it again, then repeat this.");
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error?.message ?? (typeof told.detail === "string" ? told.detail : `The server refused this (${answer.status}). Reload the page.`));
  return told;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

function bytesText(count) {
  const [unit, name] = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([size]) => count >= size) ?? [1, "bytes"];
  return `${(count / unit).toFixed(unit === 1 ? 0 : 1)} ${name}`;
}

// What a pasted text is, of the notations that the server reads by their ending; it tells all others from their content.
function guessKind(text) {
  const start = text.trimStart();
  if (/^\s*(version|shots|defaults)\s*:/m.test(text)) return "yaml";
  if (!/^[[{]\s*["{]/.test(start)) return "txt"; // the server tells timed lists, tables and subtitles from their content
  try {
    return JSON.parse(start).shots ? "yaml" : "prompts" in JSON.parse(start) ? "jsonl" : "json";
  } catch {
    return "jsonl"; // several objects, one a line
  }
}

class Banner {
  constructor(node) {
    [this.node, this.text, this.button] = [node, ...node.children];
  }

  say(message, action = "Close", act = () => {}) {
    this.node.hidden = !message;
    if (!message) return;
    this.text.textContent = message;
    this.button.textContent = action;
    this.button.onclick = () => {
      this.node.hidden = true;
      act();
    };
  }
}

class JobsTab {
  constructor(root) {
    this.root = root;
    for (const node of root.querySelectorAll("[data-icon]")) setIcon(node, node.dataset.icon);
    this.form = root.querySelector("form");
    this.banner = new Banner(root.querySelector(".rv-banner"));
    this.strip = new ChunkStrip();
    this.place("strip").append(this.strip.node);
    this.place("settings").append(...fieldsOf("render").map(settingField));
    this.table = new ShotTable(root.querySelector(".rv-shots"), () => this.changed(), (text) => this.try(() => this.pasted(text)));
    fillChoice(this.form.preset, facts.presets, facts.preset);
    fillChoice(this.form.model, facts.models, facts.model);
    this.jobs = new JobList(root, this.banner, (job) => this.fill(job.request, `${job.name} is in the form again.`));
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.try(() => api("", this.request()));
    };
    this.form.addEventListener("input", (event) => !this.table.list.contains(event.target) && this.changed());
    this.form.script.onpaste = () => setTimeout(() => (this.form.script_kind.value = guessKind(this.form.script.value)));
    for (const radio of this.form.mode) radio.onchange = () => this.turn(radio.value);
    this.button("check").onclick = () => this.try(() => this.check());
    this.button("take").onclick = () => this.try(() => this.take());
    this.button("begin").onchange = ({ target }) => {
      const [file] = target.files;
      target.value = "";
      if (file) this.try(() => this.begin(file));
    };
    this.button("unbegin").onclick = () => this.begins(null);
    this.button("add").onclick = () => this.table.add();
    this.button("dice").onclick = () => (this.form.seed.value = Math.floor(Math.random() * 2 ** 31));
    this.recall();
    this.plan();
  }

  place(name) {
    return this.root.querySelector(`[data-place="${name}"]`);
  }

  button(name) {
    return this.root.querySelector(`[data-act="${name}"]`);
  }

  get mode() {
    return this.form.mode.value;
  }

  async try(act) {
    this.banner.say(null);
    try {
      await act();
    } catch (error) {
      this.banner.say(error.message);
    }
    this.jobs.look();
  }

  request(mode = this.mode) {
    const { script, script_kind, seconds, seed, name, preset, model, size, untrained } = this.form;
    const table = mode === "shots";
    const asked = { script: table ? shotsScript(this.table.shots) : script.value, script_kind: table ? "yaml" : script_kind.value, preset: preset.value, model: model.value };
    asked.settings = settingValues(this.form, fieldsOf("render"));
    if (untrained.checked) asked.settings.untrained = true;
    if (!table && seconds.value) asked.seconds = seconds.valueAsNumber;
    if (seed.value) asked.seed = seed.valueAsNumber;
    if (size.value.trim()) asked.size = size.value.trim();
    if (name.value.trim()) asked.name = name.value.trim();
    if (this.beginning) asked.beginning = this.beginning.id;
    return asked;
  }

  // A picture or a clip goes to the server, and its name into the request.
  async begin(file) {
    const { id } = await ask("v1/beginnings", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
    this.begins({ id, name: file.name });
  }

  begins(beginning) {
    this.beginning = beginning;
    const chip = this.button("unbegin");
    chip.hidden = !beginning;
    chip.textContent = beginning ? `Begins with ${beginning.name} ✕` : "";
    this.changed();
  }

  // Everything that was asked back into the form, to be changed and asked again.
  async fill(request, said = "") {
    const { script, script_kind, seconds, seed, name, preset, model, size, untrained } = this.form;
    const prompts = typeof request.prompt === "string" ? [request.prompt] : request.prompt;
    script.value = request.script ?? prompts.join("\n");
    script_kind.value = request.script ? request.script_kind : "txt";
    [seconds.value, seed.value, name.value, size.value] = [request.seconds ?? "", request.seed ?? "", request.name ?? "", request.size ?? ""];
    if (request.preset) preset.value = request.preset;
    if (request.model) model.value = request.model;
    const settings = request.settings ?? {};
    fillSettings(this.form, fieldsOf("render"), settings);
    untrained.checked = settings.untrained === true;
    this.begins(request.beginning ? { id: request.beginning, name: "its picture" } : null);
    this.form.mode.value = "shots";
    await this.turn("shots", script.value);
    if (said) this.banner.say(said);
    this.form.scrollIntoView({ block: "nearest" });
  }

  // The other way of writing the same script.
  async turn(mode, text = this.form.script.value) {
    this.banner.say(null);
    if (mode === "script") {
      Object.assign(this.form.script, { value: shotsScript(this.table.shots) });
      this.form.script_kind.value = "yaml";
      this.form.seconds.value = "";
    } else {
      try {
        const shots = shotsOf(await api("/plan", { ...this.request("script"), script: text }));
        if (!shots) throw new Error("This script mixes prompts, or changes settings within the film: it can be edited as a script.");
        this.table.shots = shots;
      } catch (error) {
        this.form.mode.value = "script";
        this.banner.say(error.message);
      }
    }
    this.changed();
  }

  changed() {
    for (const part of this.root.querySelectorAll("[data-mode]")) part.hidden = part.dataset.mode !== this.mode;
    this.checking?.abort(); // it was of another film
    this.root.querySelector(".rv-check-table").replaceChildren();
    memory.keep({ draft: { ...this.request(), mode: this.mode, shots: this.table.shots } });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.plan(), PAUSE);
  }

  recall() {
    const { draft } = memory.all();
    const shots = facts.scenes.slice(0, 3).map(([, prompt]) => ({ prompt, seconds: 8, kind: "soft", chunks: 2 }));
    this.table.shots = draft?.shots ?? shots;
    if (!draft) return;
    const { script, script_kind, seed, seconds, name, preset, model, size, untrained } = this.form;
    Object.assign(script, { value: draft.script });
    [script_kind.value, seed.value, seconds.value, name.value, size.value] = [draft.script_kind, draft.seed ?? "", draft.seconds ?? "", draft.name ?? "", draft.size ?? ""];
    [preset.value, model.value, untrained.checked] = [draft.preset, draft.model, draft.settings.untrained === true];
    fillSettings(this.form, fieldsOf("render"), draft.settings);
    this.form.mode.value = draft.mode;
    for (const part of this.root.querySelectorAll("[data-mode]")) part.hidden = part.dataset.mode !== draft.mode;
  }

  // Where the shots come to stand: no model is needed for that, so it is said while one types.
  async plan() {
    const asked = (this.asked = this.request());
    this.place("system").textContent = facts.presets.find(([name]) => name === asked.preset)?.[2] ?? "";
    const words = this.place("words");
    let plan = null;
    let wrong = null;
    try {
      plan = await api("/plan", asked);
    } catch (error) {
      const line = Number(error.message.match(/^script\.\w+, line (\d+)/)?.[1]);
      const message = error.message.replace(/^script\.\w+, line \d+(, [\w.[\]]+)?: /, "");
      wrong = { message: `${message[0].toUpperCase()}${message.slice(1)}`, line, row: this.mode === "shots" && line ? line - 1 - SCRIPT_HEAD.length : -1 };
    }
    if (asked !== this.asked) return; // something was changed meanwhile
    this.table.say(plan, wrong);
    this.strip.node.hidden = !plan;
    words.dataset.bad = !plan;
    if (plan) {
      const { shots, totals, blends, fps, notes } = plan;
      this.strip.show({ chunks: totals.chunks, shots: shots.map(({ actual, prompt }) => ({ chunk: actual.chunk, prompt: promptText(prompt) })), blends: blends.map(({ chunk }) => chunk), fps });
      words.textContent = [`${shots.length} shot${shots.length === 1 ? "" : "s"}, ${totals.seconds.toFixed(1)} s, ${totals.frames} frames, ${totals.chunks} chunks. A prompt changes where a chunk begins.`, ...notes].join(" ");
    } else {
      const row = this.table.list.children[wrong.row];
      words.textContent = row ? `Shot ${wrong.row + 1} needs a change before this can be filmed.` : wrong.line ? `Line ${wrong.line}: ${wrong.message}` : wrong.message;
      if (this.mode === "script") this.offerKind(asked);
      if (!row && wrong.line && this.mode === "script") words.append(" ", make("button", { type: "button", className: "rv-link", textContent: "Show the line", onclick: () => this.show(wrong.line) }));
    }
  }

  // A text under a wrong heading: what it is by its content, if it is anything.
  async offerKind(asked) {
    const kinds = ["txt", guessKind(asked.script)].filter((kind, i, all) => kind !== asked.script_kind && all.indexOf(kind) === i);
    for (const script_kind of kinds) {
      const plan = await api("/plan", { ...asked, script_kind }).catch(() => null);
      if (asked !== this.asked) return;
      if (!plan) continue;
      const { shots, written_as: what } = plan;
      const read = () => {
        this.form.script_kind.value = script_kind;
        this.changed();
      };
      this.place("words").append(" ", make("button", { type: "button", className: "rv-link", textContent: `Read it as ${what}: ${shots.length} shot${shots.length === 1 ? "" : "s"}`, onclick: read }));
      return;
    }
  }

  // Several lines that were put into one shot are a script: they become rows, and what was there comes back if wanted.
  async pasted(text) {
    const before = this.table.shots;
    const plan = await api("/plan", { ...this.request("script"), script: text, script_kind: guessKind(text) });
    const shots = shotsOf(plan);
    if (!shots) throw new Error("This script mixes prompts, or changes settings within the film. Paste it under Script.");
    this.table.shots = shots;
    this.changed();
    const undo = () => {
      this.table.shots = before;
      this.changed();
    };
    this.banner.say([`Read as ${plan.written_as}: ${shots.length} shots.`, ...plan.notes].join(" "), "Undo", undo);
  }

  show(line) {
    const { script } = this.form;
    const lines = script.value.split("\n");
    const from = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
    script.focus();
    script.setSelectionRange(from, from + lines[line - 1].length);
  }

  // The take as the server has written it down.
  async take() {
    const { session, token } = live.link.invited ?? memory.all();
    const { request, seconds, notes } = await ask(`v1/sessions/${session}/take?${new URLSearchParams({ token })}`);
    await this.fill(request, [`The live film so far, ${seconds.toFixed(1)} s. Change what you like and render it.`, ...notes].join(" "));
  }

  // One at a time: another one takes the place of one that runs, and whoever leaves it ends it.
  async check() {
    const place = this.root.querySelector(".rv-check-table");
    this.checking?.abort();
    const checking = (this.checking = new AbortController());
    const leave = make("button", { type: "button", className: "rv-link", textContent: "Leave it", onclick: () => checking.abort() });
    place.replaceChildren(make("p", { className: "rv-hint rv-busy" }, "Filming a few chunks to see what it takes … ", leave));
    try {
      const told = await api("/check", this.request(), "POST", checking.signal);
      if (this.checking === checking) this.showCheck(told);
    } catch (error) {
      if (this.checking === checking) place.replaceChildren();
      if (!checking.signal.aborted) throw error;
    }
  }

  showCheck({ shots, totals, estimate, notes }) {
    const head = make("tr", {}, ...["", "prompt", "asked", "begins", "chunks", "how"].map((name) => make("th", { textContent: name, scope: "col" })));
    const rows = shots.map(({ shot, prompt, requested, actual, chunks, transition }) => {
      const how = shot === 1 ? "" : transition.kind + (transition.chunks ? ` ${transition.chunks}` : "");
      const number = make("td", {}, make("b", { className: "rv-number", textContent: shot }));
      const row = make("tr", {}, number, ...[promptText(prompt), `${requested.second.toFixed(2)} s`, `${actual.second.toFixed(2)} s`, chunks, how].map((text) => make("td", { textContent: text })));
      row.style.setProperty("--h", shotHue(shot - 1));
      return row;
    });
    const figures = [["length", `${totals.seconds.toFixed(1)} s`], ["frames", totals.frames], ["chunks", totals.chunks], ["to render", span(estimate.seconds)], ["film", bytesText(estimate.film_bytes)], ["disk meanwhile", bytesText(estimate.disk_bytes)], ["memory", bytesText(estimate.memory_bytes)]];
    const said = Object.entries(estimate.unknown).map(([word, near]) => unknownWord(word, near));
    this.root.querySelector(".rv-check-table").replaceChildren(
      make("dl", { className: "rv-metrics" }, ...figures.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })))),
      make("div", { className: "rv-scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))),
      make("p", { className: "rv-hint", textContent: [...said, ...notes, `${estimate.basis[0].toUpperCase()}${estimate.basis.slice(1)}.`].join(" ") }),
    );
  }
}

window.rivuletJobs = (element) => {
  element.innerHTML = facts.jobs_html;
  live.renders = new JobsTab(element.firstElementChild);
};
