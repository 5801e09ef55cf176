"""The words of docs/study.md that do not come from its tables."""

INTRODUCTION = """# Does co-activation help, and does time?

*Written by `python -m temporal_sae.study report` from the tables in `docs/study/`; the same tables give the
same bytes. `python -m temporal_sae.study run NAME` makes a table.*

The method penalises the overlap of decoder rows, each pair with a weight that its co-activation sets
([Method](method.md)). This page asks which part of that does what it is said to do: the overlap alone, how
active latents are, that they fire together, or how that changes over time. Either answer is a result.

## How it is asked

- **Known truth.** A synthetic world says which features there are, so that what an SAE finds can be counted:
  matching with true directions (MCC), detection (F1), and absorption, where a parent's latent is silent although
  the parent is there ([Evaluation](evaluation.md)). Every seed has a world, a start and an order of rows of its
  own, and all arms of a seed see the same rows.
- **Controls.** Beside joint firing (`co_activation`, and `excess` over what rates predict) stand the rates alone
  (`rates`), the same weights on other pairs of equally frequent latents (`permuted`), and every pair alike
  (`uniform`). Beside the signals of time (`instability`, `stable`, `bursty`, `long_average`) stand their time-free
  counterparts, and the same tracker with the order of its tokens undone (`no order`).
- **The same trials for all.** Every arm is tried at as many weights λ2, on two seeds that count for nothing else.
  The weight that spends the budget is then run on eight other seeds, with a quarter and the double of it.
- **The same cost for all.** A penalty first raises the explained variance and then lowers it. Arms are compared
  where they have lost .01 of it against the plain SAE of the same seed, interpolated along λ2.
- **Fixed beforehand.** Arms, seeds, budget and contrasts are part of a design whose hash was noted before the first
  run. A contrast is called better or worse only if its p value over seeds stays below .05 after Holm's correction
  for all contrasts of its setting; beside it stands the difference that would have been detectable.

What was predicted before looking: at the same cost joint firing beats rates in absorption and not in MCC; the stable
part of co-activation keeps absorption below .05 where the bursty part does not, and leakage of spurious partners
goes the other way round; the tracker's order makes no difference in the stationary world.

## How to run it

```bash
python -m temporal_sae.study run toy hydra/launcher=local
python -m temporal_sae.study report
```

The first command does what is missing and may be stopped and repeated; its runs are sweeps in `multirun/study/`
that `python -m temporal_sae.report compare` reads as any other. The table and the note of the design are in
`docs/study/`; a design that was changed after its first run needs another folder (`--data`).
"""
