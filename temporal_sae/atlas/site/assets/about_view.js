"use strict";
/* What the atlas was made from, and how to read it. */
(() => {
  const { h, numbers, section, facts, data } = atlas;

  const terms = (pairs) =>
    h(
      "dl",
      { class: "terms" },
      ...pairs.map(([name, meaning]) =>
        h("div", null, h("dt", null, name), h("dd", null, meaning)),
      ),
    );

  function made() {
    const f = data.facts;
    const known = (value, show = String) =>
      value === undefined || value === null ? null : show(value);
    return facts([
      ["Model", known(f.model_name)],
      ["Hook", known(f.hook_name)],
      ["Architecture", known(f.architecture)],
      ["k", known(f.k)],
      ["Width", known(f.d_in, numbers.whole)],
      ["Latents", numbers.whole(data.n)],
      ["Tokens", numbers.whole(f.n_tokens)],
      ["Documents", numbers.whole(f.n_documents)],
      ["Windows", `${numbers.whole(f.n_windows)} of ${numbers.whole(f.window_size)} tokens`],
      ["Pairs", numbers.whole(f.n_pairs)],
      ["Least common tokens of a pair", numbers.whole(f.min_count)],
      ["Least |z| of a pair", numbers.short(f.min_z)],
    ]);
  }

  function chance() {
    const found = data.facts.relations_by_chance;
    if (!found) return null;
    const told = Object.entries(found)
      .map(([name, n]) => `${numbers.whole(n)} ${name}`)
      .join(", ");
    return h(
      "p",
      { class: "after" },
      `With the firings of every document dealt out to its tokens at random, the same criteria find: ${told}.`,
    );
  }

  atlas.views.about = () => {
    const { stride, n_windows, n_tokens } = data.sample;
    const { cap, scale } = data.facts.alpha;
    const held = stride > 1 ? `every ${stride}th window` : "every window";
    return {
      title: "About",
      content: [
        h(
          "div",
          { class: "head" },
          h("h1", null, data.facts.title ? `About ${data.facts.title}` : "About this atlas"),
        ),
        made(),
        h(
          "div",
          { class: "prose" },
          section(
            "How to read a latent",
            null,
            h(
              "p",
              null,
              "A latent fires in a token when its activation is above 0. In the contexts a token is shaded by its activation, relative to the largest of the latent; the outlined token is the one that was chosen. The first examples are the strongest, one of each surroundings; below them a random few of each fifth of its range, since the strongest alone make a latent look purer than it is. Near misses are tokens of the kinds it fires on most in which it is silent.",
            ),
            h(
              "p",
              null,
              "Marks such as ⏎, ⇥ and ␣ stand for characters that would not be seen; ␣ only at the ends of a token that stands by itself.",
            ),
          ),
          section(
            "Numbers",
            null,
            terms([
              ["Density", "share of all tokens in which it fires"],
              [
                "Burstiness",
                "overdispersion D of its counts in windows, variance = μ + D μ²; 0 for a Poisson process, and below 0 by chance",
              ],
              [
                "Stability",
                "mean cosine of its decoder row at the stored snapshots of training with the final row",
              ],
              ["Other seeds", "cosine with the best match in another SAE"],
              ["Degree", "pairs of the table that hold it"],
              ["φ", "correlation of two latents' firing, from the four counts of tokens"],
              ["npmi", "ln(lift) / −ln(n_ij / N), from −1 to 1"],
              [
                "z in documents",
                "tokens in which both fire against those expected if each document dealt its firings out at random, in deviations: what is left when a common topic is taken away",
              ],
              [
                "A covers B",
                "how much of B's firing A accounts for, beyond what chance in the documents gives; 1 if A fires wherever B does",
              ],
              [
                "Parent, child",
                "A covers B by at least .7 and B does not cover A, at a z in documents of at least 6: a candidate, not a verdict",
              ],
              [
                "Absorber",
                "the rarer of two latents whose directions overlap, where the more frequent one falls silent: a candidate",
              ],
              ["Community", "latents whose rates rise and fall together over the documents"],
              [
                "c·cos²",
                "rate of the pair times its squared decoder cosine, what it adds to the orthogonality penalty",
              ],
            ]),
            chance(),
          ),
          section(
            "What is a sample",
            null,
            h(
              "p",
              null,
              `All counts and all statistics of the listed pairs are of the whole text. The contexts of a pair, and its rate over the text, are of a sample: ${held}, ${numbers.whole(n_windows)} in all with ${numbers.whole(n_tokens)} tokens. Activations in it are rounded to ${data.sample.levels} steps.`,
            ),
            h(
              "p",
              null,
              `The running average c̄ starts at the first rate and moves by α = min(${cap}, n/${numbers.whole(scale)}) of the difference in each window of the sample, n being the tokens in which both fire: the tracker's own rule, with its default options.`,
            ),
          ),
          section("Keyboard", null, atlas.keyTable()),
        ),
      ],
    };
  };
})();
