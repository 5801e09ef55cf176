"use strict";
/* Contexts with tokens shaded by how strongly a latent fires in them. */
(() => {
  const { h, inText, data, numbers } = atlas;

  /* A context. `levels` are from 0 to 1; `others` those of a second latent, which are underlined. */
  atlas.context = ({ tokens, levels, others = [], place, largest }) => {
    const parts = [];
    let plain = [];
    const flush = () => {
      if (plain.length) parts.push(...plain);
      plain = [];
    };
    tokens.forEach((text, n) => {
      const level = levels[n] || 0;
      const other = others[n] || 0;
      if (!level && !other && n !== place) {
        plain.push(...inText(text));
        return;
      }
      flush();
      const kind = ["lit", other ? "under" : "", n === place ? "here" : ""]
        .filter(Boolean)
        .join(" ");
      const title = level && largest ? numbers.short(level * largest) : null;
      const element = h("span", { class: kind, title }, ...inText(text, true));
      element.style.setProperty("--level", level.toFixed(3));
      parts.push(element);
    });
    flush();
    return h("p", { class: "context" }, ...parts);
  };

  const placeOf = (document, position) =>
    document < 0
      ? ""
      : position < 0
        ? `document ${document}`
        : `document ${document}, token ${position}`;

  /* An example: a value, the context, where it is from. */
  atlas.example = (value, context, document, position, notes = []) =>
    h(
      "li",
      { class: "example" },
      h("span", { class: "value" }, value),
      h(
        "div",
        { class: "body" },
        context,
        h(
          "p",
          { class: "source" },
          [placeOf(document, position), ...notes].filter(Boolean).join(" · "),
        ),
      ),
    );

  function exampleOf(one, row) {
    const { examples, strings } = one;
    const at = (name) => examples.at(name, row);
    const context = atlas.context({
      tokens: Array.from(at("tokens"), (code) => strings[code]),
      levels: Array.from(at("levels"), (level) => level / data.sample.levels),
      place: at("place"),
      largest: one.get("max_activation"),
    });
    const ablated = ["ablation_loss", "ablation_kl"].map((name) => examples.at(name, row));
    const notes = [
      atlas.isNumber(ablated[0]) ? `ablated: loss ${numbers.short(ablated[0])}` : "",
      atlas.isNumber(ablated[1]) ? `KL ${numbers.short(ablated[1])} nats` : "",
    ];
    const value = at("activation");
    return atlas.example(
      value > 0 ? numbers.fixed(2)(value) : "0",
      context,
      at("document"),
      at("position"),
      notes,
    );
  }

  const list = (one, rows) =>
    h("ol", { class: "examples" }, ...rows.map((row) => exampleOf(one, row)));

  /* The sections of a latent's examples: the strongest, the intervals, the near misses. */
  atlas.examplesOf = (one) => {
    const groups = new Map();
    for (const row of one.exampleRows) {
      const group = one.examples.at("group", row);
      groups.set(group, [...(groups.get(group) || []), row]);
    }
    const largest = one.get("max_activation");
    const intervals = [...groups.keys()]
      .filter((group) => group >= 1 && group <= 5)
      .sort((a, b) => a - b);
    const edge = (group) => numbers.fixed(2)((largest * (6 - group)) / 5);
    const top = groups.get(0);
    const missed = groups.get(6);
    return [
      top &&
        atlas.section(
          "Strongest examples",
          "The largest activation of each surroundings. Shade is activation.",
          list(one, top),
        ),
      intervals.length
        ? atlas.section(
            "Examples by strength",
            "A random few of each fifth of its range.",
            ...intervals.map((group) =>
              h(
                "div",
                { class: "interval" },
                h("h3", null, `${edge(group + 1)} to ${edge(group)}`),
                list(one, groups.get(group)),
              ),
            ),
          )
        : null,
      missed &&
        atlas.section(
          "Near misses",
          "It is silent here, although the marked token is one of those on which it fires most.",
          list(one, missed),
        ),
    ];
  };
})();
