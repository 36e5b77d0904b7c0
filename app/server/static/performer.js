// The page performs where nobody types: a clean change every few seconds, its words typed into the box, until somebody does.

const PERFORM_AFTER = 9000; // ms of a film that nobody has touched
const PERFORM_EVERY = 9000; // ms between two changes
const PERFORM_KEY = 45; // ms a letter

class Performer {
  constructor(live, scenes) {
    Object.assign(this, { live, scenes, box: live.$("prompt"), turn: 0 });
    this.invitation = this.box.placeholder;
    this.touched = () => this.end();
    for (const kind of ["keydown", "pointerdown", "wheel", "paste"]) addEventListener(kind, this.touched, { capture: true });
    this.timer = setTimeout(() => this.next(), PERFORM_AFTER);
  }

  // The words stand where the invitation stands, so that what a person types is never mixed with them.
  next() {
    const words = this.scenes[this.turn % this.scenes.length];
    const { live, box } = this;
    const idle = document.hidden || live.state !== "playing" || !live.driver || live.queue.items.length || box.value;
    if (idle || words === promptText(live.prompt)) {
      this.turn += words === promptText(live.prompt);
      this.timer = setTimeout(() => this.next(), 1000);
      return;
    }
    let shown = 0;
    this.typing = setInterval(() => {
      shown += 1;
      box.placeholder = words.slice(0, shown);
      if (shown <= words.length + 8) return;
      clearInterval(this.typing);
      live.perform(words);
      this.turn += 1;
      box.placeholder = this.invitation;
      this.timer = setTimeout(() => this.next(), PERFORM_EVERY);
    }, PERFORM_KEY);
  }

  end() {
    clearTimeout(this.timer);
    clearInterval(this.typing);
    this.box.placeholder = this.invitation;
    for (const kind of ["keydown", "pointerdown", "wheel", "paste"]) removeEventListener(kind, this.touched, { capture: true });
  }
}
