"use strict";
/* What stands beside the examples of a latent: charts, tokens, logits, relatives. */
(() => {
  const { h, numbers, section, token, data } = atlas;
  const KINDS = {
    parents: ["Parents", "it fires in a part of their tokens"],
    children: ["Children", "they fire in a part of its tokens"],
    duplicates: ["Duplicates", "each fires where the other does"],
    absorbers: ["Absorbers", "they fire in its place on their tokens"],
    absorbed: ["Absorbed", "it fires in their place on its tokens"],
  };

  function histogram(one) {
    const counts = one.get("histogram");
    const largest = one.get("max_activation");
    if (!counts?.some((count) => count > 0)) return null;
    const edge = (n) => numbers.fixed(2)((largest * n) / counts.length);
    return section(
      "Activations",
      null,
      atlas.bars(counts, {
        label: `Histogram of its activations from 0 to ${numbers.short(largest)}`,
        titles: (n) => `${edge(n)} to ${edge(n + 1)}: ${numbers.whole(counts[n])}`,
        labels: [
          [0, "start", "0"],
          [1, "end", numbers.fixed(2)(largest)],
        ],
        ticks: [0.2, 0.4, 0.6, 0.8],
      }),
    );
  }

  function positions(one) {
    const counts = one.get("positions");
    const edges = data.facts.position_edges;
    if (!edges || !counts?.some((count) => count > 0)) return null;
    const all = data.facts.tokens_at_positions;
    const shares = Array.from(counts, (count, n) => (all ? (all[n] ? count / all[n] : 0) : count));
    const name = (n) => {
      const last = n + 1 < edges.length ? edges[n + 1] - 1 : null;
      return last === null
        ? `${numbers.whole(edges[n])} and later`
        : last === edges[n]
          ? String(last)
          : `${numbers.whole(edges[n])} to ${numbers.whole(last)}`;
    };
    return section(
      "Where in a document",
      all
        ? "Share of the tokens at each position in which it fires."
        : "Tokens at each position in which it fires.",
      atlas.bars(shares, {
        label: "Bars over the position in the document",
        titles: (n) => `${name(n)}: ${all ? numbers.percent(shares[n]) : numbers.whole(shares[n])}`,
        labels: [
          [0, "start", String(edges[0])],
          [0.5, "middle", numbers.whole(edges[Math.floor(edges.length / 2)])],
          [1, "end", `${numbers.whole(edges[edges.length - 1])} +`],
        ],
        height: 60,
      }),
    );
  }

  function topTokens(one) {
    const codes = one.get("top_tokens");
    const shares = one.get("top_token_shares");
    if (!codes?.length) return null;
    const rows = Array.from(codes, (code, n) =>
      h(
        "li",
        null,
        token(one.strings[code]),
        h("span", { class: "value" }, numbers.share(shares[n])),
      ),
    );
    return section(
      "Tokens",
      "Their shares of its activation.",
      h("ol", { class: "pairs-of" }, ...rows),
    );
  }

  function logits(one) {
    const columns = ["top", "bottom"].map((name) => {
      const strings = one.get(`${name}_logit_tokens`);
      const values = one.get(`${name}_logits`);
      if (!strings?.length) return null;
      const rows = strings.map((text, n) =>
        h(
          "li",
          null,
          token(text ?? "?"),
          h("span", { class: "value" }, numbers.fixed(2)(values[n])),
        ),
      );
      return h(
        "div",
        null,
        h("h3", null, name === "top" ? "Promotes" : "Suppresses"),
        h("ol", { class: "pairs-of" }, ...rows),
      );
    });
    if (!columns.some(Boolean)) return null;
    const counts = one.get("logit_histogram");
    const range = one.get("logit_range");
    const chart =
      counts?.length && range?.length
        ? atlas.bars(counts, {
            label: `Histogram of its effect on the logits of all tokens, from ${numbers.short(range[0])} to ${numbers.short(range[1])}`,
            labels: [
              [0, "start", numbers.fixed(2)(range[0])],
              [1, "end", numbers.fixed(2)(range[1])],
            ],
            height: 48,
          })
        : null;
    return section("Logits", data.facts.final_norm, h("div", { class: "two" }, ...columns), chart);
  }

  /* Values at the snapshots of the training. */
  atlas.overSteps = (values, options) => {
    const steps = data.facts.snapshots;
    const end = steps[steps.length - 1];
    const points = Array.from(values, (value, n) => [steps[n] / end, value]);
    const labels = [
      [0, "start", "step 0"],
      [1, "end", numbers.whole(end)],
    ];
    return atlas.lines([{ points }], { from: Math.min(0, ...values), labels, ...options });
  };

  function stability(one) {
    const cosines = one.get("snapshot_cosines");
    const parts = [];
    if (cosines?.length) {
      const label = "Cosine of its decoder row at each snapshot with the final one";
      parts.push(atlas.overSteps(cosines, { label, to: 1, height: 84 }));
    }
    const matches = one.get("seed_latents");
    if (matches?.length) {
      const names = data.facts.seeds || [];
      const rows = Array.from(matches, (match, n) =>
        h(
          "li",
          null,
          h("span", null, `${names[n] || `SAE ${n + 1}`}: latent ${match}`),
          h("span", { class: "value" }, numbers.fixed(3)(one.get("seed_cosines")[n])),
        ),
      );
      parts.push(
        h("h3", null, "Best match in other SAEs"),
        h("ol", { class: "pairs-of" }, ...rows),
      );
    }
    return section(
      "Stability",
      cosines?.length ? "Cosine of its decoder row on the way with the final one." : null,
      ...parts,
    );
  }

  function relatives(one) {
    const parts = Object.entries(KINDS).map(([name, [title, meaning]]) => {
      const latents = one.get(name);
      if (!latents?.length) return null;
      const links = Array.from(latents.slice(0, 40), (latent) =>
        h("li", null, atlas.latentLink(latent, `#pair/${one.latent}/${latent}`)),
      );
      const rest = latents.length - links.length;
      return h(
        "div",
        null,
        h("h3", null, title, h("span", { class: "note" }, meaning)),
        h(
          "ul",
          { class: "links" },
          ...links,
          rest > 0 ? h("li", { class: "note" }, `and ${rest} more`) : null,
        ),
      );
    });
    return section("Relatives", null, ...parts);
  }

  const nearest = (one) => {
    const latents = one.get("nearest_by_cosine");
    if (!latents?.length) return null;
    const rows = Array.from(latents, (latent, n) =>
      h(
        "li",
        null,
        atlas.latentLink(latent, `#pair/${one.latent}/${latent}`),
        h("span", { class: "value" }, numbers.fixed(3)(one.get("nearest_cosines")[n])),
      ),
    );
    return section(
      "Nearest directions",
      "Cosine of the decoder rows.",
      h("ol", { class: "pairs-of" }, ...rows),
    );
  };

  atlas.besides = (one) =>
    [topTokens, logits, histogram, positions, stability, relatives, nearest].map((part) =>
      part(one),
    );
})();
