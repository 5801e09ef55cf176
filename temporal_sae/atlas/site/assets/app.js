"use strict";
/* Addresses, keys, and the page as a whole. */
(() => {
  const { h, data } = atlas;
  const main = document.getElementById("content");
  const dialog = document.getElementById("keys");
  let keys = {};
  let turn = 0; // of the view that was asked for last
  let wish = {}; // of whoever changed the address

  atlas.checked = (text) => {
    const latent = Number(text);
    if (!/^\d+$/.test(text || "") || latent >= data.n)
      throw new Error(`There is no latent ${text}: they are numbered from 0 to ${data.n - 1}.`);
    return latent;
  };

  /* Go to an address; `replace` leaves no step to go back to. */
  atlas.go = (address, options = {}) => {
    wish = options;
    if (options.replace) {
      history.replaceState({}, "", address);
      draw();
    } else if (location.hash === address) {
      draw();
    } else {
      location.hash = address;
    }
  };

  function decoded(word) {
    try {
      return decodeURIComponent(word);
    } catch {
      return word; // as it was typed
    }
  }

  function asked() {
    const [path, query] = location.hash.slice(1).split("?");
    const [name, ...words] = path.split("/").map(decoded);
    return { name: name || "latents", words, query: new URLSearchParams(query || "") };
  }

  async function drawn({ name, words, query }) {
    const view = Object.hasOwn(atlas.views, name) ? atlas.views[name] : null;
    if (!view) throw new Error(`There is no view "${name}".`);
    return name === "latents" || name === "pairs" ? view(words, query) : view(...words);
  }

  async function draw() {
    const own = ++turn;
    const options = wish;
    wish = {};
    const began = performance.now();
    main.setAttribute("aria-busy", "true");
    let page;
    try {
      page = await drawn(asked());
    } catch (error) {
      page = {
        title: "Not found",
        content: [
          h("h1", null, "Not found"),
          h("p", { class: "empty" }, error.message),
          h("p", null, h("a", { href: "#latents" }, "All latents")),
        ],
      };
    }
    if (own !== turn) return; // another view was asked for meanwhile
    keys = page.keys || {};
    document.title = [page.title, data.facts?.title, "Atlas"].filter(Boolean).join(" · ");
    main.replaceChildren(...page.content.flat(3).filter(Boolean));
    main.setAttribute("aria-busy", "false");
    mark(asked().name);
    page.restore?.();
    settle(options);
    main.dataset.milliseconds = (performance.now() - began).toFixed(1);
    main.dataset.view = location.hash || "#latents";
  }

  /* Scroll to where the reader was, or to the top, and put the focus where it belongs. */
  function settle({ focus, keepsFocus }) {
    const input = document.getElementById("search");
    if (keepsFocus) return;
    if (document.activeElement !== input) input.value = asked().query.get("find") || "";
    if (focus) return main.querySelector(focus)?.focus();
    window.scrollTo(0, history.state?.y || 0);
    if (document.activeElement !== input) main.focus({ preventScroll: true });
  }

  function mark(name) {
    const own = { latent: "latents", pair: "pairs" }[name] || name;
    for (const link of document.querySelectorAll(".bar nav a")) {
      if (link.hash === `#${own}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  const KEYS = [
    ["j  k", "next and previous: latent, row of the table, or partner of the pair"],
    ["→  ←", "the same; in the table, its pages"],
    ["Enter", "open the marked row"],
    ["/", "search: a token, a number, or two numbers for a pair"],
    ["u", "back to the table of latents, as it was"],
    ["t", "light or dark"],
    ["?", "this help"],
    ["Esc", "close it, leave the search"],
  ];
  atlas.keyTable = () =>
    h(
      "dl",
      { class: "terms keys" },
      ...KEYS.map(([key, meaning]) =>
        h(
          "div",
          null,
          h("dt", null, ...key.split("  ").map((one) => h("kbd", null, one))),
          h("dd", null, meaning),
        ),
      ),
    );

  function help() {
    if (dialog.open) return dialog.close();
    const close = h(
      "button",
      { type: "button", class: "more", click: () => dialog.close() },
      "Close",
    );
    dialog.replaceChildren(
      h("h2", { id: "keys-title" }, "Keyboard"),
      atlas.keyTable(),
      h(
        "p",
        { class: "note" },
        h("a", { href: "#about", click: () => dialog.close() }, "How to read the pages"),
      ),
      close,
    );
    dialog.showModal();
  }

  const GLOBAL = {
    "/": () => document.getElementById("search").select(),
    "?": help,
    t: atlas.switchTheme,
    u: () => atlas.go(atlas.overviewAddress()),
  };

  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea, select")) return;
    if (dialog.open && event.key !== "?") return;
    const isPressable = event.key === "Enter" && event.target.matches("a, button");
    const action = isPressable ? null : keys[event.key] || GLOBAL[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /* The place on a page belongs to its step of the history. */
  let timer = 0;
  function remember() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (main.dataset.view === (location.hash || "#latents"))
        history.replaceState({ y: window.scrollY }, "");
    }, 80);
  }

  async function start() {
    history.scrollRestoration = "manual";
    try {
      await data.open();
    } catch (error) {
      return main.replaceChildren(
        h("h1", null, "Atlas"),
        h("p", { class: "empty" }, error.message),
      );
    }
    if (data.facts.title)
      document.querySelector(".brand").textContent = `Atlas of ${data.facts.title}`;
    atlas.openSearch();
    document.getElementById("theme").addEventListener("click", atlas.switchTheme);
    document.getElementById("help").addEventListener("click", help);
    document.querySelector("[data-skip]").addEventListener("click", (event) => {
      event.preventDefault();
      main.focus();
    });
    window.addEventListener("hashchange", draw);
    window.addEventListener("scroll", remember, { passive: true });
    document.addEventListener("keydown", press);
    await draw();
    if (await data.openExplanations().catch(() => false)) {
      wish = { keepsFocus: true };
      draw();
    }
  }
  start();
})();
