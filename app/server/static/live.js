// The Live tab: every control is a message on the socket, and nothing waits for Gradio.

// `facts` comes from app/server/page.py: rates and sizes, scenes, limits, and the markup of the tabs.

class Live {
  constructor(root) {
    this.root = root;
    this.$ = (id) => root.querySelector(`#rv-${id}`);
    for (const node of root.querySelectorAll("[data-icon]")) setIcon(node, node.dataset.icon);
    this.hello = { fps: 16, prompt: "", chunk_frames: 12 };
    this.screen = new Screen({ canvas: this.$("canvas"), glow: this.$("glow"), fine: this.$("fine") }, {
      ack: (seq) => this.link.send({ type: "ack", seq }),
      onDrawn: (frame) => this.drawn(frame),
    });
    this.receipts = new Receipts(this.$("receipts"), this.screen, (ms) => this.answered(ms));
    this.queue = new Queue(this.$("queue"), this.$("queue-hint"), (message) => this.send(message), (item) => this.put(item.prompt, false, item.transition));
    this.goBack = (begin, prompt) => this.leave(`Back to where “${prompt}” began.`, "rewind", { seconds: Math.max(0.1, (this.screen.last.frame - begin) / this.hello.fps) });
    this.track = new TrackStrip(this.$("track"), this.goBack);
    this.branches = new Branches(this.$("branches"), this.$("undo"), (branch) => this.act("return", { branch }));
    this.figures = new Figures(this.$("metrics"));
    this.saves = new Saves(this.$("saved"));
    this.takes = new TakesStrip(this, this.$("takes"));
    this.link = new Link({
      onFrame: (frame) => this.screen.offer(frame),
      onEvent: (event) => this[`on_${event.type.replaceAll(".", "_")}`]?.(event),
      onState: (state, wait) => this.linkState(state, wait),
    });
    this.advice = new Advice(this);
    if (facts.poster) this.$("waiting").prepend(make("img", { src: facts.poster, alt: "" }));
    this.said = new Said(this.$("prompt"));
    this.words = new Words(this, this.$("prompt"), this.$("echo"));
    this.knows = {};
    this.wire();
    this.restore();
    this.restorer = new Restorer(this);
    this.link.open();
    setInterval(() => this.tick(), 500);
  }

  // Controls -------------------------------------------------------------------------------------------------------

  wire() {
    const { $ } = this;
    const prompt = $("prompt");
    $("say").onsubmit = (event) => {
      event.preventDefault();
      this.say(false);
    };
    $("enqueue").onclick = () => this.say(true);
    prompt.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.say(event.ctrlKey || event.metaKey);
    };
    prompt.onpaste = (event) => this.pasted(event.clipboardData.getData("text/plain"));
    $("pause").onclick = () => this.act(this.state === "paused" ? "resume" : "pause");
    $("stop").onclick = () => (this.state === "stopped" ? this.begin(this.prompt) : this.act("stop"));
    const anew = "The film has begun again.";
    $("reset").onclick = () => this.leave(anew, "reset", { seed: this.locked ? this.seed() : this.dice() });
    $("rewind").onclick = () => this.leave("Back 5 s.", "rewind", { seconds: 5 });
    $("last").onclick = () => this.saves.ask("last", () => this.act("save_last", { seconds: 10 }));
    $("snapshot").onclick = () => this.saves.ask("snapshot", () => this.act("snapshot"));
    $("record").onclick = () => this.record(!this.recording);
    $("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen());
    $("dice").onclick = () => this.leave(anew, "reset", { seed: this.dice() });
    $("seed").onchange = () => $("seed").checkValidity() && $("seed").value !== "" && this.leave(anew, "reset", { seed: this.seed() });
    $("role").onclick = () => this.act("take_over");
    $("lock").onclick = () => this.lock(!this.locked);
    $("mix").onclick = () => this.mix();
    $("surprise").onclick = () => this.put(this.surprise());
    for (const [name, text] of facts.scenes) {
      $("scenes").append(make("button", { type: "button", textContent: name, title: text, onclick: () => this.put(text) }));
    }
    for (const radio of this.root.querySelectorAll('[name="rv-kind"]')) radio.onchange = () => this.transitionChanged();
    this.slider("chunks", (n) => `${((n * this.hello.chunk_frames) / this.hello.fps).toFixed(1)} s`, () => this.transitionChanged());
    this.slider("weight", (n) => `${n} %`, () => $("mixing").dataset.live === "on" && this.mix());
    const sliders = facts.controls.filter(({ slider }) => slider);
    for (const place of this.root.querySelectorAll("[data-controls]")) {
      place.replaceWith(...sliders.filter(({ card }) => card === place.dataset.controls).flatMap(settingSlider));
    }
    for (const { wire } of sliders) {
      this.slider(wire, String, (value) => this.set({ [wire]: value }), wire === "steps" ? (steps) => this.advice.trade(steps) : undefined);
    }
    $("enlarging").hidden = !this.screen.enlarger.possible;
    $("enlarge").checked = this.screen.enlarger.on;
    $("enlarge").onchange = () => this.screen.enlarger.choose($("enlarge").checked);
    $("refresh").onchange = () => this.set({ refresh_on_drift: $("refresh").checked ? facts.drift_limit : 0 });
    for (const button of this.root.querySelectorAll("[data-copy]")) {
      button.onclick = () => {
        $(button.dataset.copy).select();
        navigator.clipboard?.writeText($(button.dataset.copy).value);
        setIcon(button, "check");
        setTimeout(() => setIcon(button, "copy"), 1500);
      };
    }
    $("builtin").hidden = !facts.builtin || localStorage.getItem("rivulet.builtin") === "seen";
    $("builtin").querySelector("button").onclick = () => {
      localStorage.setItem("rivulet.builtin", "seen");
      $("builtin").hidden = true;
      prompt.focus();
    };
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.target.closest?.("input, textarea, select") && this.root.offsetParent) {
        event.preventDefault();
        prompt.focus();
      }
    });
  }

  slider(name, text, act, also = () => {}) {
    const input = this.$(name);
    const show = () => {
      input.parentElement.querySelector("output").textContent = text(input.valueAsNumber);
      also(input.valueAsNumber);
    };
    input.oninput = show;
    input.onchange = () => act(input.valueAsNumber);
    show();
  }

  restore() {
    const { kind = facts.transition, chunks = 4, locked = true, set = {} } = memory.all();
    const radio = this.root.querySelector(`[name="rv-kind"][value="${kind}"]`) || this.root.querySelector('[name="rv-kind"]');
    radio.checked = true;
    this.$("chunks").value = chunks;
    this.$("chunks").oninput();
    this.showSettings({ ...Object.fromEntries(facts.controls.map(({ wire, value }) => [wire, value])), ...set });
    this.lock(locked);
    this.transitionChanged();
  }

  showSettings(values) {
    for (const { wire, slider } of facts.controls) {
      if (!slider || values[wire] === undefined) continue;
      const [input, value] = [this.$(wire), values[wire]];
      input.parentElement.hidden = this.$(`${wire}-hint`).hidden = value === null; // this preset has no such memory
      input.max = Math.max(input.max, value);
      input.value = value;
      input.oninput();
    }
    if (values.steps) this.steps = values.steps;
    this.$("refresh").checked = values.refresh_on_drift > 0;
  }

  transition() {
    const kind = this.root.querySelector('[name="rv-kind"]:checked').value;
    return { kind, chunks: kind === "soft" ? this.$("chunks").valueAsNumber : 0 };
  }

  transitionChanged() {
    const { kind } = this.transition();
    this.$("soft").hidden = kind !== "soft";
    memory.keep({ kind, chunks: this.$("chunks").valueAsNumber });
  }

  seed() {
    return this.$("seed").valueAsNumber;
  }

  // Drawn here rather than by the server, so that the box always shows the seed of the film.
  dice() {
    this.$("seed").value = Math.floor(Math.random() * 2 ** 32);
    return this.seed();
  }

  lock(on) {
    this.locked = on;
    const button = this.$("lock");
    button.setAttribute("aria-pressed", on);
    setIcon(button, on ? "lock" : "unlock");
    memory.keep({ locked: on });
  }

  // Sending --------------------------------------------------------------------------------------------------------

  send(message) {
    if (this.link.send(message)) return true;
    this.problem({ message: "There is no connection to the server.", action: "Reconnect now", act: () => this.link.again() });
    return false;
  }

  act(action, more = {}) {
    if (!this.send({ type: "session.do", action, ...more })) return false;
    const state = { pause: "paused", resume: "playing", stop: "stopped", reset: "playing" }[action];
    if (state) this.expect(state);
    return true;
  }

  // What takes the film elsewhere, with a way back.
  leave(said, action, more) {
    this.branches.leaves(said);
    this.act(action, more);
  }

  // Shown at once: a button that goes on saying "Go on" after it was pressed is pressed again, and pauses.
  expect(state) {
    this.showState(state);
    this.stateAsked = performance.now();
  }

  set(change) {
    if (!this.send({ type: "session.set", ...change })) return;
    memory.keep({ set: { ...memory.all().set, ...change } });
    this.showSettings({ refresh_on_drift: Number(this.$("refresh").checked), ...change });
  }

  say(queue) {
    const text = this.$("prompt").value.trim();
    if (!text) return;
    if (!this.put(text, queue)) return;
    this.said.push(text);
    this.$("prompt").value = "";
    this.words.clear();
  }

  put(prompt, queue = false, transition = this.transition()) {
    const id = newId();
    const message = { type: "session.prompt_update", id, prompt, transition, queue };
    if (queue) message.hold = 8;
    if (!this.send(message)) return false;
    this.$("unknown").hidden = true;
    this.receipts.sent(id, prompt, transition);
    if (queue) this.receipts.queued(id);
    else memory.keep({ prompt });
    return true;
  }

  // A change that nobody asked for, while the page performs: clean, and not a wish that a reload repeats.
  perform(prompt) {
    const id = newId();
    if (this.send({ type: "session.prompt_update", id, prompt, transition: { kind: facts.transition === "soft" ? "recache" : facts.transition, chunks: 0 }, queue: false })) this.receipts.sent(id, prompt);
  }

  // Several lines in the box are one prompt; what reads as a script is offered as one.
  async pasted(text) {
    if (!this.renders || text.trim().split("\n").length < 2) return;
    const script_kind = guessKind(text);
    const plan = await api("/plan", { script: text, script_kind }).catch(() => null);
    if (!plan || plan.shots.length < 2) return;
    const act = async () => {
      this.$("prompt").value = "";
      openTab("Long render");
      await this.renders.fill({ script: text, script_kind }, `Read as ${plan.written_as}.`);
    };
    this.problem({ message: `What you pasted reads as ${plan.written_as}: ${plan.shots.length} shots.`, action: "Render it", act, good: true });
  }

  begin(prompt) {
    this.branches.leaves("The film has begun again.");
    if (this.send({ type: "session.start", prompt, seed: this.locked ? this.seed() : this.dice() })) this.expect("playing");
  }

  mix() {
    const weight = this.$("weight").valueAsNumber / 100;
    const [a, b] = [this.$("mix-a").value.trim(), this.$("mix-b").value.trim()];
    if (!a || !b) {
      this.problem({ message: "A mix needs two prompts.", action: "Write both", act: () => this.$(a ? "mix-b" : "mix-a").focus() });
      return;
    }
    this.$("mixing").dataset.live = "on"; // from now on the slider itself mixes
    this.put([[a, 1 - weight], [b, weight]]);
  }

  surprise() {
    const pick = (list) => list[Math.floor(Math.random() * list.length)];
    const words = facts.words ? facts.words.map(pick).join(" ") : pick(facts.scenes)[1];
    return /^[aeiou]/.test(words) && facts.words ? `an ${words}` : facts.words ? `a ${words}` : words;
  }

  showSeed(seed) {
    this.$("seed").value = seed;
  }

  record(on) {
    if (!on) this.saves.ask("recording", () => this.act("record_stop"));
    else this.act("record");
    this.recordAsked = performance.now();
    this.showRecording(on);
  }

  showRecording(on) {
    if (on && !this.recording) this.recordedFrom = performance.now();
    this.recording = on;
    this.$("record").setAttribute("aria-pressed", on);
    this.tellRecording();
  }

  tellRecording() {
    const words = this.recording ? `Recording ${clock((performance.now() - this.recordedFrom) / 1000)}` : "Record";
    const label = this.$("record").querySelector("span");
    if (label.textContent !== words) label.textContent = words;
  }

  // What the server says -------------------------------------------------------------------------------------------

  on_hello(event) {
    this.hello = event;
    this.receipts.chunkFrames = event.chunk_frames;
    this.branches.branch = null;
    this.screen.forget();
    this.screen.size(event.width, event.height);
    this.problem(null);
    const before = memory.all();
    if (event.role === "driver" && !this.link.invited) {
      memory.keep({ session: event.session, token: event.token });
      ownFilms.keep(event.session, event.token);
      const known = before.session === event.session && event.settings; // the server has kept them
      if (!known && before.set && Object.keys(before.set).length) this.link.send({ type: "session.set", ...before.set });
      if (before.session && before.session !== event.session && before.prompt) this.put(before.prompt);
    }
    this.knows = event.knows ?? {};
    this.words.knows(this.knows);
    if (event.settings) this.showSettings(event.settings);
    this.showSeed(event.seed);
    const { session, token, view_token: view } = event;
    for (const [name, path, key] of [["mjpeg", "live.mjpg", view], ["watch", ".", view], ["share", ".", token]]) {
      this.$(name).value = key && Object.assign(pageUrl(path), { search: new URLSearchParams({ session, token: key }) });
    }
    this.mayDrive = Boolean(token);
    if (!this.$("mix-a").value) this.$("mix-a").value = promptText(event.prompt);
    this.showPrompt(event.prompt);
    this.queue.show(event.queue);
    this.on_session_role(event);
    this.showState(event.paused ? "paused" : "playing");
  }

  on_session_role({ role, asked, seconds }) {
    this.driver = role === "driver";
    this.root.dataset.role = role;
    this.track.goBack = this.driver ? this.goBack : null;
    this.track.key = "";
    this.$("role").hidden = this.driver;
    for (const control of this.root.querySelectorAll("button, input, textarea")) {
      if (!control.closest(".rv-banner, .rv-note") && !("free" in control.dataset)) control.disabled = !this.driver;
    }
    const may = this.mayDrive && !asked;
    this.$("role").disabled = !may;
    this.$("role").textContent = asked ? "You asked for the controls" : may ? "You watch: ask for the controls" : "You watch";
    if (asked && this.driver) {
      const left = Math.round(seconds);
      this.problem({ message: `A viewer asks for the controls and gets them in ${left} s.`, action: "Keep them", act: () => this.act("keep") });
    } else if (this.roleBanner) this.problem(null);
    this.roleBanner = asked;
  }

  on_session_prompt_update_accepted(event) {
    const prompt = this.receipts.accepted(event);
    if (prompt && Object.keys(event.unknown ?? {}).length) this.advice.hint(prompt, event.unknown, event.instead);
  }

  on_session_words(event) {
    this.words.told(event);
  }

  on_session_prompt_update_applied(event) {
    this.receipts.applied(event);
  }

  on_session_prompt_update_overtaken(event) {
    this.receipts.overtaken(event);
  }

  // The film goes on either way; what stands here stays until it is saved again or somebody closes it.
  on_session_saving({ on, message }) {
    if (on && !this.unsaved) return;
    this.unsaved = !on;
    this.problem({ message: on ? message : `${message} The film goes on, but is not being saved.`, action: "", good: on });
  }

  on_session_queue({ items }) {
    this.queue.show(items);
  }

  on_session_saved({ kind, name, url, id }) {
    if (kind === "audition") {
      this.queue.audition(id, pageUrl(url));
      return;
    }
    if (kind === "take") {
      this.takes.show(id, url);
      return;
    }
    this.saves.done(kind, name, pageUrl(url));
  }

  on_track({ spans, branch, branches }) {
    this.branches.show({ branch, branches });
    const frame = this.screen.last?.frame ?? 0;
    const begins = spans.filter(({ kind }) => kind === "queued").map(({ begin }) => (begin - frame) / this.hello.fps);
    this.receipts.wait(Object.fromEntries(this.queue.items.slice(0, begins.length).map(({ id }, i) => [id, begins[i]])));
    // A setting that changed begins a span of its own; what is shown there is one prompt all the same.
    const prompts = spans.filter(({ kind }) => kind !== "refresh");
    this.track.marks = spans.filter(({ kind }) => kind === "refresh");
    this.spans = prompts.reduce((all, span) => {
      const last = all.at(-1);
      const same = last && last.prompt === span.prompt && ![last.kind, span.kind].some((kind) => kind === "transition" || kind === "queued");
      return same ? [...all.slice(0, -1), { ...span, begin: last.begin }] : [...all, span];
    }, []);
    const now = spans.findLast(({ kind }) => kind === "now") ?? spans.findLast(({ kind }) => kind === "transition");
    if (now) this.showPrompt(now.prompt);
  }

  on_metrics(event) {
    this.metrics = event;
    const older = (asked) => performance.now() - asked < 1000; // what was on its way may not know it yet
    if (!older(this.stateAsked)) this.showState(event.state);
    if (!older(this.recordAsked)) this.showRecording(event.recording);
    this.advice.pacing(event);
    if (document.activeElement !== this.$("steps")) this.advice.trade(this.$("steps").valueAsNumber);
    this.figures.set("chunk", event.chunk_ms === null ? "–" : `${Math.round(event.chunk_ms)} / ${Math.round((1000 * this.hello.chunk_frames) / this.hello.fps)} ms`, event.chunk_ms > (1000 * this.hello.chunk_frames) / this.hello.fps);
    this.figures.drift(event.drift, facts.drift_limit);
    this.figures.set("reused", event.reused === null ? "–" : `${Math.round(100 * event.reused)} %`);
    this.figures.set("memory", event.memory ? `${(event.memory / 2 ** 30).toFixed(2)} GiB` : "–");
    this.figures.set("viewers", String(event.viewers));
  }

  on_error({ message, action, code, id }) {
    if (code === "token") return; // followed by the end of the session
    if (code === "gone") {
      this.lostFilm = message; // likewise
      return;
    }
    if (code === "busy") {
      this.waiting(`${message} ${action}`);
      return;
    }
    if (code === "save" || code === "empty" || code === "recording") this.saves.failed();
    if (code === "slow") return; // the lasting state is shown by `pacing`
    if (code === "audition") {
      this.queue.audition(null, null);
      this.takes.close();
      this.problem({ message, action: this.state === "playing" ? "Pause" : "Close", act: () => this.state === "playing" && this.act("pause") });
      return;
    }
    if (id || code === "refused" || code === "message") this.receipts.refused("refused", id);
    this.problem({ message: `${message} ${action}`.trim(), action: "" });
  }

  on_session_done({ reason }) {
    this.link.over = true; // the server closes the socket and means it
    if (reason === "token" && !this.link.invited) {
      this.renew(); // another server, or one with another secret: this tab's session is none of its own
      return;
    }
    this.showState("stopped");
    if (reason === "replaced") {
      this.problem({ message: "This film is played in another window now.", action: "Play it here", act: () => this.link.open() });
      return;
    }
    if (reason === "gone") {
      // The token stays where it is until somebody decides: the film may be back when its disk or its model is.
      this.problem({ message: this.lostFilm, action: "Begin another film", act: () => (this.link.invited ? location.assign(pageUrl(".")) : this.renew()) });
      return;
    }
    const why = reason === "token" ? "This link opens no film of this server." : `The film is over: ${reason}.`;
    this.problem({ message: why, action: "Start one", act: () => (this.link.invited ? location.assign(pageUrl(".")) : this.renew()) });
  }

  renew() {
    memory.keep({ session: null, token: null });
    this.link.close();
    this.link.open();
  }

  // Showing --------------------------------------------------------------------------------------------------------

  drawn(frame) {
    if (!this.$("waiting").hidden) {
      this.$("waiting").hidden = true;
      this.showState(this.state);
      performance.mark("rivulet-first-frame");
      if (this.restorer.fromBeside()) return;
      if (facts.perform && !memory.all().prompt) this.performer ??= new Performer(this, facts.perform);
    }
    this.receipts.drawn(frame);
  }

  answered(ms) {
    this.answer = ms;
    this.figures.set("prompt", `${ms} ms`);
  }

  // All figures in one line; the rest is behind a click.
  glance() {
    const fps = `${Math.round(this.screen.fps())} fps`;
    const text = this.state !== "playing" ? "" : this.answer ? `${fps}, answers in ${(this.answer / 1000).toFixed(1)} s` : fps;
    if (this.$("glance").textContent !== text) this.$("glance").textContent = text || "Figures";
  }

  tick() {
    const { last } = this.screen;
    this.glance();
    this.receipts.tick();
    this.tellRecording();
    this.figures.set("fps", `${this.screen.fps().toFixed(1)} / ${this.hello.fps}`, this.state === "playing" && last && this.screen.fps() < 0.8 * this.hello.fps);
    this.figures.set("dropped", String((this.metrics?.dropped ?? 0) + this.screen.skipped));
    if (!last) return;
    const seconds = Math.floor(last.t);
    const clock = `${String(Math.floor(seconds / 60)).padStart(2, "0")}:${String(seconds % 60).padStart(2, "0")}`;
    this.figures.set("where", `${clock}  ${last.frame}`);
    this.track.show(this.spans, this.queue.items, this.hello.fps, last.frame);
  }

  showPrompt(prompt) {
    this.prompt = prompt;
    const text = promptText(prompt);
    if (this.$("caption").textContent !== text) this.$("caption").textContent = text;
    this.$("canvas").setAttribute("aria-label", `The film: ${text}`);
  }

  showState(state) {
    this.state = state;
    this.receipts.tick(state === "paused");
    const node = this.$("state");
    node.dataset.state = state;
    node.textContent = { playing: this.screen.last ? "Live" : "Opening", paused: "Paused", parked: "Parked", stopped: "Stopped", opening: "Opening", lost: "No connection" }[state];
    const paused = state === "paused";
    const [pause, stop] = [this.$("pause"), this.$("stop")];
    if (pause.getAttribute("aria-pressed") !== String(paused)) {
      pause.setAttribute("aria-pressed", paused);
      setIcon(pause, paused ? "play" : "pause");
      pause.querySelector("span").textContent = paused ? "Go on" : "Pause";
    }
    const word = state === "stopped" ? "Start" : "Stop";
    if (stop.querySelector("span").textContent !== word) {
      setIcon(stop, word === "Start" ? "play" : "stop");
      stop.querySelector("span").textContent = word;
    }
  }

  linkState(state, wait) {
    if (state === "opening" && !this.screen.last) return;
    this.showState(state);
    if (state === "lost") {
      this.problem({ message: `The connection to the server is lost; the next try is in ${Math.max(1, Math.round(wait / 1000))} s.`, action: "Try now", act: () => this.link.again() });
    }
  }

  waiting(text) {
    this.$("waiting").lastChild.textContent = text;
    this.$("waiting").hidden = false;
  }

  // One sentence, one action.
  problem(told) {
    const banner = this.$("problem");
    banner.hidden = !told;
    if (!told) return;
    banner.dataset.good = Boolean(told.good);
    const [text, button] = banner.children;
    text.textContent = told.message;
    button.textContent = told.action || "Close";
    button.onclick = () => {
      banner.hidden = true;
      told.act?.();
    };
  }
}
