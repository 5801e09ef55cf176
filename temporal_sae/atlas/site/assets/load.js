"use strict";
/* Files of the site. Each is a script that calls atlas.take(name, content): a page from file:// may
   load nothing else. */
(() => {
  const MOST_KEPT = 80; // files in memory
  const build = document.documentElement.dataset.build;
  const kept = new Map(); // promises by name, the least recently used first
  const waiting = new Map();

  atlas.take = (name, content) => {
    waiting.get(name)?.(content);
    waiting.delete(name);
  };

  function request(name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(name, resolve);
      script.src = `site/${name}.js?${build}`;
      script.onload = () => {
        script.remove();
        if (waiting.has(name)) script.onerror();
      };
      script.onerror = () => {
        kept.delete(name); // the file may be there the next time
        script.remove();
        reject(new Error(`site/${name}.js is missing or damaged; build the atlas again`));
      };
      document.head.append(script);
    });
  }

  /* The content of a file, read once and kept for a while; `read` makes something of it. */
  atlas.load = (name, read = (content) => content) => {
    const found = kept.get(name) || request(name).then(read);
    kept.delete(name);
    kept.set(name, found);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    return found;
  };
})();
