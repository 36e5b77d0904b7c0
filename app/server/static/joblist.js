// The list of render jobs: what each shows so far, how long it still takes, and what may be done with it.

const JOB_STATES = { queued: "waiting", in_progress: "rendering", paused: "paused", completed: "done", failed: "failed", cancelled: "cancelled" };
const JOB_MAY = {
  pause: ["queued", "in_progress"],
  resume: ["paused", "failed", "cancelled"],
  earlier: ["queued"],
  later: ["queued"],
  cancel: ["queued", "in_progress", "paused"],
  again: ["queued", "in_progress", "paused", "completed", "failed", "cancelled"],
  download: ["completed", "paused", "failed", "cancelled"],
  delete: ["completed", "failed", "cancelled"],
};

class JobList {
  constructor(root, banner, onAgain) {
    Object.assign(this, { root, banner, onAgain, list: root.querySelector(".rv-job-list"), lines: new Map(), player: new FilmPlayer(root, onAgain) });
    setInterval(() => root.offsetParent && !document.hidden && this.look(), POLL);
    this.look();
  }

  async look() {
    if (this.looking) return;
    this.looking = true;
    const told = await api("").catch(() => null);
    this.looking = false;
    if (!told) return;
    const data = told.data.filter((job) => !job.binned);
    this.root.querySelector("[data-empty]").hidden = data.length > 0;
    for (const [id, line] of this.lines) {
      if (data.some((job) => job.id === id)) continue;
      line.node.remove();
      this.lines.delete(id);
    }
    // What is at work first, then the queue in its order, then the rest, the newest first.
    const rank = ({ status, position }) => (status === "in_progress" ? -1 : position ?? Infinity);
    const order = data.toSorted((a, b) => rank(a) - rank(b) || 0);
    const queued = order.filter(({ status }) => status === "queued").length;
    order.forEach((job, i) => {
      if (!this.lines.has(job.id)) this.lines.set(job.id, new JobLine(this, job));
      const line = this.lines.get(job.id);
      if (this.list.children[i] !== line.node) this.list.insertBefore(line.node, this.list.children[i] || null);
      line.show(job, queued);
    });
  }

  async act(call) {
    this.banner.say(null);
    try {
      await call();
    } catch (error) {
      this.banner.say(error.message);
    }
    await this.look();
  }
}

class JobLine {
  constructor(list, job) {
    Object.assign(this, { list, data: [], id: job.id });
    this.film = `v1/videos/${job.id}/content`;
    this.strip = new ChunkStrip();
    this.picture = make("div", { className: "rv-picture" });
    this.name = make("strong");
    this.state = make("span", { className: "rv-chip" });
    this.words = make("p", { className: "rv-hint" });
    const turn = (name) => () => api(`/${this.id}/${name}`, {});
    const move = (by) => () => api(`/${this.id}/move`, { to: Math.max(0, this.job.position + by) });
    this.buttons = {
      pause: this.button("pause", "Pause", "Pause after the chunk in hand", turn("pause")),
      resume: this.button("play", "Resume", "Go on where it was", turn("resume")),
      earlier: this.button("up", "", "Earlier", move(-1)),
      later: this.button("down", "", "Later", move(1)),
      cancel: this.button("stop", "Cancel", "End it; what there is of the film stays, and Resume goes on with it", turn("cancel")),
      again: this.button("copy", "Edit as new", "Its script and settings into the form above", async () => list.onAgain(await api(`/${this.id}`))),
      download: make("a", { className: "rv-button", href: pageUrl(this.film), download: "" }, make("span", { textContent: "Download" })),
      delete: this.button("close", "Delete", "Put its film into the gallery's bin; a job without one is gone", () => this.remove()),
    };
    setIcon(this.buttons.download, "save");
    this.buttons.download.ariaLabel = `Download: ${job.name}`;
    this.node = make("li", { className: "rv-card rv-job" }, this.picture, make("div", { className: "rv-main" }, make("div", { className: "rv-title" }, this.name, this.state), this.strip.node, this.words, make("div", { className: "rv-bar" }, ...Object.values(this.buttons))));
  }

  button(name, text, title, call) {
    const button = make("button", { type: "button", title, ariaLabel: `${text || title}: `, onclick: () => this.list.act(call) });
    if (text) button.append(make("span", { textContent: text }));
    else button.className = "rv-icon-only";
    setIcon(button, name);
    return button;
  }

  // What there is of a film goes into the gallery's bin; of a job without one nothing is lost, and it is asked twice.
  async remove() {
    if (this.job.frames_done) {
      const mark = (binned) => ask("v1/gallery/mark", { method: "POST", body: JSON.stringify({ item: `film:${this.id}`, binned }) });
      await mark(true);
      return this.list.banner.say(`“${this.job.name}” is in the gallery's bin.`, "Undo", () => this.list.act(() => mark(false)));
    }
    const { delete: button } = this.buttons;
    if (button.dataset.sure) return api(`/${this.id}`, null, "DELETE");
    button.dataset.sure = "yes";
    button.lastChild.textContent = "Really delete?";
    setTimeout(() => {
      delete button.dataset.sure;
      button.lastChild.textContent = "Delete";
    }, 4000);
  }

  show(job, queued) {
    const grew = job.frames_done !== this.job?.frames_done || job.status !== this.job?.status;
    this.job = job;
    this.node.dataset.id = job.id;
    this.node.dataset.status = job.status;
    this.name.textContent = job.name;
    this.state.textContent = JOB_STATES[job.status];
    this.buttons.download.lastChild.textContent = job.status === "completed" ? "Download" : "Download so far";
    for (const [name, button] of Object.entries(this.buttons)) {
      button.hidden = !JOB_MAY[name].includes(job.status) || (name === "download" && !job.frames_done);
      button.ariaLabel = `${button.textContent || button.title}: ${job.name}`;
    }
    this.buttons.earlier.disabled = job.position === 0;
    this.buttons.later.disabled = job.position === queued - 1;
    this.words.textContent = [job.error?.message, this.facts(job)].filter(Boolean).join(" ");
    this.words.dataset.bad = Boolean(job.error);
    this.preview(job);
    if (grew && job.chunks) this.chunks();
  }

  facts(job) {
    const said = [];
    if (job.status === "completed") said.push(`${job.seconds.toFixed(1)} s, ${job.frames} frames`, bytesText(job.bytes));
    else said.push(`${job.frames_done} of ${job.frames} frames, ${Math.floor(job.progress)} %`);
    if (job.status === "in_progress" && job.eta_seconds !== null) {
      const at = new Date(Date.now() + 1000 * job.eta_seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      said.push(`${span(job.eta_seconds)} left, done about ${at}`);
    }
    if (job.status === "queued") said.push(job.position === 0 ? "next" : `${job.position} before it`);
    if (job.fps) said.push(`${job.fps.toFixed(1)} fps`);
    if (job.drift !== null) said.push(`drift ${job.drift.toFixed(2)}`);
    return [...said, job.preset, job.size, `seed ${job.seed}`].join(" · ");
  }

  // A picture of it, and a click that opens it large: the newest frame while it grows, then one of its middle.
  preview(job) {
    const whole = job.status === "completed";
    const seen = `${job.frames_done} ${whole}`;
    if (!job.frames_done || this.seen === seen) return;
    this.seen = seen;
    if (!this.picture.firstChild) {
      const watch = make("button", { type: "button", onclick: () => this.list.player.open(this.job) }, make("span"));
      setIcon(watch, "play");
      this.picture.append(make("img", { alt: "" }), watch);
    }
    const [image, watch] = this.picture.children;
    watch.lastChild.textContent = whole ? "Watch" : "So far";
    watch.ariaLabel = `${whole ? "Watch" : "Watch what there is so far"}: ${job.name}`;
    image.src = `${pageUrl(this.film)}?variant=${whole ? "poster" : "thumbnail"}&frame=${job.frames_done}`;
  }

  async chunks() {
    const told = await api(`/${this.id}/chunks?since=${this.data.length}`).catch(() => null);
    if (!told) return;
    // A resumed render has made its last chunks anew: they come again, and have the same pictures.
    this.data = [...this.data.slice(0, told.data[0]?.chunk ?? this.data.length), ...told.data];
    this.strip.show({ ...told, data: this.data, working: this.job.status === "in_progress" });
  }
}
