// The Models tab: what there is, what is here, what this machine can do with it, and how the rest comes.

const MODELS_POLL = 700; // ms between looks at a download

class ModelsTab {
  constructor(root) {
    Object.assign(this, { root, cards: new Map(), verdicts: new Map() });
    this.list = root.querySelector("ol");
    this.about = root.querySelector('[data-place="about"]');
    this.banner = new Banner(root.querySelector(".rv-banner"));
    new IntersectionObserver((seen) => seen.some(({ isIntersecting }) => isIntersecting) && this.look()).observe(root);
  }

  async look() {
    if (this.looking) return;
    this.looking = true;
    const told = await ask("v1/models").catch((error) => this.banner.say(error.message));
    this.looking = false;
    if (!told) return;
    this.mayPull = told.may_pull;
    this.about.textContent = `Nothing is fetched that you do not ask for. Start another one with: rivulet web --model NAME. ${this.mayPull ? "" : "Weights are fetched at the server's machine: copy the command."}`.trim();
    for (const model of told.data) this.card(model);
    this.show(told.download);
    if (told.download.status === "running") this.follow();
    await this.judge(told.data);
  }

  // One after the other: each counts what a film needs, beside the films that play.
  async judge(models) {
    if (this.judging) return;
    this.judging = true;
    for (const { name } of models) {
      if (this.verdicts.has(name)) continue;
      const told = await ask(`v1/models/${encodeURIComponent(name)}/verdict`).catch(() => null);
      if (!told) break;
      this.verdicts.set(name, told);
      const { chip, words } = this.cards.get(name);
      chip.textContent = { small: "runs anywhere" }[told.verdict] ?? told.verdict.split(" with ")[0] + (told.verdict.includes(" with ") ? ", smaller" : "");
      chip.dataset.fits = String(!["does not fit", "not counted"].includes(told.verdict));
      words.textContent = told.told;
    }
    this.judging = false;
  }

  card(model) {
    const before = this.cards.get(model.name);
    const node = make("li", { className: "rv-card" });
    const state = make("span", { className: "rv-chip", textContent: { here: "here", part: "in part here", away: "not here" }[model.state] });
    state.dataset.state = model.state;
    const chip = before?.chip ?? make("span", { className: "rv-chip", textContent: "counting …" });
    const words = before?.words ?? make("p", { className: "rv-hint" });
    const [height, width] = model.size;
    const size = model.state === "away" ? (model.weights_bytes ? `transformer ${bytesText(model.weights_bytes)} in bfloat16` : "") : `${bytesText(model.bytes)} on the disk`;
    const made = [`${width}×${height} at ${model.fps} fps`, size, model.presets.length ? `presets: ${model.presets.join(", ")}` : "no preset of its own"].filter(Boolean).join("; ");
    const parts = make("ul", { className: "rv-model-parts" }, ...model.parts.map((part) => this.part(part)));
    const details = make("details", { open: before?.details.open ?? false }, make("summary", { textContent: `Parts, licences, commands: ${model.name}` }), parts);
    const bar = make("div", { className: "rv-bar" });
    const progress = make("div", { className: "rv-model-progress", hidden: true });
    node.append(make("h2", { className: "rv-model-name", textContent: model.name }), make("p", { className: "rv-model-chips" }, state, chip), make("p", { textContent: model.about }), make("p", { className: "rv-hint", textContent: made }), words, progress, bar, details);
    if (model.state !== "here" && model.parts.some((part) => part.fetch)) this.offer(model, bar);
    if (before) before.node.replaceWith(node);
    else this.list.append(node);
    this.cards.set(model.name, { node, chip, words, details, bar, progress });
  }

  part(part) {
    const line = make("li", {}, `${part.kind.replace("_", " ")} `);
    line.append(part.page ? make("a", { href: part.page, target: "_blank", rel: "noopener noreferrer", textContent: part.name }) : part.name, ` (${part.licence}${part.licence_tick ? "; asks for a tick" : ""})${part.here ? ", here" : ""}`);
    if (part.fetch && !part.here) line.append(this.command(part.fetch));
    return line;
  }

  command(text) {
    const copy = make("button", { type: "button", className: "rv-icon-only", ariaLabel: `Copy: ${text}` });
    setIcon(copy, "copy");
    copy.onclick = async () => {
      await navigator.clipboard?.writeText(text).catch(() => this.banner.say(`Copy it by hand: ${text}`));
      setIcon(copy, "check");
      setTimeout(() => setIcon(copy, "copy"), 1500);
    };
    return make("span", { className: "rv-command" }, make("code", { textContent: text, tabIndex: 0 }), copy);
  }

  offer(model, bar) {
    bar.append(this.command(model.pull));
    if (!this.mayPull) return;
    const pull = make("button", { type: "button", textContent: `Fetch ${model.name}` });
    setIcon(pull, "save");
    pull.onclick = () => this.pull(model);
    if (model.parts.some((part) => part.licence_tick && !part.here)) {
      const narrow = [...new Set(model.parts.filter((part) => part.licence_tick).map((part) => part.licence))].join(", ");
      const tick = make("input", { type: "checkbox" });
      pull.disabled = true;
      tick.onchange = () => (pull.disabled = !tick.checked);
      bar.append(make("label", { className: "rv-check" }, tick, `I have read the licence and accept it: ${narrow}`));
    }
    bar.append(pull);
  }

  async pull(model) {
    try {
      this.show(await ask("v1/models/download", { method: "POST", body: JSON.stringify({ model: model.name, licence_accepted: model.licence_tick }) }));
      this.follow();
    } catch (error) {
      this.banner.say(error.message);
    }
  }

  async follow() {
    if (this.following) return;
    this.following = true;
    for (;;) {
      await new Promise((done) => setTimeout(done, MODELS_POLL));
      const told = await ask("v1/models/download").catch(() => null);
      if (!told) continue;
      this.show(told);
      if (told.status !== "running") break;
    }
    this.following = false;
    await this.look();
  }

  show(download) {
    if (["failed", "cancelled", "done"].includes(download.status) && this.shown === "running") this.banner.say(download.message);
    this.shown = download.status;
    for (const [name, { progress, bar }] of this.cards) {
      const mine = download.status === "running" && download.model === name;
      progress.hidden = !mine;
      bar.hidden = mine;
      if (!mine) continue;
      const left = download.rate && download.total > download.done ? `, ${span((download.total - download.done) / download.rate)} left` : "";
      const words = download.total ? `${bytesText(download.done)} of ${bytesText(download.total)}, ${bytesText(download.rate)}/s${left}` : "Asking for sizes …";
      if (!progress.firstChild) {
        const cancel = make("button", { type: "button", textContent: `Cancel ${name}` });
        setIcon(cancel, "close");
        cancel.onclick = () => ask("v1/models/download", { method: "DELETE" }).catch((error) => this.banner.say(error.message));
        progress.append(make("progress", { ariaLabel: `Fetching ${name}` }), make("span", { className: "rv-hint", role: "status" }), cancel);
      }
      const [meter, said] = progress.children;
      if (download.total) Object.assign(meter, { max: download.total, value: download.done });
      said.textContent = words;
    }
  }
}

window.rivuletModels = (element) => {
  element.innerHTML = facts.models_html;
  new ModelsTab(element.firstElementChild);
};
