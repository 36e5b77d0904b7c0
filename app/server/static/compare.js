// The Compare tab: one script under two to four settings, as render jobs whose films play as one.

const LETTERS = "ABCD";
const LOOSE = 0.08; // seconds that two films may be apart before one is moved
const MOST_EMBEDDED = 96e6; // bytes of film in an exported page

class CompareTab {
  constructor(root) {
    Object.assign(this, { root, jobs: [], rows: [] });
    for (const node of root.querySelectorAll("[data-icon]")) setIcon(node, node.dataset.icon);
    [this.form, this.variants, this.players, this.plots, this.table] = ["form", ".rv-variants", ".rv-players", ".rv-plots", "table"].map((name) => root.querySelector(name));
    this.banner = new Banner(root.querySelector(".rv-banner"));
    [this.scrub, this.clock] = [root.querySelector('[data-place="scrub"]'), root.querySelector("output")];
    this.form.script.value = facts.scenes.slice(0, 2).map(([, text]) => text).join("\n");
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.render();
    };
    this.button("add").onclick = () => {
      this.add();
      this.keep();
    };
    this.button("play").onclick = () => this.play(!this.playing);
    for (const kind of ["csv", "png", "html"]) this.button(kind).onclick = () => this.save(kind);
    this.scrub.oninput = () => this.seek(this.scrub.valueAsNumber);
    this.form.addEventListener("input", () => this.keep());
    this.add();
    this.add({ sink_size: facts.sink ? 0 : undefined, num_inference_steps: facts.sink ? undefined : Math.max(1, facts.steps >> 1) });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    setInterval(() => this.root.offsetParent && !document.hidden && this.look(), POLL);
    this.recall();
  }

  button(name) {
    return this.root.querySelector(`[data-act="${name}"]`);
  }

  get videos() {
    return [...this.players.querySelectorAll("video")];
  }

  get done() {
    return this.jobs.length > 1 && this.jobs.every(({ status }) => status === "completed");
  }

  get colours() {
    return VARIANT_COLOURS[this.root.closest(".dark") ? "dark" : "light"];
  }

  // An empty field leaves the preset's own value.
  add(given = {}) {
    const preset = make("select", { name: "preset" });
    const model = make("select", { name: "model" });
    fillChoice(preset, facts.presets, given.preset ?? facts.preset);
    fillChoice(model, facts.models, given.model ?? facts.model);
    const fields = fieldsOf("compare").map(settingField);
    const remove = make("button", { type: "button", className: "rv-icon-only" });
    setIcon(remove, "close");
    const line = make("li", { className: "rv-card" }, make("b", { className: "rv-number" }), make("div", { className: "rv-fields" }, make("label", {}, "Preset ", preset), make("label", {}, "Model ", model), ...fields), remove);
    fillSettings(line, fieldsOf("compare"), given);
    remove.onclick = () => {
      line.remove();
      this.number();
      this.keep();
    };
    this.variants.append(line);
    this.number();
  }

  number() {
    const lines = [...this.variants.children];
    lines.forEach((line, i) => {
      line.dataset.variant = LETTERS[i];
      line.firstChild.textContent = LETTERS[i];
      line.lastChild.hidden = lines.length < 3;
      line.lastChild.ariaLabel = `Remove ${LETTERS[i]}`;
    });
    this.button("add").disabled = lines.length === LETTERS.length;
  }

  async render() {
    this.banner.say(null);
    const { script, seconds, seed } = this.form;
    const common = { script: script.value, script_kind: "txt", seconds: seconds.valueAsNumber || undefined, seed: seed.valueAsNumber || 0 };
    const asked = [...this.variants.children].map((line, i) => ({
      ...common,
      preset: line.querySelector('[name="preset"]').value,
      model: line.querySelector('[name="model"]').value,
      settings: { ...settingValues(line, fieldsOf("compare")), untrained: true },
      name: `Compare ${LETTERS[i]}: ${script.value.split("\n")[0]}`.slice(0, 120),
    }));
    const same = asked.findIndex((one, i) => asked.slice(0, i).some((other) => JSON.stringify([one.preset, one.model, one.settings]) === JSON.stringify([other.preset, other.model, other.settings])));
    if (same > 0) {
      this.banner.say(`${LETTERS[same]} is set like another one. Change a setting of it.`, "Change it", () => this.variants.children[same].querySelector("input").focus());
      return;
    }
    const jobs = [];
    try {
      for (const request of asked) await api("/plan", request);
      for (const request of asked) jobs.push(await api("", request));
    } catch (error) {
      for (const job of jobs) await api(`/${job.id}/cancel`, {}).catch(() => {});
      this.banner.say(`${LETTERS[jobs.length]}: ${error.message}`);
      return;
    }
    memory.keep({ compare: jobs.map(({ id }) => id) });
    this.keep();
    this.begin(jobs);
    await this.look();
    this.players.scrollIntoView({ block: "nearest" });
  }

  begin(jobs) {
    Object.assign(this, { jobs, rows: jobs.map(() => null), drawn: "" });
    this.play(false);
    this.players.replaceChildren(
      ...jobs.map((job, i) => {
        const figure = make("figure", {}, make("div", { className: "rv-picture" }), make("figcaption", {}, make("b", { className: "rv-number", textContent: LETTERS[i] }), make("span")));
        figure.dataset.variant = LETTERS[i];
        return figure;
      }),
    );
    this.root.querySelector('[data-place="result"]').hidden = false;
    this.may(false);
  }

  // The form as it stands, rendered or not.
  keep() {
    const { script, seconds, seed } = this.form;
    const variants = [...this.variants.children].map((line) => ({
      ...settingValues(line, fieldsOf("compare")),
      preset: line.querySelector('[name="preset"]').value,
      model: line.querySelector('[name="model"]').value,
    }));
    memory.keep({ comparing: { script: script.value, seconds: seconds.value, seed: seed.value, variants } });
  }

  // A reload shows form and comparison again; the films lie on the server's disk.
  async recall() {
    const { compare, comparing } = memory.all();
    if (comparing) {
      for (const name of ["script", "seconds", "seed"]) this.form[name].value = comparing[name];
      this.variants.replaceChildren();
      for (const variant of comparing.variants) this.add(variant);
    }
    if (!compare) return;
    const jobs = await Promise.all(compare.map((id) => api(`/${id}`).catch(() => null)));
    if (jobs.some((job) => !job)) {
      this.banner.say("A film of this comparison was deleted. Render all makes it again.");
      return;
    }
    this.begin(jobs);
    this.look();
  }

  async look() {
    if (!this.jobs.length || this.looking || (this.done && this.rows.every((rows) => rows?.whole))) return;
    this.looking = true;
    this.jobs = await Promise.all(this.jobs.map((job) => (job.status === "completed" ? job : api(`/${job.id}`).catch(() => job))));
    await Promise.all(
      this.jobs.map(async (job, i) => {
        if (this.rows[i]?.whole || !job.frames_done) return;
        const told = await api(`/${job.id}/chunks`).catch(() => null);
        if (told) this.rows[i] = { ...told, whole: job.status === "completed" };
      }),
    );
    this.looking = false;
    this.jobs.forEach((job, i) => this.showPlayer(job, this.players.children[i]));
    this.may(this.done);
    this.scrub.max = this.jobs[0].seconds;
    this.draw();
  }

  may(on) {
    for (const name of ["play", "csv", "png", "html"]) this.button(name).disabled = !on;
    this.scrub.disabled = !on;
  }

  showPlayer(job, figure) {
    const [picture, caption] = figure.children;
    const state = job.error?.message ?? (job.status === "completed" ? "" : ` · ${JOB_STATES[job.status]}${job.status === "in_progress" ? ` ${Math.floor(job.progress)} %` : ""}`);
    const words = `${this.settings(job)}${state}`;
    if (caption.lastChild.textContent !== words) caption.lastChild.textContent = words;
    const film = pageUrl(`v1/videos/${job.id}/content`);
    if (job.status === "completed") {
      if (picture.querySelector("video")) return;
      const video = make("video", { src: film, muted: true, playsInline: true, preload: "auto", ariaLabel: `Film ${figure.dataset.variant}` });
      video.onclick = () => this.done && this.play(!this.playing);
      picture.replaceChildren(video);
    } else if (job.frames_done && figure.dataset.seen !== String(job.frames_done)) {
      figure.dataset.seen = job.frames_done;
      const image = picture.querySelector("img") ?? picture.appendChild(make("img", { alt: `Newest frame of ${figure.dataset.variant}` }));
      image.src = `${film}?variant=thumbnail&frame=${job.frames_done}`;
    }
  }

  settings(job) {
    const named = fieldsOf("compare").filter(({ name }) => job.request.settings[name] !== undefined).map(({ name, label }) => `${label.toLowerCase()} ${job.request.settings[name]}`);
    return [job.preset, ...(job.model === facts.model ? [] : [job.model]), ...named].join(", ");
  }

  // Playing --------------------------------------------------------------------------------------------------------

  play(on) {
    this.playing = on && this.done;
    const button = this.button("play");
    setIcon(button, this.playing ? "pause" : "play");
    button.ariaLabel = this.playing ? "Pause all" : "Play all";
    const { videos } = this;
    if (!this.playing) {
      for (const video of videos) video.pause();
      if (videos.length) this.seek(videos[0].currentTime);
      return;
    }
    if (videos[0].currentTime >= videos[0].duration - 0.1) this.seek(0);
    for (const video of videos) video.play().catch(() => {});
    const follow = () => {
      if (!this.playing) return;
      const [first, ...others] = videos;
      for (const video of others) if (Math.abs(video.currentTime - first.currentTime) > LOOSE && !video.seeking) video.currentTime = first.currentTime;
      this.at(first.currentTime);
      if (first.ended) this.play(false);
      else requestAnimationFrame(follow);
    };
    follow();
  }

  seek(second) {
    for (const video of this.videos) video.currentTime = second;
    this.at(second);
  }

  // The time that is shown: slider, clock and a mark in every plot.
  at(second) {
    this.scrub.value = second;
    this.clock.textContent = `${second.toFixed(1)} s`;
    for (const svg of this.plots.querySelectorAll("svg")) {
      const mark = svg.querySelector(".rv-now") ?? svg.appendChild(document.createElementNS(svg.namespaceURI, "line"));
      const x = Number(svg.dataset.left) + (Number(svg.dataset.wide) * second) / (this.jobs[0]?.seconds || 1);
      for (const [name, value] of Object.entries({ class: "rv-now", x1: x, x2: x, y1: PLOT.top, y2: PLOT.height - PLOT.bottom, stroke: "currentColor", opacity: 0.5 })) mark.setAttribute(name, value);
    }
  }

  // Figures --------------------------------------------------------------------------------------------------------

  draw() {
    const key = JSON.stringify([this.rows.map((rows) => rows?.data.length), this.jobs.map(({ status }) => status), this.colours]);
    if (!this.jobs.length || key === this.drawn) return;
    this.drawn = key;
    this.plots.innerHTML = this.svgs(this.colours, getComputedStyle(this.root).color).join("");
    this.at(this.videos[0]?.currentTime ?? 0);
    const cells = (tag, row) => row.map((textContent) => make(tag, { textContent }));
    const [names, ...rows] = this.summary();
    this.table.replaceChildren(make("thead", {}, make("tr", {}, ...cells("th", names))), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells("td", row)))));
  }

  svgs(colours, ink) {
    const second = (rows, { frame, shown }) => (frame + shown / 2) / rows.fps;
    const plot = (title, value, more = {}) =>
      plotSvg({ title, ink, end: this.jobs[0].seconds, nothing: this.done ? "the films are too short to tell" : "not measured yet", ...more, series: this.rows.map((rows, i) => ({ name: LETTERS[i], colour: colours[i], points: rows?.data.map((chunk) => [second(rows, chunk), value(chunk)]) ?? [] })) });
    return [
      plot("frames a second that the engine makes", ({ frames, seconds }) => frames / seconds),
      plot("latency: milliseconds a chunk", ({ seconds }) => 1000 * seconds),
      plot("drift, in standard deviations", ({ drift }) => drift, { limit: facts.drift_limit }),
      plot("memory, MB", ({ memory: bytes }) => bytes / 1e6, { zero: false }),
    ];
  }

  summary() {
    const head = ["", "settings", "fps", "chunk p50 / p95", "drift at the end", "memory", "disk", "same pictures as A"];
    return [
      head,
      ...this.jobs.map((job, i) => {
        const data = this.rows[i]?.data ?? [];
        const times = data.slice(1).map(({ seconds }) => seconds); // the first chunk warms up
        const total = times.reduce((sum, value) => sum + value, 0);
        const drift = data.findLast((chunk) => chunk.drift !== null)?.drift;
        const ms = (share) => (times.length ? Math.round(1000 * quantile(times, share)) : "–");
        return [
          LETTERS[i],
          this.settings(job),
          total ? (data.slice(1).reduce((sum, { frames }) => sum + frames, 0) / total).toFixed(1) : "–",
          `${ms(0.5)} / ${ms(0.95)} ms`,
          drift === undefined ? "–" : drift.toFixed(2),
          data.length ? bytesText(Math.max(...data.map((chunk) => chunk.memory))) : "–",
          job.status === "completed" ? bytesText(job.bytes) : "–",
          this.sameAs(data, i),
        ];
      }),
    ];
  }

  sameAs(data, i) {
    if (!i) return "";
    const first = this.rows[0]?.data ?? [];
    const common = Math.min(first.length, data.length);
    const differs = first.slice(0, common).findIndex(({ sha256 }, chunk) => sha256 !== data[chunk].sha256);
    if (!common) return "–";
    return differs < 0 ? "all" : differs === 0 ? "none" : `until ${(data[differs].frame / this.rows[i].fps).toFixed(1)} s`;
  }

  // Export ---------------------------------------------------------------------------------------------------------

  async save(kind) {
    const button = this.button(kind);
    button.disabled = true;
    try {
      const blob = await this[`${kind}File`]();
      saveFile(`compare.${kind}`, blob);
    } catch (error) {
      this.banner.say(`The ${kind.toUpperCase()} could not be made (${error.message}). Try another format.`);
    }
    button.disabled = false;
  }

  async csvFile() {
    const head = ["variant", "preset", "model", "seed", "settings", "chunk", "second", "frames_shown", "engine_seconds", "fps", "drift", "memory_bytes", "sha256"];
    const rows = this.jobs.flatMap((job, i) =>
      this.rows[i].data.map(({ chunk, frame, frames, shown, seconds, drift, memory: bytes, sha256 }) => [LETTERS[i], job.preset, job.model, job.seed, JSON.stringify(job.request.settings), chunk, frame / this.rows[i].fps, shown, seconds, (frames / seconds).toFixed(2), drift ?? "", bytes, sha256]),
    );
    const text = [head, ...rows].map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(",")).join("\n");
    return new Blob([`${text}\n`], { type: "text/csv" });
  }

  async pngFile() {
    const { videos, colours } = this;
    const ink = getComputedStyle(this.root).color;
    const plots = await Promise.all([...this.plots.children].map(svgPicture));
    const [gap, wide] = [16, 2 * PLOT.width + 3 * 16];
    const side = (wide - gap * (videos.length + 1)) / videos.length;
    const tall = Math.min(side, Math.max(...videos.map((video) => (side * video.videoHeight) / video.videoWidth)));
    const canvas = make("canvas", { width: wide, height: Math.ceil(tall + 3 * gap + 32 + 2 * (PLOT.height + gap)) });
    const draw = canvas.getContext("2d");
    draw.fillStyle = this.root.closest(".dark") ? "#0f0f11" : "#ffffff";
    draw.fillRect(0, 0, canvas.width, canvas.height);
    draw.font = "14px system-ui, sans-serif";
    videos.forEach((video, i) => {
      const x = gap + i * (side + gap);
      const scale = Math.min(side / video.videoWidth, tall / video.videoHeight);
      const [width, height] = [video.videoWidth * scale, video.videoHeight * scale];
      draw.drawImage(video, x + (side - width) / 2, gap + (tall - height) / 2, width, height);
      draw.fillStyle = colours[i];
      draw.fillText(LETTERS[i], x, gap + tall + 22);
      draw.fillStyle = ink;
      draw.fillText(this.settings(this.jobs[i]), x + 18, gap + tall + 22, side - 18);
    });
    plots.forEach((picture, i) => draw.drawImage(picture, gap + (i % 2) * (PLOT.width + gap), tall + 2 * gap + 32 + Math.floor(i / 2) * (PLOT.height + gap)));
    return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("the picture is empty"))), "image/png"));
  }

  // One file with everything in it: films, plots, figures and the few lines that play the films together.
  async htmlFile() {
    const films = await Promise.all(this.jobs.map(async ({ id }) => (await fetch(pageUrl(`v1/videos/${id}/content`))).blob()));
    if (films.reduce((sum, { size }) => sum + size, 0) > MOST_EMBEDDED) throw new Error(`the films have more than ${bytesText(MOST_EMBEDDED)}`);
    const urls = await Promise.all(films.map(asDataUrl));
    const [names, ...rows] = this.summary();
    const cells = (tag, row) => row.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join("");
    const figures = urls.map((url, i) => `<figure><video src="${url}" muted playsinline loop></video><figcaption><b style="color:${VARIANT_COLOURS.light[i]}">${LETTERS[i]}</b> ${escaped(this.settings(this.jobs[i]))}</figcaption></figure>`);
    const prompts = this.form.script.value.split("\n").filter((line) => line.trim()).map((line) => `<li>${escaped(line)}</li>`);
    const page = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Rivulet: comparison</title>
<style>${EXPORT_STYLE}</style>
<h1>The same seed and script under ${rows.length} settings</h1><ol>${prompts.join("")}</ol><p>Seed ${this.jobs[0].seed}, ${this.jobs[0].seconds} s.</p>
<div class="films">${figures.join("")}</div>
<p class="transport"><button id="play">Play</button> <input id="at" type="range" min="0" max="${this.jobs[0].seconds}" step="0.01" value="0" aria-label="Time of all films"></p>
<div class="wide"><table><tr>${cells("th", names)}</tr>${rows.map((row) => `<tr>${cells("td", row)}</tr>`).join("")}</table></div>
<div class="plots">${this.svgs(VARIANT_COLOURS.light, "#18181b").join("")}</div>
<script>(${playTogether})()<\/script></html>`;
    return new Blob([page], { type: "text/html" });
  }
}

const EXPORT_STYLE =
  "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:24px auto;padding:0 16px;color:#18181b}h1{font-size:20px}.films,.plots{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,240px),1fr))}.plots{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}figure{margin:0}video{width:100%;background:#000;border-radius:8px}.transport{display:flex;gap:12px}.transport input{flex:1;accent-color:#0f766e}table{border-collapse:collapse;font-size:14px}td,th{text-align:left;padding:4px 10px;border-bottom:1px solid #ddd;white-space:nowrap}.wide{overflow-x:auto;margin:16px 0}";

// Its text goes into the exported page, so it uses nothing from here.
function playTogether() {
  const films = [...document.querySelectorAll("video")];
  const [play, at] = [document.getElementById("play"), document.getElementById("at")];
  const first = films[0];
  play.onclick = () => {
    const on = first.paused;
    for (const film of films) {
      film.currentTime = first.currentTime;
      if (on) film.play();
      else film.pause();
    }
    play.textContent = on ? "Pause" : "Play";
  };
  at.oninput = () => films.forEach((film) => (film.currentTime = at.valueAsNumber));
  first.ontimeupdate = () => {
    at.value = first.currentTime;
    for (const film of films.slice(1)) if (Math.abs(film.currentTime - first.currentTime) > 0.1) film.currentTime = first.currentTime;
  };
}

function asDataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(new Blob([blob], { type: "video/mp4" }));
  });
}

window.rivuletCompare = (element) => {
  element.innerHTML = facts.compare_html;
  new CompareTab(element.firstElementChild);
};
