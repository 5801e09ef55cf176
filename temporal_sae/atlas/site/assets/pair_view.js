"use strict";
/* The page of any two latents. */
(() => {
  const { h, numbers, section, facts, data, statistics } = atlas;
  const EXAMPLES = 6;
  const RELATION = {
    parent: (i, j) => `${i} looks like a parent of ${j}: ${j} fires in a part of ${i}'s tokens.`,
    child: (i, j) => `${i} looks like a child of ${j}: it fires in a part of ${j}'s tokens.`,
    absorber: (i, j) => `${i} looks like an absorber of ${j}: it fires where ${j} falls silent.`,
    absorbed: (i, j) => `${i} looks absorbed by ${j}: it falls silent where ${j} fires.`,
    duplicate: () => "They look like duplicates: each fires where the other does.",
  };

  /* Tokens of two ascending lists: only in the first, in both, only in the second; as places. */
  atlas.compared = (a, b) => {
    const found = { onlyI: [], both: [], onlyJ: [] };
    let j = 0;
    for (let i = 0; i < a.length; i++) {
      while (j < b.length && b[j] < a[i]) found.onlyJ.push([-1, j++]);
      if (j < b.length && b[j] === a[i]) found.both.push([i, j++]);
      else found.onlyI.push([i, -1]);
    }
    while (j < b.length) found.onlyJ.push([-1, j++]);
    return found;
  };

  /* The counts of two latents: exact where the atlas knows them, else those of the sample. */
  async function counted(i, j, listed, sampled) {
    const [n_i, n_j] = [i, j].map((latent) => data.latents.at("n", latent));
    const exact = listed ? listed("n_ij") : await data.count(i, j);
    if (listed || exact) return { n: exact, n_i, n_j, N: data.N, isExact: true };
    const { both, onlyI, onlyJ } = sampled;
    const ofSample = {
      n: both.length,
      n_i: both.length + onlyI.length,
      n_j: both.length + onlyJ.length,
      N: data.sample.n_tokens,
    };
    return { ...ofSample, isExact: false, isRare: exact === 0 };
  }

  function told(counts, i, j) {
    if (counts.isExact) return null;
    const { min_count: least, min_z: z } = data.facts;
    const why = counts.isRare
      ? `The table of pairs does not hold them: they fire together in fewer than ${least} tokens${z > 0 ? `, or |z| is below ${z}` : ""}.`
      : "Only the strongest pairs of this atlas are listed with their counts.";
    return h(
      "p",
      { class: "warn" },
      `${why} The numbers below are those of the sample, ${numbers.whole(data.sample.n_tokens)} tokens.`,
    );
  }

  function numbersOf(counts, listed, i, j) {
    const { n, n_i, n_j, N } = counts;
    const s = statistics;
    const from = (name, show) => {
      const value = listed?.(name);
      return value === undefined || Number.isNaN(value) ? null : show(value);
    };
    const expected = listed?.("expected_in_documents");
    const cosine = listed?.("decoder_cosine");
    const covers = (of) =>
      atlas.isNumber(expected) ? numbers.fixed(3)(s.coverage(n, expected, of)) : null;
    return facts(
      [
        ["Both fire in", numbers.tokens(n)],
        [`${i} fires in`, numbers.tokens(n_i)],
        [`${j} fires in`, numbers.tokens(n_j)],
        ["φ", numbers.fixed(3)(s.phi(n, n_i, n_j, N)), "correlation of the two"],
        [
          "npmi",
          numbers.fixed(3)(s.npmi(n, n_i, n_j, N)),
          "normalised pointwise mutual information",
        ],
        [
          "Lift",
          numbers.short(s.lift(n, n_i, n_j, N)),
          "how often both fire, over what independence would give",
        ],
        ["Jaccard", numbers.fixed(3)(s.jaccard(n, n_i, n_j))],
        [`P(${i} | ${j})`, numbers.fixed(3)(s.given_j(n, n_i, n_j))],
        [`P(${j} | ${i})`, numbers.fixed(3)(s.given_i(n, n_i, n_j))],
        ["z", numbers.fixed(1)(s.z_score(n, n_i, n_j, N)), "against independence of all tokens"],
        [
          "z in documents",
          from("z_in_documents", numbers.fixed(1)),
          "beyond what common documents explain",
        ],
        [
          "Expected",
          from("expected_in_documents", numbers.short),
          "tokens, if each document dealt its firings out at random",
        ],
        [
          `${i} covers ${j}`,
          covers(n_j),
          "how much of the second's firing the first accounts for, beyond chance",
        ],
        [`${j} covers ${i}`, covers(n_i)],
        ["Documents", from("documents_ij", numbers.whole), "in which both fire"],
        ["Document lift", from("document_lift", numbers.short)],
        [
          "Fano factor",
          from("fano_factor", numbers.short),
          "of their common counts in windows; 1 for a Poisson process",
        ],
        ["Overdispersion", from("overdispersion", numbers.short)],
        ["Decoder cosine", from("decoder_cosine", numbers.fixed(3))],
        ["Encoder cosine", from("encoder_cosine", numbers.fixed(3))],
        [
          "c·cos²",
          atlas.isNumber(cosine) ? numbers.short(s.c_cos2(n, N, cosine)) : null,
          "what the pair adds to the orthogonality penalty",
        ],
      ],
      { class: "facts many" },
    );
  }

  function overTime(sampled, tokens, i, j) {
    const { n_windows, window_size, stride } = data.sample;
    const counts = new Array(n_windows).fill(0);
    for (const [place] of sampled.both) counts[Math.floor(tokens[place] / window_size)]++;
    const averages = atlas.runningAverage(counts, window_size, data.facts.alpha);
    const points = (values) =>
      values.map((value, n) => [n_windows > 1 ? n / (n_windows - 1) : 0, value]);
    const { cap, scale } = data.facts.alpha;
    const every = stride > 1 ? `every ${stride}th window` : "all windows";
    const last = (n_windows - 1) * stride * window_size;
    return section(
      "Over the text",
      `Dots: c, the share of a window's ${numbers.whole(window_size)} tokens in which both fire (${every}). Line: its running average c̄, moved by min(${cap}, n/${numbers.whole(scale)}) of the difference in each of these windows, as the tracker moves it.`,
      atlas.lines(
        [
          { points: points(counts.map((count) => count / window_size)), kind: "dots" },
          { points: points(averages) },
        ],
        {
          label: `Rate of ${i} and ${j} together, from ${numbers.short(Math.min(...counts) / window_size)} to ${numbers.short(Math.max(...counts) / window_size)}, and its running average`,
          labels: [
            [0, "start", "token 0"],
            [1, "end", numbers.whole(last)],
          ],
          width: atlas.room(),
          height: 150,
        },
      ),
    );
  }

  function overTraining(one, other) {
    const cosines = data.overlaps(one, other);
    if (!cosines?.length) return null;
    const label = `Cosine of the decoder rows of ${one.latent} and ${other.latent} during training`;
    return section(
      "Directions over training",
      "Cosine of the two decoder rows at each snapshot.",
      atlas.overSteps(cosines, { label, width: Math.min(480, atlas.room()) }),
    );
  }

  /* The strongest of some tokens of the sample, none within the context of another. */
  function strongest(rows, tokenOf, strengthOf) {
    const [left, right] = data.facts.context || [24, 8];
    const found = [];
    for (const row of [...rows].sort((a, b) => strengthOf(b) - strengthOf(a))) {
      if (found.length === EXAMPLES) break;
      if (found.every((other) => Math.abs(tokenOf(other) - tokenOf(row)) > left + right))
        found.push(row);
    }
    return found;
  }

  const levelsIn = ({ tokens, levels }, first, n) => {
    const found = new Array(n).fill(0);
    let low = 0;
    let high = tokens.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tokens[middle] < first) low = middle + 1;
      else high = middle;
    }
    for (; low < tokens.length && tokens[low] < first + n; low++)
      found[tokens[low] - first] = levels[low] / data.sample.levels;
    return found;
  };

  async function contexts(title, rows, firings) {
    const [a, b] = firings;
    const tokenOf = ([i, j]) => (i < 0 ? b.tokens[j] : a.tokens[i]);
    const strengthOf = ([i, j]) =>
      i < 0 ? b.levels[j] : j < 0 ? a.levels[i] : Math.min(a.levels[i], b.levels[j]);
    const chosen = strongest(rows, tokenOf, strengthOf);
    const items = await Promise.all(
      chosen.map(async (row) => {
        const token = tokenOf(row);
        const { tokens, first, document } = await data.context(
          token,
          data.facts.context || [24, 8],
        );
        const [levels, others] = firings.map((one) => levelsIn(one, first, tokens.length));
        return atlas.example(
          "",
          atlas.context({ tokens, levels, others, place: token - first }),
          document,
          -1,
        );
      }),
    );
    const list = items.length
      ? h("ol", { class: "examples plain" }, ...items)
      : h("p", { class: "empty" }, "None in the sample.");
    return section(`${title} (${numbers.whole(rows.length)})`, null, list);
  }

  atlas.views.pair = async (first, second) => {
    const [i, j] = [first, second].map(atlas.checked);
    if (i === j) throw new Error("A pair is of two different latents.");
    const [one, other, ...firings] = await Promise.all([
      data.latent(i),
      data.latent(j),
      data.firings(i),
      data.firings(j),
    ]);
    const listed = data.listed(one, j) || data.turned(data.listed(other, i));
    const sampled = atlas.compared(...firings.map(({ tokens }) => tokens));
    const counts = await counted(i, j, listed, sampled);
    const relation = RELATION[listed?.("relation")];
    const { n, n_i, n_j } = counts;
    const partners = one.partnerRows.map((row) => one.partners.at("partner", row));
    const move = (by) => () => {
      const next = partners[(partners.indexOf(j) + by + partners.length) % partners.length];
      if (next !== undefined && next !== j) atlas.go(`#pair/${i}/${next}`);
    };
    const label = `Tokens: only ${i} ${numbers.whole(n_i - n)}, both ${numbers.whole(n)}, only ${j} ${numbers.whole(n_j - n)}`;
    return {
      title: `Latents ${i} and ${j}`,
      content: [
        h(
          "div",
          { class: "head" },
          h("h1", null, `Latents ${i} and ${j}`),
          h("p", { class: "lead" }, atlas.latentLink(i)),
          h("p", { class: "lead" }, atlas.latentLink(j)),
          relation ? h("p", null, relation(i, j)) : null,
        ),
        told(counts, i, j),
        h(
          "div",
          { class: "overlap" },
          atlas.overlap(n_i - n, n, n_j - n, label),
          h(
            "p",
            { class: "note legend" },
            h("span", null, `only ${i}: ${numbers.whole(n_i - n)}`),
            h("span", null, `both: ${numbers.whole(n)}`),
            h("span", null, `only ${j}: ${numbers.whole(n_j - n)}`),
          ),
        ),
        numbersOf(counts, listed, i, j),
        overTime(sampled, firings[0].tokens, i, j),
        overTraining(one, other),
        h(
          "p",
          { class: "note" },
          "Contexts from the sample: ",
          h("span", { class: "lit sample-lit" }, ` ${i} `),
          " is shaded and ",
          h("span", { class: "under" }, `${j}`),
          " underlined.",
        ),
        await contexts("Both fire", sampled.both, firings),
        await contexts(`Only ${i} fires`, sampled.onlyI, firings),
        await contexts(`Only ${j} fires`, sampled.onlyJ, firings),
      ],
      keys: { j: move(1), k: move(-1), ArrowRight: move(1), ArrowLeft: move(-1) },
    };
  };
})();
