"use strict";
/* The page of one latent. */
(() => {
  const { h, numbers, section, facts, data, statistics } = atlas;

  /* A latent by number and first tokens. */
  atlas.latentLink = (latent, address = `#latent/${latent}`) =>
    h(
      "span",
      { class: "latent" },
      h("a", { href: address, class: "name" }, String(latent)),
      " ",
      atlas.tokens(data.topTokens(latent).slice(0, 3)),
    );

  function explanation(latent) {
    const all = data.explanations.get(latent) || [];
    return all.map(({ description, score, type, model }) =>
      h(
        "p",
        { class: "explanation" },
        description || "",
        " ",
        h(
          "span",
          { class: "note" },
          [atlas.isNumber(score) ? `score ${numbers.fixed(2)(score)}` : "", model, type]
            .filter(Boolean)
            .join(" · "),
        ),
      ),
    );
  }

  function keyNumbers(one) {
    const { latent, get } = one;
    const community = get("community");
    const ablated = (name) =>
      atlas.isNumber(get(name)) ? `${numbers.short(get(name))} nats` : null;
    const present = (name, show) => (get(name) === undefined ? null : show(get(name)));
    return facts([
      ["Density", numbers.percent(data.density(latent)), "share of the tokens in which it fires"],
      ["Fires in", numbers.tokens(data.latents.at("n", latent))],
      ["Documents", numbers.whole(get("n_documents"))],
      ["Largest", numbers.fixed(2)(get("max_activation")), "activation"],
      ["Mean", numbers.fixed(2)(get("mean_activation")), "activation where it fires"],
      [
        "Burstiness",
        numbers.short(get("burstiness")),
        "overdispersion D of its counts in windows; 0 for a Poisson process",
      ],
      [
        "Fano factor",
        numbers.short(get("fano_factor")),
        "variance over mean of its counts in windows",
      ],
      ["Degree", present("degree", numbers.whole), "pairs of the table that hold it"],
      [
        "Community",
        !data.hasCommunities ? null : community < 0 ? "none" : atlas.communityLink(community),
      ],
      [
        "Ablated, loss",
        ablated("ablation_loss"),
        "what the loss rises by on its examples when it is taken out",
      ],
      [
        "Ablated, KL",
        ablated("ablation_kl"),
        "how far predictions move on its examples when it is taken out",
      ],
    ]);
  }

  function partners(one) {
    const { partners: table, latent, partnerRows } = one;
    const n = data.latents.at("n", latent);
    const at = (name) => (row) => table.at(name, row);
    const partner = at("partner");
    const counted = (statistic) => (row) =>
      statistic(at("n_ij")(row), n, data.latents.at("n", partner(row)), data.N);
    const number = (key, title, help, show, value, isMinor) => ({
      key,
      title,
      help,
      value,
      isMinor,
      cell: (row) => show(value(row)),
    });
    const columns = [
      {
        key: "partner",
        title: "Latent",
        isText: true,
        value: partner,
        cell: (row) => atlas.latentLink(partner(row), `#pair/${latent}/${partner(row)}`),
      },
      number("phi", "φ", "correlation of the two", numbers.fixed(3), counted(statistics.phi)),
      number("n_ij", "Both", "tokens in which both fire", numbers.whole, at("n_ij"), true),
      number(
        "given_i",
        `P(· | ${latent})`,
        "share of this latent's tokens in which the other fires",
        numbers.fixed(3),
        counted(statistics.given_i),
      ),
      number(
        "given_j",
        `P(${latent} | ·)`,
        "share of the other's tokens in which this latent fires",
        numbers.fixed(3),
        counted(statistics.given_j),
        true,
      ),
      number(
        "z",
        "z in documents",
        "beyond what common documents explain, in deviations",
        numbers.fixed(1),
        at("z_in_documents"),
        true,
      ),
      number("cosine", "Cosine", "of the decoder rows", numbers.fixed(3), at("decoder_cosine")),
    ].filter(({ value }) => partnerRows.length && value(partnerRows[0]) !== undefined);
    if (!partnerRows.length) return null;
    return section(
      "Fires with",
      "The strongest by φ, by z in documents, by cosine and by c·cos², and those with a relation. Each opens the pair.",
      atlas.sortable({
        columns,
        rows: partnerRows,
        sort: { key: "phi", isFalling: true },
        caption: `Latents that fire with ${latent}`,
      }),
    );
  }

  /* The latents before and after one in the order of the overview. */
  function neighbours(latent) {
    const order = atlas.order();
    const place = order.indexOf(latent);
    return place < 0
      ? [latent - 1, latent + 1].map((n) => (n >= 0 && n < data.n ? n : undefined))
      : [order[place - 1], order[place + 1]];
  }

  atlas.views.latent = async (number) => {
    const latent = atlas.checked(number);
    const one = await data.latent(latent);
    const [before, after] = neighbours(latent);
    const to = (other) => () => other !== undefined && atlas.go(`#latent/${other}`);
    const step = (other, title, sign) =>
      h(
        "a",
        {
          class: other === undefined ? "step off" : "step",
          href: other === undefined ? null : `#latent/${other}`,
          role: "link",
          "aria-disabled": other === undefined ? "true" : null,
          title,
          "aria-label": title,
        },
        sign,
      );
    const isSilent = !data.latents.at("n", latent);
    return {
      title: `Latent ${latent}`,
      content: [
        h(
          "div",
          { class: "head" },
          h("h1", null, `Latent ${latent}`),
          h(
            "nav",
            { class: "pager", "aria-label": "Latents in the order of the table" },
            step(before, "Latent before", "←"),
            step(after, "Next latent", "→"),
          ),
          explanation(latent),
          h("p", { class: "lead" }, atlas.tokens(data.topTokens(latent))),
        ),
        isSilent ? h("p", { class: "empty" }, "It never fires in this text.") : null,
        keyNumbers(one),
        h(
          "div",
          { class: "columns" },
          h("div", { class: "wide" }, atlas.examplesOf(one), partners(one)),
          h("div", { class: "narrow" }, atlas.besides(one)),
        ),
      ],
      keys: { j: to(after), k: to(before), ArrowRight: to(after), ArrowLeft: to(before) },
    };
  };
})();
