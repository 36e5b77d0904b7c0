// Files of the film: what is being saved says so at once, and becomes a link when it is there.

const SAVED_MOST = 6;
const SAVED_NAMES = { snapshot: "Picture", recording: "Recording", last: "Last seconds", log: "Log" };

class Saves {
  constructor(list) {
    Object.assign(this, { list });
  }

  // Asked for by `act`, which returns whether that went out.
  ask(kind, act) {
    if (act() === false) return;
    const line = make("li", {}, make("span", { textContent: `${SAVED_NAMES[kind]}: saving …` }));
    line.dataset.waits = kind;
    this.list.prepend(line);
  }

  done(kind, name, href) {
    const line = [...this.list.children].findLast(({ dataset }) => dataset.waits === kind) ?? this.list.appendChild(make("li"));
    delete line.dataset.waits;
    line.replaceChildren(make("span", { textContent: SAVED_NAMES[kind] }), make("a", { href, download: name, textContent: name }));
    this.list.prepend(line);
    while (this.list.children.length > SAVED_MOST) this.list.lastChild.remove();
  }

  // The server says why, in a sentence of its own; which of several it was it does not.
  failed() {
    this.list.querySelector("[data-waits]")?.remove();
  }
}
