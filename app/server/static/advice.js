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

  // A prompt with words that the model has never seen, and what it would understand instead.
  hint(prompt, unknown) {
    const line = this.live.$("unknown");
    line.replaceChildren();
    line.hidden = !Object.keys(unknown).length;
    for (const [word, near] of Object.entries(unknown)) {
      const instead = (other) => {
        const replaced = (text) => text.replace(new RegExp(`(?<![\\p{L}\\p{N}])${word.replace(/[$()*+.?[\\\]^{|}]/g, "\\$&")}(?![\\p{L}\\p{N}])`, "giu"), other);
        this.live.put(typeof prompt === "string" ? replaced(prompt) : prompt.map(([text, weight]) => [replaced(text), weight]));
      };
      const words = near.map((other) => make("button", { type: "button", textContent: other, title: `Say ${other} instead`, onclick: () => instead(other) }));
      line.append(make("span", { textContent: `The model does not know “${word}”${near.length ? ". Say instead:" : ": use another word."}` }), ...words);
    }
  }
}
