// The film begins before Gradio has drawn its tabs: the section stands in the body until its place is there.
// Gradio's forty scripts keep both cores of a small machine busy for half a second: they wait for the first picture.
const PATIENCE = 1000;
const BRAND =
  '<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#0f766e"/>' +
  '<path d="M5 21c4-7 7-7 11-2s7 5 11-2" fill="none" stroke="#99f6e4" stroke-width="3.2" stroke-linecap="round"/>' +
  '<path d="M5 14c4-7 7-7 11-2s7 5 11-2" fill="none" stroke="#fff" stroke-width="3.2" stroke-linecap="round"/></svg><span>Rivulet</span>';
let live;
let wanted = memory.all().tab; // a reload opens it again
const TABS = '[role="tab"], .overflow-dropdown button'; // those that do not fit are in a menu, and are no tabs there
function openTab(name) {
  [...document.querySelectorAll(TABS)].find((tab) => tab.textContent.trim() === name)?.click();
}
addEventListener("click", (event) => {
  const tab = event.target.closest?.(TABS);
  if (tab) memory.keep({ tab: tab.textContent.trim() });
});
function begin() {
  if (live) return;
  document.head.append(make("style", { textContent: facts.css }));
  const early = make("div", { id: "rv-early" });
  early.innerHTML = facts.html;
  const asked = new URLSearchParams(location.search).get("__theme"); // Gradio's own switch
  early.classList.toggle("dark", asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  // Tabs from the start: which of them is clicked before Gradio's are there is opened when they are.
  const tabs = make("div", { className: "rv-tabs" });
  for (const name of facts.tabs) tabs.append(make("button", { type: "button", textContent: name, onclick: () => (wanted = name) }));
  early.prepend(tabs);
  const brand = make("h1", { className: "rv-brand", innerHTML: BRAND });
  brand.classList.toggle("dark", early.classList.contains("dark"));
  brand.ariaLabel = "Rivulet";
  document.body.append(early, brand);
  live = new Live(early.querySelector(".rv-live"));
  live.camera = new Camera(live);
  live.beginner = new Beginner(live);
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
  if (wanted) openTab(wanted);
  if (live.root.contains(focused)) {
    focused.focus({ preventScroll: true });
    if (from !== undefined && from !== null) focused.setSelectionRange?.(from, to);
  }
};
if (document.body) begin();
else document.addEventListener("DOMContentLoaded", begin);
