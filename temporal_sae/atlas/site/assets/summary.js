"use strict";
/* The whole atlas in a line, and the densities of latents in a chart. */
(() => {
  const { h, numbers, data } = atlas;
  const BINS = 40;
  const LEAST = 20; // latents, below which there is nothing to see

  atlas.summary = () => {
    const { n_tokens, n_documents, n_pairs, model_name, hook_name } = data.facts;
    const where = [model_name, hook_name].filter(Boolean).join(", ");
    const of = [
      `${numbers.whole(data.n)} latents and ${numbers.whole(n_pairs)} pairs over`,
      `${numbers.whole(n_tokens)} tokens of ${numbers.whole(n_documents)} documents`,
    ].join(" ");
    return where ? `${of} · ${where}` : of;
  };

  /* How many of some latents have each density, on a logarithmic scale; null for a few. */
  atlas.densities = (latents) => {
    const firing = latents.map(data.density).filter((density) => density > 0);
    if (firing.length < LEAST) return null;
    const logs = Float64Array.from(firing, Math.log10);
    const low = logs.reduce((a, b) => Math.min(a, b));
    const high = logs.reduce((a, b) => Math.max(a, b));
    const width = (high - low) / BINS || 1;
    const counts = new Array(BINS).fill(0);
    for (const log of logs) counts[Math.min(BINS - 1, Math.floor((log - low) / width))]++;
    const edge = (n) => numbers.percent(10 ** (low + n * width));
    const silent = latents.length - firing.length;
    const chart = atlas.bars(counts, {
      label: `Densities of the latents from ${edge(0)} to ${edge(BINS)}, on a logarithmic scale`,
      titles: (n) => `${edge(n)} to ${edge(n + 1)}: ${numbers.whole(counts[n])} latents`,
      labels: [
        [0, "start", edge(0)],
        [0.5, "middle", silent ? `density · ${numbers.whole(silent)} silent` : "density"],
        [1, "end", edge(BINS)],
      ],
      height: 44,
    });
    return h("div", { class: "densities" }, chart);
  };
})();
