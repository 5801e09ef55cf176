"use strict";
/* The search field: a number opens a latent, two numbers a pair, a text filters the overview. */
(() => {
  const { data } = atlas;
  const PAUSE = 160; // ms after the last letter

  /* Where a search leads: to a page of its own, or to the overview with a filter. */
  atlas.target = (text) => {
    const pair = /^\s*#?(\d+)\s*[/, +–-]\s*#?(\d+)\s*$/.exec(text);
    if (pair && pair.slice(1).every((n) => Number(n) < data.n))
      return { page: `#pair/${Number(pair[1])}/${Number(pair[2])}` };
    const number = /^\s*#?(\d+)\s*$/.exec(text);
    const filter = text ? `#latents?${new URLSearchParams({ find: text })}` : "#latents";
    if (number && Number(number[1]) < data.n)
      return { page: `#latent/${Number(number[1])}`, filter };
    return { filter };
  };

  atlas.openSearch = () => {
    const input = document.getElementById("search");
    let timer = 0;
    const show = () => {
      const { page, filter } = atlas.target(input.value);
      if (page && /^\s*#?\d/.test(input.value)) return; // numbers wait for Enter
      atlas.go(filter, { replace: location.hash.startsWith("#latents"), keepsFocus: true });
    };
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(show, PAUSE);
    });
    input.form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(timer);
      const { page, filter } = atlas.target(input.value);
      atlas.go(page || filter);
      input.blur();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") input.blur();
    });
  };
})();
