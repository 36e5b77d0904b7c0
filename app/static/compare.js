// The Compare tab: one script under two to four settings, as render jobs whose films play in step.

class CompareTab {
  constructor(root) {
    this.root = root;
    this.jobs = [];
    for (const node of root.querySelectorAll("[data-icon]")) setIcon(node, node.dataset.icon);
    [this.form, this.variants, this.players, this.banner] = ["form", ".rv-variants", ".rv-players", ".rv-banner"].map((name) => root.querySelector(name));
    this.form.script.value = facts.scenes.slice(0, 2).map(([, text]) => text).join("\n");
    this.button("add").onclick = () => this.add();
    this.button("play").onclick = () => this.play();
    this.button("csv").onclick = () => this.csv();
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.render();
    };
    this.add({ local_attn_size: facts.window, sink_size: facts.sink });
    this.add({ local_attn_size: facts.window, sink_size: 0 });
    setInterval(() => this.root.offsetParent && this.jobs.length && this.look(), POLL);
  }

  button(name) {
    return this.root.querySelector(`[data-act="${name}"]`);
  }

  // An empty field leaves the preset's own value.
  add(given = {}) {
    const field = (name, label, min, max) => {
      const input = make("input", { type: "number", min, max, step: "1", value: given[name] ?? "", placeholder: "preset's" });
      input.name = name;
      return make("label", { textContent: `${label} ` }, input);
    };
    const number = this.variants.children.length + 1;
    const fields = [field("num_inference_steps", "Steps", 1, 16), field("local_attn_size", "Window", 1, 240), field("sink_size", "Sink", 0, 240)];
    this.variants.append(make("li", { className: "rv-fields" }, make("strong", { textContent: "ABCD"[number - 1] }), ...fields));
    this.button("add").disabled = number === 4;
  }

  async render() {
    this.banner.hidden = true;
    const { script, seconds, seed } = this.form;
    this.jobs = [];
    this.players.replaceChildren();
    try {
      for (const line of this.variants.children) {
        const settings = Object.fromEntries([...line.querySelectorAll("input")].filter(({ value }) => value !== "").map((input) => [input.name, input.valueAsNumber]));
        const letter = line.firstChild.textContent;
        const job = await api("", { script: script.value, script_kind: "txt", seconds: seconds.valueAsNumber, seed: seed.valueAsNumber, preset: facts.preset, model: facts.model, name: `Compare ${letter}`, settings });
        this.jobs.push(job);
        this.players.append(make("figure", {}, make("div", { className: "rv-picture" }), make("figcaption", { textContent: letter })));
      }
    } catch (error) {
      this.banner.textContent = error.message;
      this.banner.hidden = false;
    }
    this.look();
  }

  async look() {
    this.jobs = await Promise.all(this.jobs.map((job) => (job.status === "completed" ? job : api(`/${job.id}`).catch(() => job))));
    this.jobs.forEach((job, i) => {
      const [picture, words] = this.players.children[i].children;
      const settings = Object.entries(job.request.settings).map(([name, value]) => `${name} ${value}`).join(", ");
      const figures = job.status === "completed" ? `${job.fps?.toFixed(1) ?? "–"} fps, drift ${job.drift?.toFixed(2) ?? "–"}` : job.error?.message ?? `${job.status.replace("_", " ")} ${Math.round(job.progress)} %`;
      words.textContent = `${"ABCD"[i]}: ${settings || "the preset"} · ${figures}`;
      if (job.status === "completed" && !picture.firstChild) {
        picture.append(make("video", { src: pageUrl(`v1/videos/${job.id}/content`), muted: true, loop: true, controls: true, preload: "auto" }));
      }
    });
    const done = this.jobs.length > 1 && this.jobs.every(({ status }) => status === "completed");
    this.button("play").disabled = this.button("csv").disabled = !done;
  }

  play() {
    const videos = [...this.players.querySelectorAll("video")];
    for (const video of videos) video.currentTime = 0;
    for (const video of videos) video.play();
  }

  csv() {
    const rows = this.jobs.map((job, i) => ["ABCD"[i], job.seed, job.seconds, job.fps ?? "", job.drift ?? "", job.bytes, JSON.stringify(job.request.settings).replaceAll('"', '""')]);
    const text = [["variant", "seed", "seconds", "fps", "drift", "bytes", "settings"], ...rows].map((row) => row.map((cell) => `"${cell}"`).join(",")).join("\n");
    const url = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
    make("a", { href: url, download: "compare.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

window.rivuletCompare = (element) => {
  element.innerHTML = facts.compare_html;
  new CompareTab(element.firstElementChild);
};
