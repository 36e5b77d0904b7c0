// What was said before: arrow up in the box brings it back, arrow down goes on to what was being written.

const SAID_KEY = "rivulet.said";
const SAID_MOST = 50;

class Said {
  constructor(box) {
    Object.assign(this, { box, at: 0, draft: "" });
    try {
      this.all = JSON.parse(localStorage.getItem(SAID_KEY)) || [];
    } catch {
      this.all = [];
    }
    this.at = this.all.length;
    box.addEventListener("keydown", (event) => this.key(event));
  }

  push(text) {
    this.all = [...this.all.filter((one) => one !== text), text].slice(-SAID_MOST);
    this.at = this.all.length;
    this.draft = "";
    try {
      localStorage.setItem(SAID_KEY, JSON.stringify(this.all));
    } catch {
      // A browser that forbids storage forgets them at a reload.
    }
  }

  // Only from the first and the last line, so that the arrows still move through a long text.
  key(event) {
    const { box } = this;
    const up = event.key === "ArrowUp" && !box.value.slice(0, box.selectionStart).includes("\n");
    const down = event.key === "ArrowDown" && !box.value.slice(box.selectionEnd).includes("\n");
    if ((!up && !down) || event.shiftKey || event.isComposing) return;
    const to = this.at + (up ? -1 : 1);
    if (to < 0 || to > this.all.length) return;
    event.preventDefault();
    if (this.at === this.all.length) this.draft = box.value;
    this.at = to;
    box.value = to === this.all.length ? this.draft : this.all[to];
    box.setSelectionRange(box.value.length, box.value.length);
  }
}
