// Four takes: the prompt in force under four other seeds, as clips side by side; one of them is gone on from.

class TakesStrip {
  constructor(live, section) {
    Object.assign(this, { live, section, list: section.querySelector("ol") });
    live.$("takes-ask").onclick = () => this.ask();
    live.$("takes-close").onclick = () => this.close();
  }

  ask() {
    if (!this.live.act("takes")) return;
    this.prompt = this.live.prompt;
    this.section.hidden = false;
    this.list.replaceChildren(...Array.from({ length: 4 }, () => make("li", {}, make("p", { className: "rv-hint rv-busy", textContent: "filming …" }))));
    this.section.scrollIntoView({ block: "nearest" });
  }

  // A clip has come; its seed is its name.
  show(seed, url) {
    const place = [...this.list.children].find((item) => !item.dataset.seed);
    if (!place) return;
    place.dataset.seed = seed;
    const video = make("video", { src: pageUrl(url), muted: true, loop: true, autoplay: true, playsInline: true, ariaLabel: `Take with seed ${seed}` });
    const pick = make("button", { type: "button", textContent: "Go on from this", ariaLabel: `Go on from the take with seed ${seed}`, onclick: () => this.pick(Number(seed)) });
    place.replaceChildren(video, pick);
  }

  pick(seed) {
    const { live } = this;
    live.branches.leaves("Another take plays.");
    if (!live.send({ type: "session.start", prompt: this.prompt, seed })) return;
    live.expect("playing");
    live.showSeed(seed);
    this.close();
  }

  close() {
    this.section.hidden = true;
    this.list.replaceChildren();
  }
}
