// Words while one types: what the model does not know is underlined, and a known word is completed.

const WORDS_AFTER = 150; // ms without a key
const COMPLETE_FROM = 2; // letters

// `knows` comes with the hello: the plain words of each category and all words; a model that reads any text has none.
class Words {
  constructor(live, box, echo) {
    Object.assign(this, { live, box, echo, all: [], unknown: {}, rest: "" });
    box.addEventListener("input", () => this.changed());
    box.addEventListener("scroll", () => (echo.scrollTop = box.scrollTop));
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("blur", () => this.complete(""));
  }

  knows({ words = [] }) {
    this.all = words;
  }

  changed() {
    clearTimeout(this.timer);
    if (!this.all.length) return;
    this.complete(this.ending());
    this.timer = setTimeout(() => this.ask(), WORDS_AFTER);
  }

  ask() {
    this.asked = newId();
    if (this.box.value.trim()) this.live.link.send({ type: "session.look_up", id: this.asked, prompt: this.box.value });
    else this.told({ id: this.asked, unknown: {} });
  }

  told({ id, unknown }) {
    if (id !== this.asked) return;
    this.unknown = unknown;
    this.draw();
  }

  // What the word under way could become: the first known word that begins so, where the text ends.
  ending() {
    const { box } = this;
    if (box.selectionStart !== box.value.length) return "";
    const begun = box.value.match(/[\p{L}\p{N}']+$/u)?.[0].toLowerCase() ?? "";
    if (begun.length < COMPLETE_FROM || this.all.includes(begun)) return "";
    return this.all.find((word) => word.startsWith(begun))?.slice(begun.length) ?? "";
  }

  complete(rest) {
    this.rest = rest;
    this.draw();
  }

  // Arrow right at the end takes the completion; Tab goes on to the next control, as everywhere.
  key(event) {
    if (event.key !== "ArrowRight" || !this.rest || this.box.selectionStart !== this.box.value.length) return;
    event.preventDefault();
    this.box.value += this.rest;
    this.changed();
  }

  // The text once more behind the box, unseen but for its underlines and the completion.
  draw() {
    const { box, echo } = this;
    const parts = [];
    let at = 0;
    for (const found of box.value.matchAll(/[\p{L}\p{N}']+/gu)) {
      if (!(found[0].toLowerCase() in this.unknown)) continue;
      parts.push(box.value.slice(at, found.index), make("u", { textContent: found[0] }));
      at = found.index + found[0].length;
    }
    echo.replaceChildren(...parts, box.value.slice(at), make("i", { textContent: this.rest }));
    echo.scrollTop = box.scrollTop;
  }

  clear() {
    this.unknown = {};
    this.complete("");
  }
}
