// A film or a log of Rivulet that is dropped on the page, or chosen, brings back what made it; a picture begins a film.

const DROP_BYTES = 16 * 2 ** 20; // our films have their index at the front
const BESIDE = "rivulet.beside."; // what another window of this page shall open

class Restorer {
  constructor(live) {
    this.live = live;
    this.over = make("div", { className: "rv-drop", hidden: true }, make("p", { textContent: "Drop a film or a session.jsonl of Rivulet: its prompts, seed and settings come back. A picture begins the film anew; any other video is made over." }));
    live.root.append(this.over);
    const files = (event) => event.dataTransfer?.types.includes("Files");
    const show = (on) => (event) => {
      if (!files(event)) return;
      event.preventDefault();
      this.over.hidden = !on;
    };
    addEventListener("dragenter", show(true));
    addEventListener("dragover", show(true));
    addEventListener("dragleave", (event) => event.relatedTarget || show(false)(event));
    addEventListener("drop", (event) => {
      show(false)(event);
      if (files(event) && event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
    });
    const chosen = live.$("open");
    chosen.onchange = () => {
      if (chosen.files.length) this.take(chosen.files[0]);
      chosen.value = "";
    };
  }

  async take(file) {
    const { live } = this;
    const renders = live.renders?.root.offsetParent ? live.renders : null;
    const say = (message) => (renders ? renders.banner.say(message) : live.problem({ message }));
    if (file.type.startsWith("image/")) {
      await (renders ? renders.try(() => renders.begin(file)) : live.beginner.begin(file));
      return;
    }
    try {
      const told = await ask("v1/restore", { method: "POST", body: file.slice(0, DROP_BYTES) });
      const { shots, request, seconds, notes } = told;
      const what = `${file.name}: ${shots.length} prompt${shots.length === 1 ? "" : "s"}, ${seconds.toFixed(1)} s, seed ${request.seed}.`;
      if (renders) await renders.fill(request, [what, "Change what you like and render it.", ...notes].join(" "));
      else await this.offer(told, what);
    } catch (error) {
      if (renders && file.type.startsWith("video/")) await renders.try(() => renders.begin(file)); // none of ours: one to go on from
      else if (!renders && live.driver && file.type.startsWith("video/")) await live.camera.file(file, error.message); // one to be made over
      else say(error.message);
    }
  }

  // It would take the place of the film that plays: that is asked first.
  async offer(told, what) {
    const { live } = this;
    const answers = [
      ...(live.driver ? [["here", "Play it here", true]] : []),
      ["beside", "Open beside", !live.driver],
      ...(live.renders ? [["render", "Render it"]] : []),
    ];
    const answer = await askPerson(live.root, `${what} ${live.driver ? "Played here it takes the place of this film, which stays as a branch." : ""}`.trim(), answers);
    if (answer === "here") this.play(told, what);
    if (answer === "beside") this.beside(told, what);
    if (answer === "render") {
      openTab("Long render");
      await live.renders.fill(told.request, what);
    }
  }

  // A window of its own, with a film of its own.
  beside(told, what) {
    const name = newId();
    try {
      localStorage.setItem(BESIDE + name, JSON.stringify({ told, what }));
    } catch {
      this.live.problem({ message: "This browser keeps nothing for another window. Open this page there and drop the film on it." });
      return;
    }
    window.open(Object.assign(pageUrl("."), { search: new URLSearchParams({ beside: name }) }), "_blank", "noopener");
  }

  fromBeside() {
    const name = new URLSearchParams(location.search).get("beside");
    const kept = name && localStorage.getItem(BESIDE + name);
    if (!kept) return false;
    localStorage.removeItem(BESIDE + name);
    history.replaceState(null, "", pageUrl("."));
    const { told, what } = JSON.parse(kept);
    this.play(told, what);
    return true;
  }

  // The same prompts at the same moments with the same seed, from the film's beginning on.
  play({ shots, request, notes }, what) {
    const { live } = this;
    if (!live.driver) {
      live.problem({ message: "Only who drives this film can bring another one back. Ask for the controls first." });
      return;
    }
    const settings = facts.controls.map(({ name, wire }) => [wire, request.settings[name]]).filter(([wire, value]) => wire && value !== undefined && value !== null);
    if (settings.length) live.set(Object.fromEntries(settings));
    const hold = (i) => (shots[i + 1] ? Math.max(0.1, Number((shots[i + 1].at - shots[i].at).toFixed(3))) : null);
    const [{ prompt }, ...others] = shots;
    live.branches.leaves(`${what.split(":")[0]} plays.`);
    live.send({ type: "session.start", prompt, seed: request.seed });
    if (others.length) live.send({ type: "session.prompt_update", id: newId(), prompt, transition: { kind: "keep", chunks: 0 }, hold: hold(0) });
    live.send({ type: "session.queue", items: others.slice(0, 32).map((shot, i) => ({ id: newId(), prompt: shot.prompt, transition: shot.transition, hold: hold(i + 1) })) });
    live.showSeed(request.seed);
    const { preset } = live.hello;
    const other = request.preset && request.preset !== preset ? [`It was made with ${request.preset}; here ${preset} plays it.`] : [];
    const many = shots.length > 33 ? ["Its first 33 prompts are here; Long render takes all."] : [];
    live.problem({ message: [what, "It plays again from its beginning.", ...other, ...many, ...notes].join(" "), good: true });
  }
}
