# Answers to the exercises of chapter 8: see 01_patches.py.

# %% right, summarise, numpy
def summarise(results):
    import numpy as np
    return {k: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else np.nan, len(v)) for k, v in results.items()}

# %% right, summarise, torch
def summarise(results):
    import torch
    t = {k: torch.tensor(v, dtype=torch.float64) for k, v in results.items()}
    return {k: (v.mean().item(), v.std().item() if len(v) > 1 else float('nan'), len(v)) for k, v in t.items()}

# %% right, interval, scipy's test
def interval(a, b, level=0.95):
    from scipy.stats import ttest_rel
    mean = sum(a)/len(a) - sum(b)/len(b)
    if len(a) < 2: return [mean, float('nan'), float('nan')]
    ends = ttest_rel(a, b).confidence_interval(level)
    return [mean, float(ends.low), float(ends.high)]

# %% wrong, summarise, variance over n
def summarise(results):
    import numpy as np
    return {k: (float(np.mean(v)), float(np.std(v)) if len(v) > 1 else np.nan, len(v)) for k, v in results.items()}

# %% wrong, summarise, standard error
def summarise(results):
    import numpy as np
    return {k: (float(np.mean(v)), float(np.std(v, ddof=1)/len(v)**.5) if len(v) > 1 else np.nan, len(v)) for k, v in results.items()}

# %% wrong, summarise, no spread for one seed is 0
def summarise(results):
    import numpy as np
    return {k: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0., len(v)) for k, v in results.items()}

# %% wrong, summarise, median
def summarise(results):
    import statistics as s
    return {k: (s.median(v), s.stdev(v) if len(v) > 1 else float('nan'), len(v)) for k, v in results.items()}

# %% wrong, summarise, best seed
def summarise(results):
    import statistics as s
    return {k: (max(v), s.stdev(v) if len(v) > 1 else float('nan'), len(v)) for k, v in results.items()}

# %% wrong, summarise, sorted
def summarise(results):
    import statistics as s
    return {k: (s.mean(v), s.stdev(v) if len(v) > 1 else float('nan'), len(v)) for k, v in sorted(results.items(), key=lambda o: -sum(o[1]))}

# %% wrong, interval, not paired
def interval(a, b, level=0.95):
    import statistics as s
    from scipy.stats import t
    n, mean = len(a), s.mean(a) - s.mean(b)
    if n < 2: return mean, float('nan'), float('nan')
    half = t.ppf((1 + level)/2, n - 1)*((s.variance(a) + s.variance(b))/n)**.5
    return mean, mean - half, mean + half

# %% wrong, interval, normal in place of t
def interval(a, b, level=0.95):
    import statistics as s
    d = [x - y for x, y in zip(a, b)]
    if len(d) < 2: return d[0], float('nan'), float('nan')
    half = s.NormalDist().inv_cdf((1 + level)/2)*s.stdev(d)/len(d)**.5
    return s.mean(d), s.mean(d) - half, s.mean(d) + half

# %% wrong, interval, one-sided
def interval(a, b, level=0.95):
    import statistics as s
    from scipy.stats import t
    d = [x - y for x, y in zip(a, b)]
    if len(d) < 2: return d[0], float('nan'), float('nan')
    half = t.ppf(level, len(d) - 1)*s.stdev(d)/len(d)**.5
    return s.mean(d), s.mean(d) - half, s.mean(d) + half

# %% wrong, interval, always 95 %
def interval(a, b, level=0.95):
    import statistics as s
    from scipy.stats import t
    d = [x - y for x, y in zip(a, b)]
    if len(d) < 2: return d[0], float('nan'), float('nan')
    half = t.ppf(.975, len(d) - 1)*s.stdev(d)/len(d)**.5
    return s.mean(d), s.mean(d) - half, s.mean(d) + half

# %% wrong, interval, spread of the seeds and not of their mean
def interval(a, b, level=0.95):
    import statistics as s
    from scipy.stats import t
    d = [x - y for x, y in zip(a, b)]
    if len(d) < 2: return d[0], float('nan'), float('nan')
    half = t.ppf((1 + level)/2, len(d) - 1)*s.stdev(d)
    return s.mean(d), s.mean(d) - half, s.mean(d) + half

# %% wrong, interval, b - a
def interval(a, b, level=0.95):
    import statistics as s
    from scipy.stats import t
    d = [y - x for x, y in zip(a, b)]
    if len(d) < 2: return d[0], float('nan'), float('nan')
    half = t.ppf((1 + level)/2, len(d) - 1)*s.stdev(d)/len(d)**.5
    return s.mean(d), s.mean(d) - half, s.mean(d) + half

# %% wrong, interval, one pair is an error
def interval(a, b, level=0.95):
    import statistics as s
    from scipy.stats import t
    d = [x - y for x, y in zip(a, b)]
    half = t.ppf((1 + level)/2, len(d) - 1)*s.stdev(d)/len(d)**.5
    return s.mean(d), s.mean(d) - half, s.mean(d) + half
