// The Long render tab: render jobs of /v1/videos, which anybody may also use without this page.

const POLL = 1500; // ms between looks at the jobs while the tab is open

async function api(path, body, method = body ? "POST" : "GET") {
  const answer = await fetch(pageUrl(`v1/videos${path}`), {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  }).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Start it again, then repeat this.");
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error?.message ?? told.detail ?? `The server refused this (${answer.status}).`);
  return told;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

const EXAMPLE = (scenes) =>
  `version: 1\nshots:\n${scenes
    .slice(0, 3)
    .map(([, text], i) => `  - at: ${8 * i}s\n    prompt: ${JSON.stringify(text)}\n${i ? "    transition: {kind: soft, chunks: 2}\n" : ""}`)
    .join("")}end: 24s\n`;

class JobsTab {
  constructor(root) {
    this.root = root;
    for (const node of root.querySelectorAll("[data-icon]")) setIcon(node, node.dataset.icon);
    [this.form, this.list, this.banner] = [root.querySelector("form"), root.querySelector(".rv-job-list"), root.querySelector(".rv-banner")];
    this.form.script.value = EXAMPLE(facts.scenes);
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.try(() => api("", this.request()));
    };
    root.querySelector('[data-act="check"]').onclick = () => this.try(() => this.check());
    root.querySelector('[data-act="take"]').onclick = () => this.take();
    setInterval(() => this.root.offsetParent && !document.hidden && this.look(), POLL);
    this.look();
  }

  async try(act) {
    this.banner.hidden = true;
    try {
      await act();
    } catch (error) {
      this.banner.textContent = error.message;
      this.banner.hidden = false;
    }
    this.look();
  }

  request() {
    const { script, script_kind, seconds, seed, name } = this.form;
    const asked = { script: script.value, script_kind: script_kind.value, preset: facts.preset, model: facts.model };
    if (seconds.value) asked.seconds = seconds.valueAsNumber;
    if (seed.value) asked.seed = seed.valueAsNumber;
    if (name.value.trim()) asked.name = name.value.trim();
    return asked;
  }

  // The take as it was: every prompt of the track from the moment it began, then what is queued.
  take() {
    const spans = (live.spans || []).filter((one) => one.kind !== "transition");
    const shots = spans.length ? spans : [{ prompt: promptText(live.prompt), begin: 0 }];
    const { fps } = live.hello;
    const lines = shots.map(({ prompt, begin }, i) => `  - at: ${i ? begin : 0}f\n    prompt: ${JSON.stringify(prompt)}\n`);
    const end = Math.max(live.screen.last?.frame ?? 0, (shots.at(-1).end ?? shots.at(-1).begin + 8 * fps));
    this.form.script.value = `version: 1\nshots:\n${lines.join("")}end: ${Math.round(end)}f\n`;
    this.form.script_kind.value = "yaml";
    this.form.seed.value = live.hello.seed;
  }

  async check() {
    const [button, table] = [this.root.querySelector('[data-act="check"]'), this.root.querySelector(".rv-check-table")];
    button.disabled = true;
    table.textContent = "Measuring a few chunks of it on this machine …";
    try {
      this.showCheck(await api("/check", this.request()));
    } catch (error) {
      table.textContent = "";
      throw error;
    } finally {
      button.disabled = false;
    }
  }

  showCheck({ shots, totals, estimate, notes }) {
    const table = make("table", {}, make("tr", {}, ...["shot", "asked", "begins", "chunks", "how", "prompt"].map((name) => make("th", { textContent: name, scope: "col" }))));
    for (const { shot, prompt, requested, actual, chunks, transition } of shots) {
      const how = shot === 1 ? "" : transition.kind + (transition.chunks ? ` ${transition.chunks}` : "");
      const cells = [shot, `${requested.second.toFixed(2)} s`, `${actual.second.toFixed(2)} s`, chunks, how, promptText(prompt)];
      table.append(make("tr", {}, ...cells.map((text) => make("td", { textContent: text }))));
    }
    const words = [`${totals.frames} frames, ${totals.seconds.toFixed(1)} s, ${totals.chunks} chunks.`];
    if (estimate) words.push(`About ${span(estimate.seconds)} to render, ${(estimate.film_bytes / 1e6).toFixed(1)} MB (${estimate.basis}).`);
    this.root.querySelector(".rv-check-table").replaceChildren(table, make("p", { className: "rv-hint", textContent: [...words, ...notes].join(" ") }));
  }

  async look() {
    const { data } = await api("").catch(() => ({ data: null }));
    if (!data) return;
    this.root.querySelector("[data-empty]").hidden = data.length > 0;
    const lines = new Map([...this.list.children].map((line) => [line.dataset.id, line]));
    for (const [id, line] of lines) if (!data.some((job) => job.id === id)) line.remove();
    data.forEach((job, i) => {
      const line = lines.get(job.id) || this.line(job);
      if (this.list.children[i] !== line) this.list.insertBefore(line, this.list.children[i] || null);
      this.fill(line, job);
    });
  }

  line(job) {
    const act = (name, icon, label, call) => {
      const button = make("button", { type: "button", ariaLabel: `${label}: ${job.name}`, title: label, onclick: () => this.try(call) });
      button.dataset.name = name;
      setIcon(button, icon);
      return button;
    };
    const turn = (name) => () => api(`/${job.id}/${name}`, {});
    const move = (by) => () => api(`/${job.id}/move`, { to: Math.max(0, this.place(job.id) + by) });
    const line = make(
      "li",
      { className: "rv-card" },
      make("strong"),
      make("div", { className: "rv-picture" }),
      make("progress", { max: 100, ariaLabel: `Progress of ${job.name}` }),
      make("p", { className: "rv-hint" }),
      make("div", { className: "rv-bar" }, act("pause", "pause", "Pause", turn("pause")), act("resume", "play", "Go on", turn("resume")), act("cancel", "stop", "Cancel", turn("cancel")), act("earlier", "up", "Earlier", move(-1)), act("later", "down", "Later", move(1)), act("delete", "close", "Delete", () => api(`/${job.id}`, null, "DELETE"))),
    );
    line.dataset.id = job.id;
    return line;
  }

  place(id) {
    return Number(this.list.querySelector(`[data-id="${id}"]`).dataset.position);
  }

  fill(line, job) {
    const [name, picture, progress, words] = line.children;
    line.dataset.position = job.position ?? 0;
    name.textContent = job.name;
    progress.value = job.progress;
    const said = [job.status.replace("_", " "), `${job.frames_done} of ${job.frames} frames`];
    if (job.status === "in_progress" && job.eta_seconds !== null) said.push(`${span(job.eta_seconds)} left`);
    if (job.fps) said.push(`${job.fps.toFixed(1)} fps`);
    if (job.drift !== null && job.drift !== undefined) said.push(`drift ${job.drift.toFixed(2)}`);
    words.textContent = job.error ? job.error.message : `${said.join(" · ")} · seed ${job.seed}`;
    const may = { pause: ["queued", "in_progress"], resume: ["paused", "failed", "cancelled"], cancel: ["queued", "in_progress", "paused"], earlier: ["queued"], later: ["queued"], delete: ["completed", "failed", "cancelled"] };
    for (const button of line.querySelectorAll("button")) button.hidden = !may[button.dataset.name].includes(job.status);
    const film = `v1/videos/${job.id}/content`;
    if (job.status === "completed" && !picture.querySelector("video")) {
      picture.replaceChildren(make("video", { src: pageUrl(film), controls: true, loop: true, preload: "metadata" }), make("a", { href: pageUrl(film), download: `${job.id}.mp4`, textContent: "Download" }));
    } else if (job.status !== "completed" && job.frames_done && line.dataset.seen !== String(job.frames_done)) {
      line.dataset.seen = job.frames_done;
      const image = picture.querySelector("img") || picture.appendChild(make("img", { alt: `Newest frame of ${job.name}` }));
      image.src = `${pageUrl(film)}?variant=thumbnail&frame=${job.frames_done}`;
    }
  }
}

window.rivuletJobs = (element) => {
  element.innerHTML = facts.jobs_html;
  new JobsTab(element.firstElementChild);
};
