"use strict";
/* Elements and numbers. Text of a model goes into the page as text only, never as markup. */
(() => {
  const SVG = "http://www.w3.org/2000/svg";

  const isShown = (child) => child !== null && child !== undefined && child !== false;

  /* An element: attributes, listeners as functions, then children; null and false are left out. */
  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false)
        element.setAttribute(name, value);
    }
    element.append(...children.flat(2).filter((child) => isShown(child)));
    return element;
  }
  const h = (tag, attributes, ...children) =>
    filled(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    filled(document.createElementNS(SVG, tag), attributes, children);

  /* Characters that would be invisible, or move what stands beside them, as they are called. */
  const NAMES = {
    "\n": "⏎",
    "\t": "⇥",
    "\u007f": "DEL",
    "\u00ad": "SHY",
    "\u061c": "ALM",
    "\u200b": "ZWSP",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u2028": "LS",
    "\u2029": "PS",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\ufeff": "BOM",
  };
  const CONTROLS =
    "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US";
  CONTROLS.split(" ").forEach((name, n) => (NAMES[String.fromCharCode(n)] ||= name));
  const HIDDEN = new RegExp(`[${Object.keys(NAMES).join("").replace("\\", "")}]`, "u");
  const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u;
  const isPlain = (text) => !HIDDEN.test(text) && !RIGHT_TO_LEFT.test(text);

  function shown(text) {
    if (!HIDDEN.test(text)) return [text];
    const parts = [];
    let plain = "";
    for (const letter of text) {
      if (!(letter in NAMES)) {
        plain += letter;
        continue;
      }
      if (plain) parts.push(plain);
      plain = "";
      parts.push(
        h("span", { class: NAMES[letter].length > 1 ? "mark named" : "mark" }, NAMES[letter]),
      );
    }
    if (plain) parts.push(plain);
    return parts;
  }

  /* Spaces that are to be seen, of a long run how many. */
  const spaces = (n) => (n > 3 ? `␣×${n}` : "␣".repeat(n));
  const withSpaces = (text) =>
    text
      .split(/( +)/u)
      .filter(Boolean)
      .flatMap((part) =>
        part.startsWith(" ") ? [h("span", { class: "mark" }, spaces(part.length))] : shown(part),
      );

  /* A token by itself, with the spaces at its ends to be seen. */
  function token(text, attributes) {
    const [, before, inner, after] = /^( *)(.*?)( *)$/su.exec(text);
    const isSpace = /^\s*$/u.test(inner);
    const parts = [
      withSpaces(before),
      isSpace ? withSpaces(inner) : shown(inner),
      withSpaces(after),
    ];
    return h("bdi", { class: "token", ...attributes }, ...parts);
  }

  /* A token within a text; `isMarked`: to be seen even if it is nothing but spaces. */
  function inText(text, isMarked) {
    if (isMarked && /^\s+$/u.test(text)) return withSpaces(text);
    return isPlain(text) ? [text] : [h("bdi", null, ...shown(text))];
  }

  const isNumber = (x) => typeof x === "number" && !Number.isNaN(x);
  const NONE = "–";
  const unsignedZero = (text) => (Number(text) === 0 ? text.replace("-", "") : text);
  const signed = (text) => text.replace("-", "−");
  const whole = new Intl.NumberFormat("en-US");
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  const numbers = {
    whole: (x) => (isNumber(x) ? signed(whole.format(x)) : NONE),
    fixed: (digits) => (x) => (isNumber(x) ? signed(unsignedZero(x.toFixed(digits))) : NONE),
    /* Three significant digits. */
    short(x) {
      if (!isNumber(x)) return NONE;
      if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
      const size = Math.abs(x);
      if (size === 0) return "0";
      if (size >= 1000) return numbers.whole(Math.round(x));
      if (size >= 0.001) return signed(x.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size)))));
      const [digits, power] = x.toExponential(1).split("e-");
      return `${signed(digits)}·10⁻${[...power].map((n) => SUPERSCRIPTS[n]).join("")}`;
    },
    /* The same without zeros at the end. */
    brief: (x) => (isNumber(x) ? signed(String(Number(x.toPrecision(3)))) : NONE),
    share: (x) => (isNumber(x) ? `${(100 * x).toFixed(1)} %` : NONE),
    tokens: (n) => (n === 1 ? "1 token" : `${numbers.whole(n)} tokens`),
    /* A share in per cent, with as many digits everywhere so that columns align. */
    percent(x) {
      if (!isNumber(x)) return NONE;
      return x > 0 && x < 5e-6 ? "< 0.001 %" : `${(100 * x).toFixed(3)} %`;
    },
  };

  /* A section of a page; nothing where it has no content. */
  function section(title, help, ...content) {
    const children = content.flat().filter((child) => isShown(child));
    if (!children.length) return null;
    const note = help ? h("p", { class: "help" }, help) : null;
    return h("section", null, h("h2", null, title), note, ...children);
  }

  /* Names and values, those without a value left out; null where none has one. */
  function facts(pairs, attributes) {
    const kept = pairs.filter(([, value]) => value !== undefined && value !== null);
    if (!kept.length) return null;
    const rows = kept.map(([name, value, title]) =>
      h("div", { title }, h("dt", null, name), h("dd", null, value)),
    );
    return h("dl", { class: "facts", ...attributes }, ...rows);
  }

  Object.assign(atlas, { h, svg, token, inText, numbers, section, facts, isNumber });
})();
