"""Files of a site as a page reads them, in Python and from their description alone."""

import base64
import json
import re
from itertools import pairwise

import numpy as np

TYPES = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "i4": "<i4", "f4": "<f4", "f8": "<f8"}


def content(path):
    """Return what a script hands over, and under which name."""
    text = path.read_bytes().decode("ascii")
    name, data = re.fullmatch(r'atlas\.take\("([\w/]+)",(.*)\);\n', text).groups()
    return name, json.loads(data)


def read(site, name):
    own, found = content(site / f"{name}.js")
    assert own == name
    return found


def unpacked(text):
    return np.frombuffer(base64.b64decode(text[2:], validate=True), TYPES[text[:2]])


def column(encoded):
    """A column as a list, of lists where it holds lists."""
    if isinstance(encoded, str):
        return unpacked(encoded).tolist()
    if isinstance(encoded, list):
        return encoded
    values = column(encoded["values"])
    ends = np.cumsum([0, *column(encoded["sizes"])]).tolist()
    return [values[start:stop] for start, stop in pairwise(ends)]


def table(encoded):
    return {name: column(one) for name, one in encoded.items()}


def varint_lists(encoded):
    """The numbers of each list."""
    data, ends = unpacked(encoded["bytes"]), [0, *column(encoded["ends"])]
    return [varints(data[a:b]) for a, b in pairwise(ends)]


def varints(data):
    found, value, shift = [], 0, 0
    for byte in data.tolist():
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value)
            value = shift = 0
    assert shift == 0
    return found
