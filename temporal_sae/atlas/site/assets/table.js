"use strict";
/* Tables that are sorted by a click on the head of a column. */
(() => {
  const { h } = atlas;

  /* Rows in the order of a column's values; those without a value come last. */
  atlas.sorted = (rows, value, isFalling) => {
    const keys = rows.map((row, place) => ({ row, place, key: value(row) }));
    const sign = isFalling ? -1 : 1;
    const isMissing = (key) => key === null || key === undefined || Number.isNaN(key);
    keys.sort((a, b) => {
      if (isMissing(a.key) || isMissing(b.key))
        return isMissing(a.key) - isMissing(b.key) || a.place - b.place;
      if (a.key < b.key) return -sign;
      return a.key > b.key ? sign : a.place - b.place;
    });
    return keys.map(({ row }) => row);
  };

  /* A column: {key, title, help, value: row → number, cell: row → content, isText, isMinor}. */
  function head(column, sort, choose) {
    const isSorted = sort && column.key === sort.key;
    const order = isSorted ? (sort.isFalling ? "descending" : "ascending") : null;
    const kind = [column.isText ? "" : "number", column.isMinor ? "minor" : ""].join(" ").trim();
    const place = { scope: "col", class: kind || null, "aria-sort": order, title: column.help };
    if (!column.value) return h("th", place, column.title);
    const arrow = isSorted
      ? h("span", { class: "arrow", "aria-hidden": "true" }, sort.isFalling ? "↓" : "↑")
      : null;
    const button = h(
      "button",
      { type: "button", click: () => choose(column), "data-key": column.key },
      column.title,
      arrow,
    );
    return h("th", place, button);
  }

  function row(columns, of, attributes) {
    const cells = columns.map((column, place) => {
      const kind = [column.isText ? "" : "number", column.isMinor ? "minor" : ""].join(" ").trim();
      return h(
        place ? "td" : "th",
        { class: kind || null, scope: place ? null : "row" },
        column.cell(of),
      );
    });
    return h("tr", attributes, ...cells);
  }

  /* What a click on a column asks for: the other way round, or the largest first. */
  atlas.nextSort = (column, sort) => {
    const isFalling = sort?.key === column.key ? !sort.isFalling : !column.isText;
    return { key: column.key, isFalling };
  };

  /* The table of rows that are in order already. */
  atlas.table = ({ columns, rows, sort, caption, choose, attributes = () => null }) => {
    const heads = columns.map((column) => head(column, sort, choose));
    const body = rows.map((of) => row(columns, of, attributes(of)));
    const inner = h(
      "table",
      null,
      h("caption", { class: "unseen" }, caption),
      h("thead", null, h("tr", null, ...heads)),
      h("tbody", null, ...body),
    );
    return h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      inner,
    );
  };

  /* A table that sorts itself, with its first rows only until more are wanted. */
  atlas.sortable = ({ columns, rows, sort = null, caption, limit = 15 }) => {
    const place = h("div");
    let now = sort; // null: the rows stay in their order
    let isWhole = rows.length <= limit + 3;
    const choose = (column) => {
      now = atlas.nextSort(column, now);
      draw();
      place.querySelector(`[data-key="${column.key}"]`)?.focus();
    };
    function draw() {
      const by = now && columns.find(({ key }) => key === now.key);
      const ordered = by ? atlas.sorted(rows, by.value, now.isFalling) : rows;
      const seen = isWhole ? ordered : ordered.slice(0, limit);
      const more = h(
        "button",
        { type: "button", class: "more", click: () => ((isWhole = true), draw()) },
        `Show all ${rows.length}`,
      );
      place.replaceChildren(
        atlas.table({ columns, rows: seen, sort: now, caption, choose }),
        isWhole ? "" : more,
      );
    }
    draw();
    return place;
  };
})();
