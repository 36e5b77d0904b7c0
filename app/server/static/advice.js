// What the page says of itself: what a setting costs here, that the machine is too slow, which words are unknown.

class Advice {
  constructor(live) {
    this.live = live;
  }

  // What so many steps cost here, by the chunks that were made last.
  trade(steps) {
    const { chunk_ms: ms } = this.live.metrics ?? {};
    const budget = (1000 * this.live.hello.chunk_frames) / this.live.hello.fps;
    const takes = ms && this.live.steps ? (ms * steps) / this.live.steps : null;
    const verdict = takes === null ? "" : ` About ${Math.round(takes)} ms a chunk of ${Math.round(budget)}: ${takes <= budget ? "this machine keeps up" : `${Math.max(1, Math.round((this.live.hello.fps * budget) / takes))} of ${this.live.hello.fps} frames a second`}.`;
    this.live.$("steps-hint").textContent = `Fewer steps: the film answers sooner and has less detail.${verdict}`;
  }

  // Slower than the film for some seconds: one sentence, one action.
  pacing({ chunk_ms: ms, rate = null, state }) {
    const { fps, chunk_frames: frames } = this.live.hello;
    const speed = rate ?? (ms ? (1000 * frames) / fps / ms : 1);
    this.late = state === "playing" && speed < 0.95 ? (this.late ?? 0) + 1 : 0;
    const fewer = Math.max(1, Math.floor(this.live.steps * speed * 0.95));
    const show = this.late > 8 && !this.unhurried;
    this.live.$("slow").hidden = !show;
    if (!show) return;
    const [text, button, close] = this.live.$("slow").children;
    const words = `This machine makes ${Math.round(fps * speed)} of the film's ${fps} frames a second.`;
    if (text.textContent !== words) text.textContent = words;
    button.hidden = !this.live.driver || fewer >= this.live.steps;
    button.textContent = `Take ${fewer} step${fewer === 1 ? "" : "s"}`;
    button.onclick = () => this.live.set({ steps: fewer });
    close.onclick = () => {
      this.unhurried = true;
      this.live.$("slow").hidden = true;
    };
  }

  // A prompt with words that the model does not know: what it would understand instead, by meaning; or what there is.
  hint(prompt, unknown, instead) {
    const { live } = this;
    const line = live.$("unknown");
    line.replaceChildren();
    line.hidden = !Object.keys(unknown).length;
    const button = (text, said, title = `Say “${said}”`) => make("button", { type: "button", textContent: text, title, onclick: () => live.put(said) });
    for (const [word, near] of Object.entries(unknown)) {
      const replaced = (text, other) => text.replace(new RegExp(`(?<![\\p{L}\\p{N}])${word.replace(/[$()*+.?[\\\]^{|}]/g, "\\$&")}(?![\\p{L}\\p{N}])`, "giu"), other);
      const put = (other) => (typeof prompt === "string" ? replaced(prompt, other) : prompt.map(([text, weight]) => [replaced(text, other), weight]));
      line.append(make("span", { textContent: near.length ? `“${word}”:` : `“${word}” is not in its world.` }));
      // A place or a motion of several words stands in the whole sentence below; here it would stand beside the old ones.
      line.append(...near.filter((other) => !other.includes(" ")).map((other) => button(other, put(other), `Say ${other} instead`)));
    }
    if (instead && instead !== prompt) line.append(button(`Say “${instead}”`, instead, "In words that the model knows"));
    if (Object.values(unknown).some((near) => !near.length)) this.offer(line);
  }

  // What the model knows, and chips that build a sentence of it.
  offer(line) {
    const { shapes = [], colours = [], scenes = [] } = this.live.knows;
    if (!shapes.length) return;
    const count = (words, name) => `${words.length} ${name}`;
    line.append(make("span", { textContent: `It knows ${count(shapes, "shapes")}, ${count(colours, "colours")} and ${count(scenes, "scenes")}:` }));
    const box = this.live.$("prompt");
    const add = (word) => {
      box.value = `${box.value.trim() || "a"} ${word}`;
      box.dispatchEvent(new Event("input"));
      box.focus();
    };
    line.append(...[...colours, ...shapes].map((word) => make("button", { type: "button", textContent: word, onclick: () => add(word) })));
  }
}
