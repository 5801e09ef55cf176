"use strict";
/* The strongest pairs of the whole table, by one number or another. */
(() => {
  const { h, numbers, data, statistics } = atlas;
  const LISTS = {
    related: "Relations",
    phi: "φ",
    z_in_documents: "z in documents",
    decoder_cosine: "Cosine",
    c_cos2: "c·cos²",
  };
  const RELATION = {
    parent: "parent of",
    child: "child of",
    duplicate: "duplicate of",
    absorber: "absorbs",
    absorbed: "absorbed by",
  };
  const MEANING = {
    related: "Candidates for parents, children, duplicates and absorbers, by |z| in documents.",
    phi: "Correlation of the two latents' firing.",
    z_in_documents: "Fire together beyond what common documents explain.",
    decoder_cosine: "Directions that are nearly one, among pairs that fire together.",
    c_cos2: "What a pair adds to the orthogonality penalty: its rate times the squared cosine.",
  };

  function columns(table) {
    const at = (name) => (row) => table.at(name, row);
    const [i, j] = ["i", "j"].map(at);
    const counted = (statistic) => (row) =>
      statistic(at("n_ij")(row), ...[i, j].map((of) => data.latents.at("n", of(row))), data.N);
    const number = (key, title, help, show, value, isMinor) => ({
      key,
      title,
      help,
      value,
      isMinor,
      cell: (row) => show(value(row)),
    });
    return [
      {
        key: "pair",
        title: "Pair",
        isText: true,
        value: (row) => i(row) * data.n + j(row),
        cell: (row) =>
          h(
            "a",
            { href: `#pair/${i(row)}/${j(row)}`, class: "name whole" },
            `${i(row)} / ${j(row)}`,
          ),
      },
      {
        key: "tokens",
        title: "Top tokens",
        isText: true,
        cell: (row) =>
          h(
            "span",
            { class: "tokens" },
            atlas.tokens(data.topTokens(i(row)).slice(0, 3)),
            h("span", { class: "note" }, RELATION[at("relation")(row)] || "and"),
            atlas.tokens(data.topTokens(j(row)).slice(0, 3)),
          ),
      },
      number("n_ij", "Both", "tokens in which both fire", numbers.whole, at("n_ij"), true),
      number("phi", "φ", MEANING.phi, numbers.fixed(3), counted(statistics.phi)),
      number(
        "z_in_documents",
        "z in doc.",
        MEANING.z_in_documents,
        numbers.fixed(1),
        at("z_in_documents"),
        true,
      ),
      number(
        "decoder_cosine",
        "Cosine",
        "of the decoder rows",
        numbers.fixed(3),
        at("decoder_cosine"),
        true,
      ),
      number(
        "c_cos2",
        "c·cos²",
        MEANING.c_cos2,
        numbers.short,
        (row) => statistics.c_cos2(at("n_ij")(row), data.N, at("decoder_cosine")(row)),
        true,
      ),
    ];
  }

  atlas.views.pairs = async (_, query) => {
    const lists = await atlas.load("pairs", (content) =>
      Object.fromEntries(
        Object.entries(content).map(([name, table]) => [name, new atlas.Table(table)]),
      ),
    );
    const wanted = query.get("by");
    const by =
      wanted && Object.hasOwn(lists, wanted) ? wanted : lists.related.length ? "related" : "phi";
    const table = lists[by];
    const rows = Array.from({ length: table.length }, (_, row) => row);
    const tabs = Object.entries(LISTS).map(([name, title]) =>
      h("a", { href: `#pairs?by=${name}`, "aria-current": name === by ? "true" : null }, title),
    );
    const all = columns(table).map((one) => (one.key === by ? { ...one, isMinor: false } : one));
    const shown = rows.length
      ? atlas.sortable({ columns: all, rows, caption: "Pairs", limit: 50 })
      : h("p", { class: "empty" }, "The table of pairs holds none.");
    return {
      title: "Pairs",
      content: [
        h(
          "div",
          { class: "head" },
          h("h1", null, "Pairs"),
          h(
            "p",
            { class: "note" },
            `${MEANING[by]} The ${rows.length} strongest of ${numbers.whole(data.facts.n_pairs)}; `,
            "a pair of any two latents opens by ",
            h("kbd", null, "/"),
            " and two numbers.",
          ),
        ),
        h("nav", { class: "tabs", "aria-label": "Order of the pairs" }, ...tabs),
        shown,
      ],
    };
  };
})();
