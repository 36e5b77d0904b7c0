// The film begins before Gradio has drawn its tabs: the section stands in the body until its place is there.
// Gradio's forty scripts keep both cores of a small machine busy for half a second: they wait for the first picture.
const PATIENCE = 1000;
let live;
function begin() {
  if (live) return;
  document.head.append(make("style", { textContent: facts.css }));
  const early = make("div", { id: "rv-early" });
  early.innerHTML = facts.html;
  const asked = new URLSearchParams(location.search).get("__theme"); // Gradio's own switch
  early.classList.toggle("dark", asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  document.body.append(early);
  live = new Live(early.firstElementChild);
  live.$("prompt").focus();
  const { screen } = live;
  const { onDrawn } = screen;
  const late = setTimeout(beginGradio, PATIENCE);
  screen.onDrawn = (last) => {
    screen.onDrawn = onDrawn;
    clearTimeout(late);
    beginGradio();
    onDrawn(last);
  };
}

function beginGradio() {
  const later = document.getElementById("rv-gradio");
  if (later) later.replaceWith(make("script", { type: "module", crossOrigin: "", src: later.src }));
}

window.rivuletLive = (element) => {
  begin();
  const focused = document.activeElement;
  const [from, to] = [focused?.selectionStart, focused?.selectionEnd];
  element.replaceChildren(live.root);
  document.getElementById("rv-early")?.remove();
  if (live.root.contains(focused)) {
    focused.focus({ preventScroll: true });
    if (from !== undefined && from !== null) focused.setSelectionRange?.(from, to);
  }
};
if (document.body) begin();
else document.addEventListener("DOMContentLoaded", begin);
