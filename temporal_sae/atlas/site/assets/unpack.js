"use strict";
/* Columns as temporal_sae/atlas/site/encode.py writes them. */
(() => {
  const TYPES = {
    u1: Uint8Array,
    u2: Uint16Array,
    u4: Uint32Array,
    i4: Int32Array,
    f4: Float32Array,
    f8: Float64Array,
  };

  function bytesOf(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
    return bytes;
  }

  const unpack = (packed) => new TYPES[packed.slice(0, 2)](bytesOf(packed.slice(2)).buffer);

  /* A table: columns of numbers, of strings, and of lists of either. */
  class Table {
    constructor(columns) {
      this.columns = columns;
      this.read = {};
    }

    has(name) {
      return name in this.columns;
    }

    /* All values of a column of numbers or strings. */
    column(name) {
      if (!(name in this.read)) this.read[name] = this.decoded(this.columns[name]);
      return this.read[name];
    }

    decoded(column) {
      if (typeof column === "string") return unpack(column);
      if (Array.isArray(column)) return column;
      const values = this.decoded(column.values);
      const ends = summed(unpack(column.sizes));
      return { at: (row) => values.slice(row ? ends[row - 1] : 0, ends[row]) };
    }

    /* One value; NaN, null or an empty list where there is none, undefined without the column. */
    at(name, row) {
      if (!this.has(name)) return undefined;
      const column = this.column(name);
      return ArrayBuffer.isView(column) || Array.isArray(column) ? column[row] : column.at(row);
    }

    get length() {
      const first = Object.keys(this.columns).find(
        (name) => typeof this.columns[name] === "string",
      );
      return first === undefined ? 0 : this.column(first).length;
    }
  }

  /* Lists of whole numbers, one of each latent from `first` on; see lists.py. */
  class Lists {
    constructor(file) {
      this.file = file;
      this.read = {};
    }

    at(name, latent) {
      const list = (this.read[name] ||= {
        ends: unpack(this.file[name].ends),
        bytes: unpack(this.file[name].bytes),
      });
      const row = latent - this.file.first;
      return varints(list.bytes, row ? list.ends[row - 1] : 0, list.ends[row]);
    }
  }

  function varints(bytes, start, end) {
    const found = [];
    let value = 0;
    let factor = 1;
    for (let n = start; n < end; n++) {
      value += (bytes[n] & 127) * factor;
      if (bytes[n] & 128) {
        factor *= 128;
      } else {
        found.push(value);
        value = 0;
        factor = 1;
      }
    }
    return found;
  }

  /* Gaps to the numbers themselves. */
  function summed(gaps) {
    let sum = 0;
    return Uint32Array.from(gaps, (gap) => (sum += gap));
  }

  Object.assign(atlas, { unpack, Table, Lists, summed });
})();
