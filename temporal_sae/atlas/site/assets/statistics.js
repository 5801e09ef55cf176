"use strict";
/* Statistics of two latents from their counts, as temporal_sae/atlas/statistics.py has them:
   n tokens in which both fire, a and b in which each does, N of all. NaN: there is no value. */
(() => {
  const over = (x, y) => (y === 0 ? NaN : x / y);

  const lift = (n, a, b, N) => over(N * n, a * b);
  const phi = (n, a, b, N) => over(N * n - a * b, Math.sqrt(a * (N - a)) * Math.sqrt(b * (N - b)));

  function npmi(n, a, b, N) {
    if (n === 0) return a > 0 && b > 0 ? -1 : NaN;
    return over(Math.log(lift(n, a, b, N)), -Math.log(n / N));
  }

  atlas.statistics = {
    phi,
    npmi,
    lift,
    jaccard: (n, a, b) => over(n, a + b - n),
    given_j: (n, a, b) => over(n, b),
    given_i: (n, a) => over(n, a),
    z_score: (n, a, b, N) => Math.sqrt(N) * phi(n, a, b, N),
    coverage: (n, expected, b) => over(n - expected, b - expected),
    c_cos2: (n, N, cosine) => (n / N) * cosine ** 2,
  };

  /* The running average of rates after each window, as the tracker moves it: from the first rate
     on, by a share that grows with the count up to `cap`. */
  atlas.runningAverage = (counts, windowSize, { cap, scale }) => {
    let average = NaN;
    return counts.map((count, window) => {
      const rate = count / windowSize;
      const share = window === 0 ? 1 : Math.min(cap, count / scale);
      average = window === 0 ? rate : average + share * (rate - average);
      return average;
    });
  };
})();
