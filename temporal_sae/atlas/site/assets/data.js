"use strict";
/* What the views ask for: facts, latents, pairs, and the sample of windows. */
(() => {
  const { Table, Lists, unpack, summed } = atlas;
  const data = { explanations: new Map() };
  atlas.data = data;

  data.open = async () => {
    const { facts, strings, latents } = await atlas.load("overview");
    const sample = { ...facts.sample, firsts: unpack(facts.sample.firsts) };
    const counts = facts.counts ? unpack(facts.counts) : null;
    Object.assign(data, { facts, sample, strings, counts, latents: new Table(latents) });
    data.hasCommunities =
      "community" in latents && data.latents.column("community").some((n) => n >= 0);
    data.n = facts.n_latents;
    data.N = facts.n_tokens;
  };

  data.density = (latent) => data.latents.at("n", latent) / data.N;

  /* The strings of the tokens that a latent fires on most. */
  data.topTokens = (latent) =>
    Array.from(data.latents.at("tokens", latent), (code) => data.strings[code]);

  /* Explanations by latent, the best first; they are loaded once the page stands. */
  data.openExplanations = async () => {
    const table = new Table(await atlas.load("explanations"));
    for (let row = 0; row < table.length; row++) {
      const one = Object.fromEntries(
        ["description", "score", "type", "model"].map((name) => [
          name,
          table.at(name === "score" ? name : `${name}s`, row),
        ]),
      );
      const latent = table.at("latent", row);
      if (!data.explanations.has(latent)) data.explanations.set(latent, []);
      data.explanations.get(latent).push(one);
    }
    for (const all of data.explanations.values())
      all.sort((a, b) => (b.score || 0) - (a.score || 0));
    return data.explanations.size > 0;
  };
  data.explained = (latent) => data.explanations.get(latent)?.[0]?.description;

  const rowsOf = (table, latent) => {
    const column = table.length ? table.column("latent") : [];
    const first = column.indexOf(latent);
    return first < 0
      ? []
      : Array.from({ length: column.lastIndexOf(latent) + 1 - first }, (_, n) => first + n);
  };
  const tablesOf = (file) => ({
    ...file,
    latents: new Table(file.latents),
    examples: new Table(file.examples),
    partners: new Table(file.partners),
    overlaps: new Table(file.overlaps),
  });

  /* One latent: get(column), its examples and its partners. */
  data.latent = async (latent) => {
    const number = Math.floor(latent / data.facts.latents_in_file);
    const file = await atlas.load(`latents/${number}`, tablesOf);
    const { latents, examples, partners, overlaps, strings } = file;
    const get = (name) => latents.at(name, latent - file.first);
    const found = { latent, strings, get, examples, partners, overlaps };
    found.exampleRows = rowsOf(examples, latent);
    found.partnerRows = rowsOf(partners, latent);
    return found;
  };

  /* What the table of pairs says of two latents, as the first of them sees it; or null. */
  data.listed = (one, other) => {
    const row = one.partnerRows.find((place) => one.partners.at("partner", place) === other);
    return row === undefined ? null : (name) => one.partners.at(name, row);
  };

  const TURNED = { parent: "child", child: "parent", absorber: "absorbed", absorbed: "absorber" };
  data.turned = (listed) =>
    listed &&
    ((name) => {
      const value = listed(name);
      return name === "relation" ? TURNED[value] || value : value;
    });

  /* The decoder cosines of two latents at earlier steps, where they are known. */
  data.overlaps = (one, other) => {
    const [low, high] = one.latent < other.latent ? [one, other] : [other, one];
    for (let row = 0; row < low.overlaps.length; row++)
      if (low.overlaps.at("i", row) === low.latent && low.overlaps.at("j", row) === high.latent)
        return low.overlaps.at("snapshot_cosines", row);
    return null;
  };

  const fileOf = (firsts, latent) => {
    let low = 0;
    let high = firsts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (firsts[middle] <= latent) low = middle;
      else high = middle;
    }
    return low;
  };
  const lists = (content) => new Lists(content);

  /* n_ij of the whole text: a number, 0 for a pair that is not in the table, null if unknown. */
  data.count = async (i, j) => {
    if (!data.counts) return null;
    if (!data.facts.n_pairs) return 0;
    const [low, high] = i < j ? [i, j] : [j, i];
    const file = await atlas.load(`counts/${fileOf(data.counts, low)}`, lists);
    const place = summed(file.at("partners", low)).indexOf(high);
    return place < 0 ? 0 : file.at("n_ij", low)[place];
  };

  /* The tokens of the sample in which a latent fires, ascending, and how strongly. */
  data.firings = async (latent) => {
    const file = await atlas.load(`firings/${fileOf(data.sample.firsts, latent)}`, lists);
    return { tokens: summed(file.at("tokens", latent)), levels: file.at("levels", latent) };
  };

  const textOf = (file) => ({
    strings: file.strings,
    tokens: unpack(file.tokens),
    begins: unpack(file.begins),
    documents: unpack(file.documents),
  });
  const text = (n) => atlas.load(`text/${n}`, textOf);

  /* The surroundings of a token of the sample, within its document and window. */
  data.context = async (token, [left, right]) => {
    const { tokens_in_file: size, n_tokens: end } = data.sample;
    const first = Math.max(0, token - left);
    const last = Math.min(end - 1, token + right);
    const numbers = [];
    for (let n = Math.floor(first / size); n <= Math.floor(last / size); n++) numbers.push(n);
    const files = await Promise.all(numbers.map(text));
    const found = { first, tokens: [], document: -1 };
    let stop = last + 1;
    files.forEach((file, place) => {
      const start = numbers[place] * size;
      if (start <= token) found.document = file.documents[0];
      file.begins.forEach((begin, row) => {
        const at = start + begin;
        if (at > token) stop = Math.min(stop, at);
        else found.document = file.documents[row + 1];
        if (at <= token) found.first = Math.max(found.first, at);
      });
    });
    for (let at = found.first; at < stop; at++) {
      const place = Math.floor(at / size) - numbers[0];
      const file = files[place];
      found.tokens.push(file.strings[file.tokens[at - numbers[place] * size]]);
    }
    return found;
  };
})();
