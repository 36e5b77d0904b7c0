// The Gallery tab: rendered films and what live films saved, to be found, named, starred, watched and thrown away.

const FILMS_KEY = "rivulet.films";
const FILMS_MOST = 60;
const GALLERY_POLL = 4000; // ms between looks while the tab is open

// The live films of this browser, with what opens them; they outlive tab and session.
const ownFilms = {
  all() {
    try {
      return JSON.parse(localStorage.getItem(FILMS_KEY)) || [];
    } catch {
      return [];
    }
  },
  keep(session, token) {
    try {
      localStorage.setItem(FILMS_KEY, JSON.stringify([{ session, token }, ...this.all().filter((film) => film.session !== session)].slice(0, FILMS_MOST)));
    } catch {
      // A browser that forbids storage shows rendered films alone.
    }
  },
};

class GalleryTab {
  constructor(root) {
    Object.assign(this, { root, items: [], cards: new Map() });
    [this.form, this.list, this.empty] = ["form", "ol", "[data-empty]"].map((name) => root.querySelector(name));
    this.banner = new Banner(root.querySelector(".rv-banner"));
    this.player = new FilmPlayer(root, (job) => this.again(job));
    this.form.onsubmit = (event) => event.preventDefault();
    this.form.oninput = () => this.show();
    setInterval(() => this.root.offsetParent && !document.hidden && this.look(), GALLERY_POLL);
    new IntersectionObserver((seen) => seen.some(({ isIntersecting }) => isIntersecting) && this.look()).observe(root);
  }

  async look() {
    if (this.looking) return;
    this.looking = true;
    const told = await ask("v1/gallery", { method: "POST", body: JSON.stringify({ films: ownFilms.all() }) }).catch((error) => this.banner.say(error.message));
    this.looking = false;
    if (!told) return;
    this.items = told.data;
    this.show();
  }

  token(item) {
    return ownFilms.all().find(({ session }) => session === item.session)?.token ?? "";
  }

  async mark(item, change) {
    try {
      const told = await ask("v1/gallery/mark", { method: "POST", body: JSON.stringify({ item: item.item, token: this.token(item), ...change }) });
      this.items = this.items.map((one) => (one.item === told.item ? told : one));
      this.show();
    } catch (error) {
      this.banner.say(error.message);
    }
  }

  async bin(item) {
    await this.mark(item, { binned: true });
    this.banner.say(`“${item.name}” is in the bin.`, "Undo", () => this.mark(item, { binned: false }));
  }

  async remove(item) {
    const answer = await askPerson(this.root, `Delete “${item.name}” for good? It cannot be brought back.`, [["yes", "Delete it", true]]);
    if (!answer) return;
    try {
      await ask(`v1/gallery?${new URLSearchParams({ item: item.item, token: this.token(item) })}`, { method: "DELETE" });
    } catch (error) {
      this.banner.say(error.message);
    }
    await this.look();
  }

  async again(job) {
    openTab("Long render");
    await live.renders.fill(job.request, `${job.name} is in the form again.`);
  }

  async open(item) {
    if (item.kind === "film") return this.player.open(await api(`/${item.item.replace("film:", "")}`));
    if (item.kind !== "take") return this.player.show(item);
    const { request, seconds, notes } = await ask(`v1/sessions/${item.session}/take?${new URLSearchParams({ token: this.token(item) })}`);
    openTab("Long render");
    await live.renders.fill(request, [`A live film of ${seconds.toFixed(1)} s. Change what you like and render it.`, ...notes].join(" "));
  }

  show() {
    const { words, shelf } = this.form;
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.items.filter((item) => {
      const text = `${item.name} ${item.kind}`.toLowerCase();
      return item.binned === (shelf.value === "binned") && (shelf.value !== "favourite" || item.favourite) && wanted.every((word) => text.includes(word));
    });
    this.empty.hidden = shown.length > 0;
    if (this.items.length && !shown.length) this.empty.textContent = "Nothing of that kind is here.";
    const kept = new Map(shown.map((item) => [item.item, this.cards.get(item.item) ?? this.card(item)]));
    this.cards = kept;
    for (const item of shown) kept.get(item.item).update(item);
    const nodes = [...kept.values()].map(({ node }) => node);
    for (const node of [...this.list.children]) if (!nodes.includes(node)) node.remove();
    nodes.forEach((node, i) => this.list.children[i] !== node && this.list.insertBefore(node, this.list.children[i] ?? null));
  }

  card(first) {
    let item = first;
    const act = (call) => () => call(item);
    const open = make("button", { type: "button", className: "rv-open", onclick: () => this.open(item).catch((error) => this.banner.say(error.message)) });
    if (item.poster) open.append(make("img", { alt: "", src: pageUrl(item.poster), loading: "lazy" }));
    else {
      open.style.setProperty("--h", hue(item.item));
      open.textContent = "A live film: its script";
    }
    const name = make("input", { type: "text", maxLength: 200 });
    name.onchange = () => this.mark(item, { name: name.value.trim() });
    const star = make("button", { type: "button", className: "rv-icon-only", onclick: act((one) => this.mark(one, { favourite: !one.favourite })) });
    setIcon(star, "star");
    const load = make("a", { className: "rv-button rv-icon-only", href: pageUrl(item.url), download: "" });
    setIcon(load, "save");
    const away = make("button", { type: "button", className: "rv-icon-only" });
    setIcon(away, "close");
    const back = make("button", { type: "button", textContent: "Put back", onclick: act((one) => this.mark(one, { binned: false })) });
    const facts_ = make("p", { className: "rv-hint" });
    const node = make("li", { className: "rv-card" }, open, name, facts_, make("div", { className: "rv-bar" }, back, make("i"), star, load, away));
    const update = (now) => {
      item = now;
      const does = { picture: "See", take: "Render again" }[item.kind] ?? "Watch";
      open.ariaLabel = `${open.textContent} ${does}: ${item.name}`.trim(); // who speaks to it says what is to be read
      if (document.activeElement !== name) name.value = item.name;
      name.ariaLabel = `Name of the ${item.kind}`;
      star.ariaLabel = `Favourite: ${item.name}`;
      star.setAttribute("aria-pressed", item.favourite);
      load.ariaLabel = `Download: ${item.name}`;
      load.hidden = item.kind === "take";
      back.hidden = !item.binned;
      away.ariaLabel = `${item.binned ? "Delete for good" : "Into the bin"}: ${item.name}`;
      away.onclick = item.binned ? act((one) => this.remove(one)) : act((one) => this.bin(one));
      facts_.textContent = `${item.kind}, ${new Date(1000 * item.at).toLocaleDateString([], { day: "numeric", month: "short" })}, ${bytesText(item.bytes)}`;
    };
    return { node, update };
  }
}

window.rivuletGallery = (element) => {
  element.innerHTML = facts.gallery_html;
  new GalleryTab(element.firstElementChild);
};
