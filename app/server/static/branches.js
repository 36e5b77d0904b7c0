// What a click on the track, a reset or another film leaves behind: an Undo for some seconds, and a row to go back to.

const UNDO_SECONDS = 10;
const FRESH = 5000; // ms within which a new branch is the answer to what was asked here

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

class Branches {
  constructor(section, toast, go) {
    Object.assign(this, { section, toast, go, branch: null, key: "" });
    [this.text, this.button] = toast.children;
    this.list = section.querySelector("ol");
  }

  // Something was asked that leaves the film's branch; `said` is told with the Undo once it has happened.
  leaves(said) {
    this.asked = { said, at: performance.now() };
  }

  show({ branch, branches }) {
    const anew = this.branch !== null && branch > this.branch;
    this.branch = branch;
    if (anew && this.asked && performance.now() - this.asked.at < FRESH && branches.length) this.offer(this.asked.said, branches[0].branch);
    if (anew) this.asked = null;
    const key = JSON.stringify(branches);
    if (key === this.key) return;
    this.key = key;
    this.section.hidden = !branches.length;
    this.list.replaceChildren(...branches.map((one) => this.row(one)));
  }

  row({ branch, prompt, t }) {
    const words = make("span", { textContent: prompt });
    const button = make("button", { type: "button", title: `Go on where this was left: ${prompt}`, onclick: () => this.back(branch) }, words, make("small", { textContent: `left at ${clock(t)}` }));
    button.style.setProperty("--h", hue(prompt));
    return make("li", {}, button);
  }

  offer(said, branch) {
    clearTimeout(this.timer);
    this.text.textContent = said;
    this.button.onclick = () => {
      this.toast.hidden = true;
      this.back(branch);
    };
    this.toast.hidden = false;
    this.timer = setTimeout(() => (this.toast.hidden = true), 1000 * UNDO_SECONDS);
  }

  back(branch) {
    this.leaves("The film goes on where it was left.");
    this.go(branch);
  }
}
