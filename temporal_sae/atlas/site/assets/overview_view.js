"use strict";
/* All latents in a table: sorted, searched, a hundred at a time. */
(() => {
  const { h, numbers, token, data } = atlas;
  const PAGE = 100;
  const state = { selected: -1 };

  const column = (name) => (latent) => data.latents.at(name, latent);
  const of = (key, title, help, show, options = {}) => ({
    key,
    title,
    help,
    value: options.value || column(key),
    cell: (latent) => show((options.value || column(key))(latent)),
    ...options,
  });

  function columns(found, sort) {
    const all = [
      {
        key: "latent",
        title: "Latent",
        value: (latent) => latent,
        isText: true,
        cell: (latent) => h("a", { href: `#latent/${latent}`, class: "name" }, String(latent)),
      },
      {
        key: "tokens",
        title: "Top tokens",
        help: "tokens with the largest shares of its activation",
        isText: true,
        cell: (latent) => atlas.tokens(data.topTokens(latent), found.match),
      },
      {
        key: "explanation",
        title: "Explanation",
        isText: true,
        isMinor: true,
        cell: (latent) => data.explained(latent) || "",
      },
      of("density", "Density", "share of the tokens in which it fires", numbers.percent, {
        value: data.density,
      }),
      of("max_activation", "Max", "largest activation", numbers.fixed(2), { isMinor: true }),
      of(
        "burstiness",
        "Burstiness",
        "overdispersion D of its counts in windows; 0 for a Poisson process",
        numbers.fixed(2),
        { isMinor: true },
      ),
      of(
        "stability",
        "Stability",
        "mean cosine of its decoder row at the stored snapshots with the final one",
        numbers.fixed(2),
      ),
      of(
        "seed_cosine",
        "Other seeds",
        "mean cosine with its best match in each other SAE",
        numbers.fixed(2),
      ),
      of("degree", "Degree", "pairs of the table that hold it", numbers.whole, { isMinor: true }),
      of(
        "community",
        "Community",
        "of latents that fire together",
        (n) => (n < 0 ? "–" : atlas.communityLink(n)),
        { isMinor: true },
      ),
    ];
    const there = {
      latent: true,
      tokens: true,
      density: true,
      explanation: data.explanations.size > 0,
      community: data.hasCommunities,
    };
    const isThere = ({ key }) => there[key] ?? data.latents.has(key);
    return all
      .filter(isThere)
      .map((one) => (one.key === sort.key ? { ...one, isMinor: false } : one));
  }

  atlas.communityLink = (n) => h("a", { href: `#latents?community=${n}` }, String(n));

  /* Tokens one beside the other; those that match a search are marked. */
  atlas.tokens = (strings, match) =>
    h(
      "span",
      { class: "tokens" },
      ...strings.map((text) => token(text, match?.(text) ? { class: "token found" } : null)),
    );

  /* What is asked for: sort, find, community and page, as they stand in the address. */
  function asked(query) {
    const sort = query.get("sort") || "latent";
    return {
      sort: { key: sort.replace(/^-/, ""), isFalling: sort.startsWith("-") },
      find: query.get("find") || "",
      community: query.get("community"),
      page: Math.max(1, Number(query.get("page")) || 1),
    };
  }

  /* Latents with a token or an explanation that holds a text, whatever its case. */
  function search({ find, community }) {
    const wanted = find.toLowerCase();
    const match = wanted.trim() ? (text) => text.toLowerCase().includes(wanted) : null;
    const codes =
      match && new Set(data.strings.flatMap((text, code) => (match(text) ? [code] : [])));
    const latents = [];
    for (let latent = 0; latent < data.n; latent++) {
      if (community !== null && data.latents.at("community", latent) !== Number(community))
        continue;
      const isFound =
        !match ||
        data.latents.at("tokens", latent).some((code) => codes.has(code)) ||
        data.explanations.get(latent)?.some(({ description }) => match(description || ""));
      if (isFound) latents.push(latent);
    }
    return { latents, match };
  }

  function address(now, change) {
    const all = { ...now, ...change };
    const query = new URLSearchParams();
    const sort = (all.sort.isFalling ? "-" : "") + all.sort.key;
    if (sort !== "latent") query.set("sort", sort);
    for (const name of ["find", "community"]) if (all[name]) query.set(name, all[name]);
    if (all.page > 1) query.set("page", all.page);
    return query.size ? `#latents?${query}` : "#latents";
  }

  function pager(now, n, pages) {
    const step = (by, title, sign) => {
      const page = now.page + by;
      const isThere = page >= 1 && page <= pages;
      return h(
        "a",
        {
          class: isThere ? "step" : "step off",
          href: isThere ? address(now, { page }) : null,
          "aria-disabled": isThere ? null : "true",
          title,
          "aria-label": title,
          role: "link",
        },
        sign,
      );
    };
    const first = (now.page - 1) * PAGE;
    const range = n
      ? `${numbers.whole(first + 1)}–${numbers.whole(Math.min(n, first + PAGE))} of ${numbers.whole(n)}`
      : "none";
    return h(
      "nav",
      { class: "pager", "aria-label": "Pages of the table" },
      step(-1, "Page before", "←"),
      h("span", null, range),
      step(1, "Next page", "→"),
    );
  }

  /* What the table holds: the whole, or what a filter has left of it. */
  function told(now, n) {
    if (!now.find && now.community === null) return [atlas.summary()];
    const rest = { find: "", community: null, page: 1 };
    return [
      n === 1 ? "One latent" : `${numbers.whole(n)} latents`,
      now.community === null ? null : " whose rates rise and fall together over the documents",
      ...(now.find ? [" with “", ...atlas.inText(now.find), "”"] : []),
      " · ",
      h("a", { href: address(now, rest) }, "show all"),
    ];
  }

  /* The latents in the order of the table that was seen last; j and k walk along it. */
  atlas.order = () => state.order || Array.from({ length: data.n }, (_, latent) => latent);
  atlas.overviewAddress = () => state.address || "#latents";

  atlas.views.latents = (_, query) => {
    const now = asked(query);
    const found = search(now);
    const shown = columns(found, now.sort);
    const by = shown.find(({ key, value }) => key === now.sort.key && value) || shown[0];
    const ordered = atlas.sorted(found.latents, by.value, now.sort.isFalling);
    const pages = Math.max(1, Math.ceil(ordered.length / PAGE));
    now.page = Math.min(now.page, pages);
    Object.assign(state, { order: ordered, address: address(now, {}), now, pages });
    const rows = ordered.slice((now.page - 1) * PAGE, now.page * PAGE);
    const choose = (one) => {
      atlas.go(address(now, { sort: atlas.nextSort(one, now.sort), page: 1 }), {
        focus: `[data-key="${one.key}"]`,
      });
    };
    const table = atlas.table({
      columns: shown,
      rows,
      sort: { ...now.sort, key: by.key },
      caption: "Latents",
      choose,
      attributes: (latent) => ({ "data-latent": latent }),
    });
    const title = now.community !== null ? `Community ${now.community}` : "Latents";
    return {
      title,
      content: [
        h(
          "div",
          { class: "head beside" },
          h("h1", null, title),
          h("p", { class: "note" }, ...told(now, ordered.length)),
          atlas.densities(ordered),
          pager(now, ordered.length, pages),
        ),
        ordered.length
          ? table
          : h(
              "p",
              { class: "empty" },
              "No latent has such a token among its first, or such words in its explanation.",
            ),
        pages > 1 ? pager(now, ordered.length, pages) : null,
      ],
      keys: {
        j: () => select(1),
        k: () => select(-1),
        Enter: open,
        ArrowRight: () => turn(1),
        ArrowLeft: () => turn(-1),
      },
      restore: () => mark(document.querySelector(`tr[data-latent="${state.selected}"]`)),
    };
  };

  function mark(row) {
    document.querySelector("tr.selected")?.classList.remove("selected");
    row?.classList.add("selected");
    return row;
  }
  function select(by) {
    const rows = [...document.querySelectorAll("tr[data-latent]")];
    const now = rows.findIndex((row) => row.classList.contains("selected"));
    const next = rows[Math.min(rows.length - 1, Math.max(0, now + by))];
    if (!next) return;
    state.selected = Number(next.dataset.latent);
    mark(next).scrollIntoView({ block: "nearest" });
  }
  function open() {
    const row = document.querySelector("tr.selected");
    if (row) atlas.go(`#latent/${row.dataset.latent}`);
  }
  function turn(by) {
    const page = state.now.page + by;
    if (page >= 1 && page <= state.pages) atlas.go(address(state.now, { page }));
  }
})();
